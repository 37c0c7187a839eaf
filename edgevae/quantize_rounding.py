"""Rounding weights to integers so that their errors cancel, and rotations that make weights alike.

A product of rounded weights with the inputs x is off by e^T x; its mean square is e^T H e with H = E[x x^T].
Rounding each weight to the nearest integer minimises |e|, not that: where inputs go together (two channels
that hold one line with opposite signs, say), the errors of their weights can cancel.

* ``rounded``: one input after the other is rounded, and what that leaves is taken up by the weights of the
  inputs to come, as second-order statistics ask (Hassibi and Stork, "Optimal brain surgeon", NeurIPS 1992;
  in this order and with Cholesky factors Frantar et al., "GPTQ", ICLR 2023, section 3).
* ``level_before``: weights whose inputs stay float share a scale with all others of their row. A channel
  times s before an activation that is straight on either side of 0 comes out times s, and the weights on it
  can be divided by s (Nagel et al., "Data-free quantization through weight equalization and bias correction",
  ICCV 2019, section 4.1). With s the largest of them, the coarse scale meets quiet inputs only.
* ``rotate_between``: where two linear layers follow each other without an activation, any rotation Q may
  stand between them, W2 W1 = (W2 Q^T)(Q W1). After a random one no weight stands out, so that those of a row
  share a scale well (Chee et al., "QuIP", NeurIPS 2023, section 4). A layer that hands its input on, one
  large weight in each row, is the worst of all before.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .preprocess import FloatArray

LARGEST = 127
MOST_TERMS = 4096  # of a sum, whose H takes 0.1 GB; with more each weight goes to the nearest integer
ROWS = 8192  # inputs that H is the mean of, or twice as many as there are terms
DAMPING = 0.01  # of the mean of H's diagonal, added to it: what few inputs say nothing about
_BLOCK = 64  # columns whose errors are handed on together
_IMAGES = 8  # whose windows are taken together
_SEED = 0  # of rotations
_STRAIGHT = ("relu", "leaky_relu")
_LEAST = 1e-3  # of the largest factor
_SMALLEST = float(np.finfo(np.float32).tiny)
_PADDING: dict[str, Any] = {"zeros": "constant", "replicate": "edge"}

Doubles = npt.NDArray[np.float64]


def rounded(weight: FloatArray, scale: FloatArray, moments: Doubles) -> npt.NDArray[np.int8]:
    """Integers that ``scale`` makes weights of.

    Args:
        weight: (O, T), what T inputs are multiplied with.
        scale: (O,), of an integer.
        moments: (T, T), the inputs' mean products.
    """
    whole = _compensated(weight, scale, moments)
    plain = nearest(weight / scale[:, None])
    better = _error(whole, weight, scale, moments) < _error(plain, weight, scale, moments)
    return np.where(better[:, None], whole, plain)


def _compensated(weight: FloatArray, scale: FloatArray, moments: Doubles) -> npt.NDArray[np.int8]:
    # The loudest first: what it leaves is taken up by the most others.
    order = np.argsort(-moments.diagonal(), kind="stable")
    h = moments[np.ix_(order, order)]
    h[np.diag_indices_from(h)] += DAMPING * max(float(h.diagonal().mean()), _SMALLEST)
    shares = np.linalg.cholesky(np.linalg.inv(h)).T
    shares /= shares.diagonal()[:, None]
    left = weight[:, order] / scale.astype(np.float64)[:, None]
    out = np.empty(left.shape, np.int8)
    for start in range(0, left.shape[1], _BLOCK):
        end = min(start + _BLOCK, left.shape[1])
        errors = np.empty((len(left), end - start))
        for column in range(start, end):
            out[:, order[column]] = whole = nearest(left[:, column])
            errors[:, column - start] = error = left[:, column] - whole
            left[:, column + 1 : end] -= error[:, None] * shares[column, column + 1 : end]
        left[:, end:] -= errors @ shares[start:end, end:]
    return out


def _error(whole: npt.NDArray[np.int8], weight: FloatArray, scale: FloatArray, moments: Doubles) -> Doubles:
    """Mean square of what each output (O,) is off by."""
    off = whole * scale.astype(np.float64)[:, None] - weight
    return np.asarray(np.einsum("ot,ot->o", off @ moments, off))


def nearest(values: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Each value to the nearest integer of -127..127."""
    return np.asarray(np.clip(np.rint(values), -LARGEST, LARGEST), np.int8)


