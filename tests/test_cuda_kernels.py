"""Convolutions on a device against PyTorch in float64: on a GPU, or on the processor in an emulated build.

The emulator runs threads, blocks and copies in an order drawn by a seed; outputs begin as NaN, and whatever
lies behind them must stay (CudaKernels checks that, and that a second run gives the same bits).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from activations import ACTIVATIONS
from cuda_bounds import PRECISIONS, check, rounded, session

from edgevae import _core


@pytest.fixture(scope="module")
def device() -> Any:
    return session()


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def activation_of(kind: str) -> dict[str, Any]:
    if kind == "none":
        return {}
    return {"kind": kind, "slope": 0.2} if kind == "leaky_relu" else {"kind": kind}


def check_layer(
    got: np.ndarray,
    layer: Any,
    args: list[np.ndarray],
    kind: str,
    precision: str,
    floats: bool,
    products: int,
) -> None:
    """`layer` maps float64 tensors (x, weight, bias) to the sums, NCHW; no activation is steeper than 1."""
    tensors = [torch.tensor(a, dtype=torch.float64) for a in args]
    tensors[0] = tensors[0].permute(0, 3, 1, 2)
    wanted = ACTIVATIONS[kind](layer(*tensors)).permute(0, 2, 3, 1).numpy()
    magnitude = layer(*(t.abs() for t in tensors)).permute(0, 2, 3, 1).numpy()
    # Tensor cores of a device cut bits off sums instead of rounding; its tanh and the like are off by 2^-22.
    check(got, wanted, magnitude + 1, products, precision, halves=precision == "fp16" and not floats, slack=2)


def padded(x: torch.Tensor, padding: int, mode: str) -> torch.Tensor:
    if padding == 0:
        return x
    return F.pad(x, (padding,) * 4, mode="replicate" if mode == "replicate" else "constant")


def run_conv(
    kernels: Any,
    case: tuple[Any, ...],
    precision: str,
    rng: np.random.Generator,
    kind: str = "leaky_relu",
    floats: bool = False,
    outputs: int | None = None,
) -> None:
    n, ic, oc, h, w, k, stride, padding, mode = case
    x = rounded(rng.standard_normal((n, h, w, ic)).astype(np.float32), precision)
    weight, bias = (rng.standard_normal(s).astype(np.float32) for s in [(oc, ic, k, k), (oc,)])
    got = kernels.conv(
        x, weight, bias, stride, padding, mode, activation_of(kind), precision, floats, outputs
    )
    check_layer(
        got,
        lambda x, w, b: F.conv2d(padded(x, padding, mode), w, b, stride),
        [x, weight[:outputs], bias[:outputs]],
        kind,
        precision,
        floats,
        ic * k * k + 1,
    )


CONVS = [  # n, ic, oc, h, w, kernel, stride, padding, mode
    (1, 4, 64, 16, 16, 4, 2, 1, "zeros"),  # a frame: pixels of 8 bytes
    (2, 64, 37, 6, 10, 4, 2, 1, "zeros"),
    (2, 3, 5, 7, 9, 3, 1, 1, "replicate"),
    (1, 1, 1, 1, 1, 1, 1, 0, "zeros"),
    (1, 2, 3, 1, 1, 3, 1, 1, "replicate"),
    (3, 17, 33, 5, 4, 3, 2, 1, "replicate"),
    (1, 130, 16, 6, 6, 3, 1, 0, "zeros"),
    (1, 5, 7, 11, 3, 5, 3, 2, "replicate"),
    (1, 16, 65, 1, 40, 1, 2, 0, "zeros"),
    (5, 24, 40, 9, 7, 3, 1, 1, "replicate"),
]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv2d(device: Any, case: tuple[Any, ...], precision: str, rng: np.random.Generator) -> None:
    run_conv(_core.CudaKernels(device), case, precision, rng)


# One multiprocessor gets the largest tile that its shared memory holds, and many get the smallest.
TILES = [  # multiprocessors, KiB, pixels and channels of a block
    (1, 144, (256, 128)),
    (1, 96, (128, 128)),
    (1, 72, (128, 64)),
    (1, 64, (64, 64)),
    (1, 48, (32, 64)),
    (132, 48, (16, 32)),
]


@pytest.mark.parametrize("ic", [32, 4, 3])  # copied by 16, 8 and 2 bytes in halves, by 16, 16 and 4 in floats
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile(
    device: Any, tile: tuple[int, int, tuple[int, int]], ic: int, precision: str, rng: np.random.Generator
) -> None:
    sms, shared_kib, pixels_and_channels = tile
    case = (1, ic, 127, 15, 17, 3, 1, 1, "zeros")
    kernels = _core.CudaKernels(device, sms=sms, shared_per_block=shared_kib * 1024)
    n, _, oc, h, w, k, stride, padding, _ = case
    planned = kernels.conv_plan(n, h, w, ic, oc, k, stride, padding, precision)[1:3]
    float32 = precision == "fp32" and pixels_and_channels[1] > 64
    whole_chunks = ic * (2 if precision == "fp16" else 4) % 16 == 0
    few_kernels = not whole_chunks and pixels_and_channels not in [(128, 64), (32, 64)]
    if float32 or few_kernels:  # a tile that is not made for this
        assert planned != pixels_and_channels
        return
    assert planned == pixels_and_channels
    run_conv(kernels, case, precision, rng)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("floats", [False, True])
def test_activations(device: Any, kind: str, floats: bool, precision: str, rng: np.random.Generator) -> None:
    run_conv(_core.CudaKernels(device), (1, 16, 24, 4, 4, 3, 1, 1, "zeros"), precision, rng, kind, floats)


LINEARS = [  # n, in, out, outputs
    (1, 400, 100, None),  # a matrix times a vector, 32 threads to a row
    (1, 8200, 40, 33),  # and 128
    (3, 77, 101, 60),
    (4, 4104, 5, None),
    (7, 1024, 70, 69),  # tiles
    (33, 96, 64, None),
]


@pytest.mark.parametrize("case", LINEARS, ids=str)
@pytest.mark.parametrize("floats", [False, True])
def test_linear(
    device: Any, case: tuple[Any, ...], floats: bool, precision: str, rng: np.random.Generator
) -> None:
    n, ins, outs, outputs = case
    run_conv(
        _core.CudaKernels(device),
        (n, ins, outs, 1, 1, 1, 1, 0, "zeros"),
        precision,
        rng,
        "none",
        floats,
        outputs,
    )


TRANSPOSED = [  # n, ic, oc, h, w, kernel, stride, padding, output_padding
    (1, 24, 40, 4, 4, 4, 2, 1, 0),
    (2, 5, 7, 3, 5, 3, 2, 1, 1),  # phases of one and of two taps
    (1, 16, 9, 5, 3, 2, 3, 0, 1),  # and of none
    (1, 64, 64, 2, 3, 5, 1, 2, 0),
    (2, 8, 3, 3, 4, 3, 2, 1, 0),  # phases of unequal size
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose2d(
    device: Any, case: tuple[Any, ...], precision: str, rng: np.random.Generator
) -> None:
    n, ic, oc, h, w, k, stride, padding, output_padding = case
    x = rounded(rng.standard_normal((n, h, w, ic)).astype(np.float32), precision)
    weight, bias = (rng.standard_normal(s).astype(np.float32) for s in [(ic, oc, k, k), (oc,)])
    kind = "leaky_relu"
    got = _core.CudaKernels(device).conv_transpose(
        x, weight, bias, stride, padding, output_padding, "zeros", activation_of(kind), precision
    )
    check_layer(
        got,
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride, padding, output_padding),
        [x, weight, bias],
        kind,
        precision,
        False,
        ic * k * k // stride**2 + 1,
    )


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_merged_taps_of_an_upsampling(
    device: Any, mode: str, precision: str, rng: np.random.Generator
) -> None:
    """Nearest upsampling and a 3x3 convolution, as a transposed convolution with a 4x4 kernel."""
    n, ic, oc, h, w = 1, 24, 10, 3, 5
    x = rounded(rng.standard_normal((n, h, w, ic)).astype(np.float32), precision)
    # Small integers: sums of taps are halves, too.
    weight = rng.integers(-8, 9, (oc, ic, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(oc).astype(np.float32)
    # Of an output row of phase 0, taps 0 and 1 + 2 lie on the rows before and at it; of phase 1, 0 + 1 and 2.
    merge = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
    merged = np.zeros((ic, oc, 4, 4), np.float32)
    for py, px, ty, tx in np.ndindex(2, 2, 2, 2):
        taps = np.einsum("oiyx,y,x->io", weight, merge[py, ty], merge[px, tx])
        merged[:, :, 3 - py - 2 * ty, 3 - px - 2 * tx] = taps
    got = _core.CudaKernels(device).conv_transpose(x, merged, bias, 2, 1, 0, mode, {}, precision)
    check_layer(
        got,
        lambda x, w, b: F.conv2d(padded(F.interpolate(x, scale_factor=2), 1, mode), w, b),
        [x, weight, bias],
        "none",
        precision,
        False,
        ic * 9,
    )


def test_turing_multiplies_float32_where_others_have_tf32(device: Any, rng: np.random.Generator) -> None:
    turing = _core.CudaKernels(device, compute=75, shared_per_block=64 * 1024)
    assert turing.conv_plan(1, 12, 12, 32, 136, 3, 1, 1, "tf32")[0] == "fp32"
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in [(1, 5, 5, 12), (9, 12, 3, 3)])
    weight = (weight.view(np.uint32) & 0xFFFFE000).view(np.float32)  # as TF32 has them
    results = [turing.conv(x, weight, weight[:, 0, 0, 0], 1, 1, "zeros", {}, p) for p in ("tf32", "fp32")]
    np.testing.assert_array_equal(*results)


# The encoder of the model that is shipped: one frame shall keep the 132 multiprocessors of an H200 busy.
ENCODER = [  # ih, ic, oc, kernel, stride, padding
    (128, 4, 64, 4, 2, 1),
    (64, 64, 128, 4, 2, 1),
    (32, 128, 256, 4, 2, 1),
    (16, 256, 512, 4, 2, 1),
    (8, 512, 512, 4, 2, 1),
    (1, 8192, 800, 1, 1, 0),
]


@pytest.mark.parametrize("layer", ENCODER, ids=str)
def test_one_frame_fills_a_large_device(device: Any, layer: tuple[int, ...]) -> None:
    size, ic, oc, kernel, stride, padding = layer
    h200 = _core.CudaKernels(device, sms=132, shared_per_block=227 * 1024, compute=90)
    *_, blocks = h200.conv_plan(1, size, size, ic, oc, kernel, stride, padding, "fp16")
    assert blocks >= 0.9 * 132


RACE = r"""
#include <cstdio>
#include "cuda_device.cuh"
using namespace edgevae::cuda;

