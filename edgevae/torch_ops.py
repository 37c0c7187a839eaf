"""``torch.ops.edgevae``: the engine's convolutions as operators of PyTorch; importing this registers them.

    conv_bn_lrelu    y = act(F.batch_norm(F.conv2d(F.pad(x, (p, p, p, p), mode), weight, bias, stride), ...))
    upsample_conv    the same behind F.interpolate(x, scale_factor=2), with a 3x3 kernel and padding 1

BatchNorm is that of evaluation: by running statistics. Weights are folded with it and packed for the kernels
at the first call, and again when one of the tensors has changed; a tensor that is gone takes its packed
weights along. Gradients are those of PyTorch's own formula, which backward runs anew.

Imports torch; nothing that ``import edgevae`` loads imports this file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from . import _core
from .errors import DeviceError, EdgevaeError
from .torch_layers import float64, folded

_TENSORS = (
    "Tensor x, Tensor weight, Tensor? bias=None, Tensor? running_mean=None, Tensor? running_var=None, "
    "Tensor? norm_weight=None, Tensor? norm_bias=None, *, float eps=1e-05"
)
_END = "float slope=0.01, bool? channels_last=None) -> Tensor"
_SCHEMAS = (
    f"conv_bn_lrelu({_TENSORS}, int stride=1, int padding=0, str padding_mode='zeros', "
    f"str activation='leaky_relu', {_END}",
    f"upsample_conv({_TENSORS}, str padding_mode='zeros', str activation='none', {_END}",
)
# What an operator's call leaves unsaid, beside the defaults of Arguments.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "conv_bn_lrelu": {"activation": "leaky_relu"},
    "upsample_conv": {"padding": 1, "upsample": True},
}
_ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda y, slope: y,
    "relu": lambda y, slope: F.relu(y),
    "leaky_relu": F.leaky_relu,
    "tanh": lambda y, slope: torch.tanh(y),
    "sigmoid": lambda y, slope: torch.sigmoid(y),
    "softplus": lambda y, slope: F.softplus(y),
}


class Arguments(NamedTuple):
    """A call of either operator.

    Attributes:
        x: (N, I, h, w), in any memory layout. The engine computes float32, on CUDA devices float16 too;
            PyTorch computes other types of numbers.
        weight: (O, I, kh, kw).
        bias, running_mean, running_var, norm_weight, norm_bias: (O,) or None. Without running statistics
            there is no BatchNorm, without the last two it is not affine.
        eps: of BatchNorm.
        stride, padding: the same in both directions; the padding is less than the kernel.
        padding_mode: "zeros" or "replicate".
        activation: "none", "relu", "leaky_relu", "tanh", "sigmoid" or "softplus".
        slope: of leaky_relu, for negative numbers.
        channels_last: give that memory layout, or the plain one; None gives the one that x has.
        upsample: double x first, by nearest neighbour.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    eps: float = 1e-5
    stride: int = 1
    padding: int = 0
    padding_mode: str = "zeros"
    activation: str = "none"
    slope: float = 0.01
    channels_last: bool | None = None
    upsample: bool = False

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self[:7]

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the result."""
        last = self.channels_last
        if last is None:  # one channel or one pixel is laid out both ways, and counts as plain
            last = self.x.is_contiguous(memory_format=torch.channels_last) and not self.x.is_contiguous()
        return torch.channels_last if last else torch.contiguous_format

    def output_shape(self) -> list[int]:
        """(N, O, h, w) of the result.

        Raises:
            EdgevaeError: an argument does not fit the others.
        """
        if self.x.dim() != 4 or self.weight.dim() != 4 or self.x.shape[1] != self.weight.shape[1]:
            raise EdgevaeError(
                f"x is {tuple(self.x.shape)} and weight {tuple(self.weight.shape)}, wanted (N, I, h, w) and "
                "(O, I, kh, kw)."
            )
        outputs, _, *kernel = self.weight.shape
        if self.upsample and kernel != [3, 3]:
            raise EdgevaeError(
                f"weight is {tuple(self.weight.shape)}, wanted (O, I, 3, 3) behind upsampling."
            )
        for name, tensor in zip(self._fields[2:7], self.tensors[2:], strict=True):
            if tensor is not None and tuple(tensor.shape) != (outputs,):
                raise EdgevaeError(f"{name} is {tuple(tensor.shape)}, wanted ({outputs},).")
        if (self.running_mean is None) != (self.running_var is None):
            raise EdgevaeError("one of running_mean and running_var is None, wanted both or neither.")
        if self.running_mean is None and not (self.norm_weight is None and self.norm_bias is None):
            raise EdgevaeError("norm_weight or norm_bias is given without running_mean and running_var.")
        for tensor in self.tensors[1:]:
            if tensor is not None and tensor.device != self.x.device:
                raise EdgevaeError(
                    f"x is on {self.x.device} and a weight on {tensor.device}, wanted one device; move the "
                    "module or x with .to()."
                )
        if self.padding_mode not in ("zeros", "replicate"):
            raise EdgevaeError(f"padding_mode is {self.padding_mode!r}, wanted zeros or replicate.")
        if self.activation not in _ACTIVATIONS:
            raise EdgevaeError(f"activation is {self.activation!r}, wanted one of {', '.join(_ACTIVATIONS)}.")
        if self.stride < 1 or not 0 <= self.padding < min(kernel):
            raise EdgevaeError(
                f"stride is {self.stride} and padding {self.padding}, wanted at least 1, and from 0 to less "
                f"than the kernel's {min(kernel)}."
            )
        factor = 2 if self.upsample else 1
        sizes = [factor * size + 2 * self.padding for size in self.x.shape[2:]]
        if any(size < taps for size, taps in zip(sizes, kernel, strict=True)):
            raise EdgevaeError(f"x is {tuple(self.x.shape)}, too small for a kernel {tuple(kernel)}.")
        return [
            self.x.shape[0],
            outputs,
            *((size - taps) // self.stride + 1 for size, taps in zip(sizes, kernel, strict=True)),
        ]

    def in_pytorch(self) -> Tensor:
        """The definition, in PyTorch's own operators: what backward differentiates."""
        x, *rest = self.tensors
        weight, bias, mean, var, gamma, beta = (t if t is None else t.to(self.x.dtype) for t in rest)
        assert x is not None
        assert weight is not None
        if self.upsample:
            x = F.interpolate(x, scale_factor=2.0)
        if self.padding_mode == "replicate" and self.padding > 0:
            y = F.conv2d(F.pad(x, (self.padding,) * 4, mode="replicate"), weight, bias, self.stride)
        else:
            y = F.conv2d(x, weight, bias, self.stride, self.padding)
        if mean is not None and var is not None:
            # F.batch_norm has no gradients for its statistics.
            scale = (var + self.eps).rsqrt()
            scale = scale if gamma is None else scale * gamma
            shift = -mean * scale if beta is None else beta - mean * scale
            y = y * scale[:, None, None] + shift[:, None, None]
        return _ACTIVATIONS[self.activation](y, self.slope)

    def folded(self) -> tuple[np.ndarray[Any, np.dtype[np.float32]], ...]:
        """Weight and bias with BatchNorm in them, float32 in main memory; folded in float64, rounded once."""
        weight = float64(self.weight)
        bias = None if self.bias is None else float64(self.bias)
        if self.running_mean is not None and self.running_var is not None:
            statistics = (self.running_mean, self.running_var, self.norm_weight, self.norm_bias)
            mean, var, gamma, beta = (None if t is None else float64(t) for t in statistics)
            assert mean is not None
            assert var is not None
            weight, bias = folded(weight, bias, self.eps, mean, var, gamma, beta)
        elif bias is None:
            bias = np.zeros(len(weight))
        return weight.astype(np.float32), bias.astype(np.float32)

    def layers(self) -> list[dict[str, Any]]:
        """The operator as the engine's layers, with the tensors "weight" and "bias"."""
        conv: dict[str, Any] = {"op": "conv2d", "stride": self.stride, "padding": self.padding}
        if self.upsample:
            conv = {"op": "upsample_conv2d"}
        conv |= {"weight": "weight", "bias": "bias", "padding_mode": self.padding_mode}
        act = {"op": "activation", "kind": self.activation, "slope": self.slope}
        return [conv] if self.activation == "none" else [conv, act]


