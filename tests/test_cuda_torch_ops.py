"""torch.ops.edgevae on a CUDA device, or on the emulated build (CONTRIBUTING.md)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from conv_cases import CASES, definition, tensors
from torch import nn

import edgevae
from edgevae import _core, torch_ops
from edgevae.errors import EdgevaeError

# Largest error, over the largest number: half-precision numbers and TF32 have 11 bits, of input, weights and
# (halves) output; float32 differs by the order of its sums.
CLOSE = {"fp16": 2e-3, "tf32": 2e-3, "fp32": 1e-5}


class Carried:
    """The kernel, its images carried to the emulated device and back: PyTorch has no tensors there."""

    kind: Any  # _core.CudaConvolution
    sizes: tuple[int, int]  # bytes of x and y

    def __init__(self, layers: Any, arrays: Any, shape: Any, session: Any, precision: str) -> None:
        self.session = session
        self.kernel = self.kind(layers, arrays, shape, session, precision)

    def workspace_bytes(self, n: int) -> int:
        return self.kernel.workspace_bytes(n)

    def run(self, n: int, x: int, y: int, workspace: int, stream: int) -> None:
        assert stream == 0
        to = [self._on_device(*what) for what in ((self.sizes[0], x), (self.sizes[1], None))]
        space = self._on_device(self.workspace_bytes(n), None) if workspace else None
        places = [0 if a is None else a.__cuda_array_interface__["data"][0] for a in (*to, space)]
        self.kernel.run(n, *places, to[1].__cuda_array_interface__["stream"])
        numbers = to[1].numpy()
        ctypes.memmove(y, numbers.ctypes.data, self.sizes[1])

    def _on_device(self, count: int, address: int | None) -> Any:
        """So many bytes, from an address or of NaN."""
        numbers = np.full(-(-count // 4), np.nan, np.float32)
        if address is not None:
            ctypes.memmove(numbers.ctypes.data, address, count)
        return _core.CudaArray(self.session, numbers)


@pytest.mark.skipif(_core.cuda_build != "emulated", reason="wants the emulated build, see CONTRIBUTING.md")
@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("case", [*CASES, (1, 64, 24, 4, 4, 4, 2, 1, "zeros")], ids=str)
def test_on_the_emulated_device(
    case: tuple[Any, ...], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_ops, "_float32_precision", lambda: precision)
    monkeypatch.setattr(Carried, "kind", _core.CudaConvolution, raising=False)
    monkeypatch.setattr(_core, "CudaConvolution", Carried)
    torch.manual_seed(13)
    args = tensors(case)
    x = args[0]
    assert x is not None
    given = x.half() if precision == "fp16" else x
    options: dict[str, Any] = {"padding_mode": case[8], "stride": case[6], "padding": case[7], "eps": 1e-3}
    options |= {"activation": "leaky_relu", "slope": 0.2, "upsample": case[5] is None}
    wanted, _ = definition(case, [given, *args[1:]])
    monkeypatch.setattr(
        Carried, "sizes", tuple(t.numel() * given.element_size() for t in (given, wanted)), raising=False
    )
    for channels_last in (False, True):
        a = torch_ops.Arguments(given, *args[1:], channels_last=channels_last, **options)
        y = torch_ops._launched(a, 0, 0)
        assert y.dtype == given.dtype
        assert float((y.double() - wanted).abs().max() / wanted.abs().max()) <= CLOSE[precision]
        assert torch.equal(torch_ops._launched(a, 0, 0), y)


@pytest.mark.skipif(
    not torch.cuda.is_available() or not _core.cuda_build, reason="wants a CUDA device, and a build for it"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_on_a_device(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 3, 3, padding=1),
    ).eval()
    fused = edgevae.fuse(net).cuda().to(dtype)
    x = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        wanted = net(x)
        got = fused(x.cuda().to(dtype))
        assert got.is_cuda
        assert got.dtype == dtype
        assert float((got.cpu().float() - wanted).abs().max()) <= 2e-2
        graph = torch.cuda.CUDAGraph()
        image = x.cuda().to(dtype)
        with torch.cuda.graph(graph):
            captured = fused(image)
        image.copy_(torch.randn(2, 3, 16, 24))
        graph.replay()
        assert torch.equal(captured, fused(image))
        with pytest.raises(EdgevaeError, match="wanted one device"):
            fused(x)