def moments(inputs: Iterable[FloatArray]) -> Doubles | None:
    """Mean products of inputs, (T, T), which come in parts (n, T).

    Returns:
        None where T is too many, or inputs too large for their products.
    """
    total, count = None, 0
    for part in inputs:
        if part.shape[1] > MOST_TERMS:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            products = part.T @ part
        total = products.astype(np.float64) if total is None else total + products
        count += len(part)
    return None if total is None or not np.isfinite(total).all() else total / count


def windows(
    x: FloatArray,
    kernel: tuple[int, int],
    stride: int,
    around: tuple[tuple[int, int], tuple[int, int]],
    mode: str,
) -> Iterator[FloatArray]:
    """What a convolution multiplies at places spread over images, in parts (n, C * kh * kw).

    Args:
        x: (N, C, h, w).
        kernel: (kh, kw).
        stride: in both directions.
        around: rows (above, below) and columns (left, right) that are put around each image.
        mode: what they hold: "zeros" or "replicate".
    """
    terms = x.shape[1] * kernel[0] * kernel[1]
    each = -(-max(ROWS, 2 * terms) // len(x))
    for start in range(0, len(x), _IMAGES):
        some = np.pad(x[start : start + _IMAGES], ((0, 0), (0, 0), *around), _PADDING[mode])
        seen = np.lib.stride_tricks.sliding_window_view(some, kernel, (2, 3))[:, :, ::stride, ::stride]
        places = seen.transpose(0, 2, 3, 1, 4, 5).reshape(-1, terms)
        yield places[:: max(1, len(places) // (len(some) * each))]


def rotate_between(
    layers: Sequence[Mapping[str, Any]], tensors: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """The tensors of a chain, rotated between linear layers that follow each other; it computes the same.

    A tensor that two layers share stays as it is.
    """
    out = dict(tensors)
    shared = _shared(layers)
    rng = np.random.default_rng(_SEED)
    for first, second in itertools.pairwise(layers):
        if first["op"] != "linear" or second["op"] != "linear":
            continue
        before, weight = _names(first), second["weight"]
        if shared & {*before, weight}:
            continue
        q, _ = np.linalg.qr(rng.standard_normal((len(out[first["weight"]]),) * 2))
        for name in before:
            out[name] = (q @ out[name]).astype(np.float32)
        out[weight] = (out[weight] @ q.T).astype(np.float32)
    return out


def level_before(
    layers: Sequence[Mapping[str, Any]], tensors: Mapping[str, FloatArray], which: Iterable[int]
) -> dict[str, FloatArray]:
    """The tensors of a chain, weights of some layers level over their input channels; it computes the same.

    Args:
        which: indices of linear layers and convolutions. Nothing is done before one that anything but a
            reshape and activations straight on either side of 0 parts from another.
    """
    out = dict(tensors)
    shared = _shared(layers)
    for index in which:
        at = index - 1
        while at >= 0 and (layers[at].get("kind") in _STRAIGHT or layers[at]["op"] == "reshape"):
            at -= 1
        if at < 0 or layers[at]["op"] not in ("conv2d", "upsample_conv2d", "linear"):
            continue
        before, weight = _names(layers[at]), layers[index]["weight"]
        channels = len(out[before[0]])
        if shared & {*before, weight} or out[weight].shape[1] % channels:
            continue
        by_channel = out[weight].reshape(len(out[weight]), channels, -1)
        largest = np.abs(by_channel).max(2)  # (O, channels); each row has a scale of its own
        factor = (largest / largest.max(1, keepdims=True).clip(_SMALLEST)).max(0).clip(_LEAST)
        out[weight] = (by_channel / factor[:, None]).reshape(out[weight].shape)
        for name in before:
            out[name] = out[name] * factor.reshape(-1, *[1] * (out[name].ndim - 1))
    return out


def _names(layer: Mapping[str, Any]) -> list[str]:
    """Of its weight, and of its bias if it has one."""
    return [layer[key] for key in ("weight", "bias") if layer.get(key) is not None]


def _shared(layers: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of tensors that several layers use."""
    counts = Counter(name for layer in layers for name in _names(layer))
    return {name for name, count in counts.items() if count > 1}