# --- packed weights -------------------------------------------------------------------------------


class _Packed(NamedTuple):
    of: tuple[TensorWeakRef | None, ...]
    versions: tuple[tuple[int, int] | None, ...]
    statistics: tuple[Tensor, ...]
    kernel: Any


# By weight, and within by all else that shapes the packed weights.
_packed: Any = WeakTensorKeyDictionary()
_MOST = 8  # kept for one weight: as many sizes of image, or norms, as it meets in turn
# What CUDA graphs have captured, for as long as its weight lives: a replay reads it without asking.
_captured: Any = WeakTensorKeyDictionary()


def _kernel(a: Arguments, make: Callable[[], Any], precision: str = "fp32") -> Any:
    """What ``make`` gives, made once for tensors as they are now."""
    tensors = a.tensors[1:]
    if any(t is not None and t.is_inference() for t in tensors):
        return make()  # such tensors change without a trace
    versions = tuple(None if t is None else (t._version, t.data_ptr()) for t in tensors)
    # BatchNorm in training changes its statistics behind the version counter. Looking at them on a device
    # would wait for it; there they have to be forgotten.
    looked_at = [t for t in (a.running_mean, a.running_var) if t is not None and t.device.type == "cpu"]
    key = (a.x.shape[1:], a.x.device, precision, tuple(map(id, tensors)), a[7:13])
    kept: dict[Any, _Packed] = _packed.setdefault(a.weight, {})
    found = kept.get(key)
    if (
        found is not None
        and found.versions == versions
        and all(ref is None or ref() is t for ref, t in zip(found.of, tensors, strict=True))
        and all(map(torch.equal, found.statistics, looked_at))
    ):
        return found.kernel
    kept.pop(key, None)
    while len(kept) >= _MOST:
        del kept[next(iter(kept))]
    refs = tuple(None if t is None else TensorWeakRef(t) for t in tensors)
    kept[key] = _Packed(refs, versions, tuple(t.detach().clone() for t in looked_at), make())
    return kept[key].kernel


