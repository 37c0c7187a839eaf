"""One chain of float layers to int8 ones: ranges, rounding and bias, chosen layer by layer.

docs/model-file.md has the arithmetic. What becomes what:

- convolutions of every kind: int8 weights, 8-bit inputs, exact integer sums;
- linear layers: int8 weights alone. Reading weights is what they cost, so their inputs stay float32;
- a first convolution on the picture stays float32: with a few input channels integers win nothing;
- of layers that the caller names inputs stay float32, too, and so do the weights of what is no plain
  convolution: :mod:`edgevae.quantize` names those that would turn the outputs most.

How the numbers are chosen, each layer fed with what the rounded layers before it give:

- the range of each input channel is the one seen and ``ROOM`` more, times the factor of ``CUTS`` that brings
  the output nearest; the integer that stands for 0 is one for all channels, chosen likewise;
- the weights of each output channel fill -127..127, their errors made to cancel: ``quantize_rounding.py``;
- the bias takes up the mean error that is left (Nagel et al. 2019, "Data-free quantization through weight
  equalization and bias correction").

Channels differ by what they hold: where a network starts as principal components
(``training/linear_start.py``), the first is many times as loud as the last. A channel that is quiet on the
calibration frames may be loud on others, and its scale would cut it off: hence ``ROOM``, no range below
``QUIETEST`` of the widest, and :func:`edgevae.quantize.vary`, which widens what calibration sees.
``edgevae quantize`` measures what that costs on frames held out, and prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _core
from .errors import QuantizeError
from .model_file import MAX_TERMS
from .preprocess import FloatArray
from .quantize_rounding import (
    LARGEST,
    Doubles,
    level_before,
    moments,
    nearest,
    rotate_between,
    rounded,
    windows,
)

CUTS = (1.0, 0.9, 0.8, 0.7)
ROOM = 1.2  # ranges reach so much farther than what was seen, before they are cut
QUIETEST = 1 / 64
SEARCH_IMAGES = 16  # on which the cut is chosen
BATCH = 8  # images that go through the engine together

_SMALLEST = float(np.finfo(np.float32).tiny)
_INTEGER_OPS = ("conv2d", "upsample_conv2d", "conv_transpose2d")
# Of a weight as it is stored: the axis of the input channels, and the axes that share a scale.
_AXES = {
    "conv2d": (1, (1, 2, 3)),
    "upsample_conv2d": (2, (2, 3, 4)),
    "conv_transpose2d": (0, (0, 2, 3)),
    "linear": (1, (1,)),
}

Layer = dict[str, Any]
Tensors = dict[str, npt.NDArray[Any]]


class RoundedChain(NamedTuple):
    """A chain with int8 weights.

    Attributes:
        layers: of docs/model-file.md.
        tensors: what they name.
        turns: by how much a layer on integers turns the chain's outputs where all others are exact, 1 -
            cosine at most, by its index.
    """

    layers: list[Layer]
    tensors: Tensors
    turns: dict[int, float]


def quantize_chain(
    chain: str,
    layers: Sequence[Layer],
    tensors: Mapping[str, FloatArray],
    x: FloatArray,
    pool: _core.Pool,
    advance: Callable[[], None],
    *,
    outputs: int | None = None,
    float_inputs: Collection[int] = (),
) -> RoundedChain:
    """An encoder's or decoder's layers with int8 weights.

    Args:
        chain: "encoder" or "decoder"; prefixes the tensors' names.
        layers: of docs/model-file.md, in floating point, without a condition.
        tensors: what they name, float32.
        x: float32 (N, ...), inputs to calibrate on.
        pool: runs the layers.
        advance: called when a layer is done.
        outputs: how many of the chain's first outputs count; None for all.
        float_inputs: indices of convolutions of any kind whose inputs stay float32.

    Raises:
        QuantizeError: a layer gives NaN or infinity.
    """
    tensors = rotate_between(layers, tensors)
    linear = [index for index, layer in enumerate(layers) if layer["op"] == "linear"]
    tensors = level_before(layers, tensors, [*linear, *float_inputs])
    turns: dict[int, float] = {}
    exact = given = x
    out: list[Layer] = []
    kept: Tensors = {}
    for group in _with_activations(layers):
        layer, index = group[0], len(out)
        wanted = _run(group, tensors, exact, pool)
        if not np.isfinite(wanted).all():
            raise QuantizeError(
                f"{chain}[{index}] ({layer['op']}) gives NaN or infinity on the calibration frames, wanted "
                "finite numbers; 'edgevae info' shows the model, its training may have diverged."
            )
        first = not any("weight" in done for done in out)
        mode = _mode(layer, tensors, on_picture=first and chain == "encoder")
        if mode == "integer" and index in float_inputs:
            mode = "weights" if layer["op"] == "conv2d" else "float"
        if mode == "float":
            names = {key: layer[key] for key in ("weight", "bias") if layer.get(key) is not None}
            new, named = dict(layer), {key: tensors[name] for key, name in names.items()}
            exact, given = wanted, _run(group, tensors, given, pool)
        else:
            bias = None if layer["bias"] is None else tensors[layer["bias"]]
            step = _Rounded(layer, tensors[layer["weight"]], bias)
            if mode == "integer":
                step.choose_range(group, given, wanted, pool)
            step.cancel_errors(given)
            step.correct_bias(_run([layer], tensors, exact, pool), given, pool)
            new, named = step.stored()
            if mode == "integer":
                some = slice(None, None, -(-len(x) // SEARCH_IMAGES))
                rest = layers[index + len(group) :]
                ends = [wanted[some], step.run(group, exact[some], pool)]
                if rest:
                    ends = [_run(rest, tensors, end, pool) for end in ends]
                turns[index] = _turn(*(end.reshape(len(end), -1)[:, :outputs] for end in ends))
            exact, given = wanted, step.run(group, given, pool)
        for key, tensor in named.items():
            new[key] = f"{chain}.{index}.{key}"
            kept[new[key]] = tensor
        out += [new, *group[1:]]
        advance()
    return RoundedChain(out, kept, turns)


def steps(layers: Sequence[Layer]) -> int:
    """How often :func:`quantize_chain` calls ``advance``."""
    return len(_with_activations(layers))


def _turn(wanted: FloatArray, got: FloatArray) -> float:
    """1 - cosine at most, between rows."""
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.max(1 - (a * b).sum(1) / np.maximum(lengths, _SMALLEST)))


def _with_activations(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The chain cut into layers, each with the activations behind it: what the engine computes in one go."""
    groups: list[list[Layer]] = []
    for layer in layers:
        if layer["op"] == "activation" and groups:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