// Each thread reads what another one stored, and what a cp.async of its own brought.
template <bool kBarrier, bool kAwait>
__global__ void turn(const float* x, float* y) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  const unsigned t = threadIdx.x, n = blockDim.x;
  copy_async<4>(shared + n + t, x + t, true);
  close_copies();
  shared[t] = x[t];
  if (kAwait) await_copies<0>();
  if (kBarrier) __syncthreads();
  y[blockIdx.x * n + t] = shared[(t + 33) % n] + shared[n + t];
}

int wrong(void (*kernel)(const float*, float*)) {
  static float x[128], y[4 * 128];
  for (int i = 0; i < 128; ++i) x[i] = static_cast<float>(i);
  launch({0, 132, 90, 232448}, kernel, dim3(4), 128, 2 * sizeof x, nullptr, static_cast<const float*>(x), y);
  cudaDeviceSynchronize();
  int count = 0;
  for (int i = 0; i < 4 * 128; ++i) count += !(y[i] == x[(i + 33) % 128] + x[i % 128]);
  return count;
}

int main() {
  std::printf("%d %d %d\n", wrong(turn<true, true>), wrong(turn<false, true>), wrong(turn<true, false>));
}
"""


def test_the_emulator_finds_a_missing_barrier_and_a_missing_wait(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    root = Path(__file__).parent.parent
    emulator = root / "tests" / "cuda_emulator"
    source, program = tmp_path / "race.cpp", tmp_path / "race"
    source.write_text(RACE)
    includes = [f"-I{emulator}", f"-I{root / 'csrc'}"]
    command = [compiler, "-std=c++20", *includes, source, *emulator.glob("*.cpp"), "-o", program]
    subprocess.run(command, check=True, capture_output=True)
    told = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    right, no_barrier, no_wait = (int(count) for count in told.split())
    assert right == 0
    assert no_barrier > 0
    assert no_wait > 0