def forget(weight: Tensor) -> None:
    """Have ``weight`` packed anew at its next use, for tensors that changed without a trace."""
    _packed.pop(weight, None)


# --- the operators --------------------------------------------------------------------------------


def _fake(a: Arguments) -> Tensor:
    return a.x.new_empty(a.output_shape()).contiguous(memory_format=a.memory_format)


def _on_cpu(a: Arguments) -> Tensor:
    shape = a.output_shape()
    if a.x.dtype != torch.float32:
        return a.in_pytorch().contiguous(memory_format=a.memory_format)

    def pack() -> _core.Convolution:
        weight, bias = a.folded()
        return _core.Convolution(a.layers(), {"weight": weight, "bias": bias}, list(a.x.shape[1:]))

    y = torch.empty(shape, memory_format=torch.channels_last)
    kernel = _kernel(a, pack)
    kernel.run(_pixels(a.x), _pixels(y), _pool(torch.get_num_threads()))
    return y.contiguous(memory_format=a.memory_format)


def _on_cuda(a: Arguments) -> Tensor:
    if not _core.cuda_build:
        raise DeviceError(
            "this build of edgevae has no CUDA kernels; build it where nvcc is found, or move the module and "
            "its input with .cpu()."
        )
    return _launched(a, a.x.device.index, torch.cuda.current_stream(a.x.device).cuda_stream)


def _launched(a: Arguments, device: int, stream: int) -> Tensor:
    """The result, on its way in the order of a stream (its ``cudaStream_t`` as a number)."""
    shape = a.output_shape()
    precision = {torch.float16: "fp16", torch.float32: _float32_precision()}.get(a.x.dtype)
    if precision is None:
        return a.in_pytorch().contiguous(memory_format=a.memory_format)

    def pack() -> _core.CudaConvolution:
        weight, bias = a.folded()
        tensors = {"weight": weight, "bias": bias}
        return _core.CudaConvolution(a.layers(), tensors, list(a.x.shape[1:]), _session(device), precision)

    y = a.x.new_empty(shape).contiguous(memory_format=torch.channels_last)
    if y.numel() > 0:
        x = a.x.contiguous(memory_format=torch.channels_last)
        if x.data_ptr() % 16 > 0:  # the kernels read 16 bytes at a time
            x = x.clone(memory_format=torch.channels_last)
        kernel = _kernel(a, pack, precision)
        if a.x.is_cuda and torch.cuda.is_current_stream_capturing():
            _captured.setdefault(a.weight, []).append(kernel)
        workspace = a.x.new_empty(kernel.workspace_bytes(shape[0]), dtype=torch.uint8)
        kernel.run(shape[0], x.data_ptr(), y.data_ptr(), workspace.data_ptr(), stream)
    return y.contiguous(memory_format=a.memory_format)


def _float32_precision() -> str:
    """How PyTorch would have its own convolutions multiply float32."""
    if hasattr(torch.backends.cudnn, "conv"):  # from PyTorch 2.9 on
        return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "fp32"
    return "tf32" if torch.backends.cudnn.allow_tf32 else "fp32"


@functools.cache
def _session(device: int) -> _core.CudaSession:
    return _core.CudaSession(device)


def _pixels(x: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, h, w, C), dense: a view where ``x`` is laid out so."""
    x = x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    array: np.ndarray[Any, np.dtype[np.float32]] = x.numpy()
    return array


@functools.cache
def _pool(threads: int) -> _core.Pool:
    return _core.Pool(threads)


def _remember(ctx: Any, inputs: Any, keyword_only_inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.options = keyword_only_inputs


def _gradients(name: str, ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that a weight that x itself was made from is differentiated as this call's weight alone.
        inputs: list[Tensor | None] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
        wanted = {i: t for i, t in enumerate(inputs) if t is not None and ctx.needs_input_grad[i]}
        y = _arguments(name, *inputs, **ctx.options).in_pytorch()
        found = torch.autograd.grad(y, list(wanted.values()), gradient, create_graph=create_graph)
    gradients = dict(zip(wanted, found, strict=True))
    return tuple(gradients.get(i) for i in range(len(inputs)))


def _arguments(name: str, *args: Any, **kwargs: Any) -> Arguments:
    return Arguments(*args, **{**_DEFAULTS[name], **kwargs})


def _register() -> torch.library.Library:
    library = torch.library.Library("edgevae", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    for name in _DEFAULTS:

        def calling(run: Callable[[Arguments], Tensor], name: str = name) -> Callable[..., Tensor]:
            return lambda *args, **kwargs: run(_arguments(name, *args, **kwargs))

        library.impl(name, calling(_on_cpu), "CPU")  # type: ignore[no-untyped-call]
        library.impl(name, calling(_on_cuda), "CUDA")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"edgevae::{name}", calling(_fake), lib=library)
        torch.library.register_autograd(
            f"edgevae::{name}", functools.partial(_gradients, name), setup_context=_remember, lib=library
        )
    return library


_library = _register()