def _mode(layer: Layer, tensors: Mapping[str, FloatArray], *, on_picture: bool) -> str:
    """ "integer" (weights and input), "weights" or "float"."""
    if layer["op"] == "linear":
        return "weights"
    if layer["op"] not in _INTEGER_OPS or (on_picture and layer["op"] == "conv2d"):
        return "float"
    o, i, kh, kw = tensors[layer["weight"]].shape
    inputs = o if layer["op"] == "conv_transpose2d" else i
    terms = inputs * (4 if layer["op"] == "upsample_conv2d" else kh * kw)
    return "integer" if terms <= MAX_TERMS else "float"


def _run(
    group: Sequence[Layer], tensors: Mapping[str, npt.NDArray[Any]], x: FloatArray, pool: _core.Pool
) -> FloatArray:
    """Layers on the engine, (N, ...) to (N, ...)."""
    network = _core.Network(list(group), dict(tensors), x.shape[1:], 0, pool, "", "fp32")
    return np.concatenate([network.run(x[at : at + BATCH]) for at in range(0, len(x), BATCH)])


def phases(weight: FloatArray) -> FloatArray:
    """The kernels (4, O, I, 2, 2) of upsampling by 2 and a 3x3 convolution (O, I, 3, 3) in one.

    Kernel 2 * py + px makes the output pixels (2 i + py, 2 j + px) from the input rows i - 1 + py and i + py
    and the columns j - 1 + px and j + px. Of the taps a, b, c in one dimension, phase 0 has (a, b + c) and
    phase 1 has (a + b, c).
    """
    a, b, c = (weight[:, :, ky] for ky in range(3))
    rows = (np.stack([a, b + c], 2), np.stack([a + b, c], 2))
    kernels = []
    for kernel in rows:
        a, b, c = (kernel[..., kx] for kx in range(3))
        kernels += [np.stack([a, b + c], 3), np.stack([a + b, c], 3)]
    return np.stack(kernels)


def quantize_input(x: FloatArray, scale: FloatArray, zero: int) -> npt.NDArray[np.uint8]:
    """What an integer layer reads: ``clamp(rint(x / scale) + zero, 0, 255)``, NaN as ``zero``.

    Args:
        x: float32 (N, I, ...).
        scale: float32 (I,).
        zero: 0..255.
    """
    inverse = (np.float32(1) / scale).reshape(-1, *[1] * (x.ndim - 2))
    steps = np.nan_to_num(np.rint(x * inverse), nan=0.0)
    return np.clip(steps + np.float32(zero), 0, 255).astype(np.uint8)


class _Rounded:
    """One layer with int8 weights, computed by the float engine from the rounded numbers.

    Its sums differ from exact ones by float32's rounding, far below that to 8 bits.
    """

    def __init__(self, layer: Layer, weight: FloatArray, bias: FloatArray | None) -> None:
        self.layer = layer
        self.weight = phases(weight) if layer["op"] == "upsample_conv2d" else weight
        self.inputs, self.covered = _AXES[layer["op"]]
        outputs = weight.shape[1 if layer["op"] == "conv_transpose2d" else 0]
        self.bias = np.zeros(outputs, np.float32) if bias is None else bias.copy()
        self.input_scale: FloatArray | None = None
        self.input_zero = 0
        self._round()

    def choose_range(
        self, group: Sequence[Layer], x: FloatArray, wanted: FloatArray, pool: _core.Pool
    ) -> None:
        """Set scales and zero of the input to those whose output on ``x`` is nearest to ``wanted``."""
        others = (0, *range(2, x.ndim))
        low, high = (ROOM * np.asarray(bound(others, initial=0), np.float64) for bound in (x.min, x.max))
        some = slice(None, None, -(-len(x) // SEARCH_IMAGES))

        def error(zero: int, cut: float) -> float:
            self._set_range(cut * low, cut * high, zero)
            off = np.subtract(self.run(group, x[some], pool), wanted[some], dtype=np.float64)
            return float(np.mean(np.square(off)))

        zero = min(_zeros(low, high), key=lambda zero: error(zero, 1.0))
        cut = min(CUTS, key=lambda cut: error(zero, cut))
        self._set_range(cut * low, cut * high, zero)

    def cancel_errors(self, x: FloatArray) -> None:
        """Round the weights anew, for inputs like ``x``."""
        op, weight, scale, out = self.layer["op"], self._on_input(), self.weight_scale, self.rounded
        if self.input_scale is not None:
            x = self._read(x)
        if op == "linear":
            _cancel(weight, scale, out, [x])
        elif op == "conv2d":
            _cancel(weight, scale, out, self._windows(x, 0))
        elif op == "upsample_conv2d":
            for phase in range(4):
                _cancel(weight[phase], scale[phase], out[phase], self._windows(x, phase))
        else:  # each pixel of a transposed kernel by itself
            last = (1, 2, 3, 0)
            pixels = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
            _cancel(weight.transpose(last), scale.transpose(last), out.transpose(last), [pixels])

    def correct_bias(self, wanted: FloatArray, x: FloatArray, pool: _core.Pool) -> None:
        """Move the bias so that each output channel has the mean of ``wanted``, the float layer's output."""
        error = np.subtract(wanted, self.run([self.layer], x, pool), dtype=np.float64)
        self.bias += error.mean((0, *range(2, error.ndim))).astype(np.float32)

    def run(self, group: Sequence[Layer], x: FloatArray, pool: _core.Pool) -> FloatArray:
        """The layer and its activations, (N, ...) to (N, ...)."""
        if self.input_scale is not None:
            x = self._read(x)
        weight = self.rounded * self.weight_scale
        layer = {**self.layer, "weight": "weight", "bias": "bias"}
        if layer["op"] != "upsample_conv2d":
            return _run([layer, *group[1:]], {"weight": weight, "bias": self.bias}, x, pool)
        # The four phases as the channels of one 3x3 convolution, whose pixels are then interleaved.
        _, o, i = weight.shape[:3]
        wide = np.zeros((2, 2, o, i, 3, 3), np.float32)
        for py in range(2):
            for px in range(2):
                wide[py, px, :, :, py : py + 2, px : px + 2] = weight[2 * py + px]
        layer |= {"op": "conv2d", "stride": 1, "padding": 1}
        named = {"weight": wide.reshape(4 * o, i, 3, 3), "bias": np.tile(self.bias, 4)}
        y = _run([layer, *group[1:]], named, x, pool)
        n, _, h, w = y.shape
        pixels = y.reshape(n, 2, 2, o, h, w).transpose(0, 3, 4, 1, 5, 2)
        return np.ascontiguousarray(pixels).reshape(n, o, 2 * h, 2 * w)

    def stored(self) -> tuple[Layer, Tensors]:
        """The layer as the model file has it, and its tensors by key."""
        scale = self.weight_scale.reshape((4, -1) if self.layer["op"] == "upsample_conv2d" else -1)
        named: Tensors = {"weight": self.rounded, "weight_scale": scale, "bias": self.bias}
        if self.input_scale is None:
            return dict(self.layer), named
        return {**self.layer, "input_zero": self.input_zero}, {**named, "input_scale": self.input_scale}

    def _set_range(self, low: Doubles, high: Doubles, zero: int) -> None:
        """``low`` and ``high`` (I,), which 0 lies between."""
        scale = np.maximum(high / max(255 - zero, 1), -low / max(zero, 1))
        scale = np.maximum(scale, QUIETEST * scale.max())
        self.input_scale = np.where(scale > 0, np.maximum(scale, _SMALLEST), 1.0).astype(np.float32)
        self.input_zero = zero
        self._round()

    def _read(self, x: FloatArray) -> FloatArray:
        """The integers that weights are multiplied with, as float32."""
        assert self.input_scale is not None
        q = quantize_input(x, self.input_scale, self.input_zero)
        return q.astype(np.float32) - np.float32(self.input_zero)

    def _on_input(self) -> FloatArray:
        """Weights for what ``_read`` gives."""
        if self.input_scale is None:
            return self.weight
        return self.weight * self.input_scale.reshape(-1, *[1] * (self.weight.ndim - self.inputs - 1))

    def _round(self) -> None:
        """Each weight to the nearest integer."""
        weight = self._on_input()
        largest = np.abs(weight).max(self.covered, keepdims=True)
        scale = np.where(largest > 0, np.maximum(largest / LARGEST, _SMALLEST), 1.0).astype(np.float32)
        self.weight_scale: FloatArray = scale
        self.rounded = nearest(weight / scale)

    def _windows(self, x: FloatArray, phase: int) -> Iterator[FloatArray]:
        """What a convolution, or a phase of an upsampling one, multiplies."""
        mode = self.layer["padding_mode"]
        if self.layer["op"] == "upsample_conv2d":
            down, right = divmod(phase, 2)
            return windows(x, (2, 2), 1, ((1 - down, down), (1 - right, right)), mode)
        kernel, around = self.weight.shape[2:], (self.layer["padding"],) * 2
        return windows(x, (kernel[0], kernel[1]), self.layer["stride"], (around, around), mode)


def _cancel(
    weight: FloatArray, scale: FloatArray, out: npt.NDArray[np.int8], inputs: Iterable[FloatArray]
) -> None:
    """Round ``weight`` into ``out``; ``inputs`` (n, T) are what its last axes are multiplied with."""
    products = moments(inputs)
    if products is not None:
        scale = np.broadcast_to(scale, weight.shape).reshape(-1, len(products))[:, 0]
        out[...] = rounded(weight.reshape(-1, len(products)), scale, products).reshape(out.shape)


def _zeros(low: Doubles, high: Doubles) -> list[int]:
    """Integers that may stand for 0: what would suit some channels (I,) and the widest range."""
    span = high - low
    if not span.any():
        return [0]
    suits = 255 * -low[span > 0] / span[span > 0]
    widest = 255 * -low.min() / (high.max() - low.min())
    return sorted({int(np.rint(zero)) for zero in (widest, *np.quantile(suits, (0.1, 0.5, 0.9)))})
