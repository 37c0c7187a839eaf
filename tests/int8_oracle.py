"""An int8 model file run literally as docs/model-file.md says: the oracle of the engine."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from edgevae import model_file

Layer = dict[str, Any]
Tensors = dict[str, np.ndarray]


class Int8Model:
    """What ``edgevae.load(path)`` computes of an int8 file without a condition, slowly."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.document, self.tensors, _ = model_file.read(path)

    def encode_tensor(self, x: np.ndarray) -> np.ndarray:
        return run(self.document["encoder"], self.tensors, x)[:, : self.document["latent_dim"]]

    def decode_tensor(self, z: np.ndarray) -> np.ndarray:
        return run(self.document["decoder"], self.tensors, z)


def run(layers: list[Layer], tensors: Tensors, x: np.ndarray) -> np.ndarray:
    """float32 (N, ...) through a chain."""
    for layer in layers:
        x = (integer if "input_scale" in layer else plain)(layer, tensors, x)
    return x


def integer(layer: Layer, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    """y = weight_scale * sum (q - zero) * weight + bias; the sum exact, the rest float32."""
    weight, scale, zero = tensors[layer["weight"]], tensors[layer["weight_scale"]], layer["input_zero"]
    inverse = np.float32(1) / tensors[layer["input_scale"]]
    along = (-1, *[1] * (x.ndim - 2))
    q = np.clip(np.rint(x * inverse.reshape(along)) + np.float32(zero), 0, 255)
    q[np.isnan(x)] = zero
    assert q.dtype == np.float32
    sums = integer_sums(layer, weight, q.astype(np.int64) - zero)
    bias = np.zeros(sums.shape[1], np.float32) if layer["bias"] is None else tensors[layer["bias"]]
    if layer["op"] == "upsample_conv2d":
        # Phase p = 2 py + px of the scales belongs to the pixels (2 i + py, 2 j + px).
        scale = scale.reshape(2, 2, -1, 1, 1)
        y = np.empty(sums.shape, np.float32)
        for py in range(2):
            for px in range(2):
                y[:, :, py::2, px::2] = sums[:, :, py::2, px::2].astype(np.float32) * scale[py, px]
    else:
        y = sums.astype(np.float32) * scale.reshape(along)
    return y + bias.reshape(along)


def integer_sums(layer: Layer, weight: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The layer on int64 (N, I, ...) without bias; q is 0 where zero padding puts the zero."""
    if layer["op"] == "linear":
        return q @ weight.T.astype(np.int64)
    if layer["op"] == "conv_transpose2d":
        # double holds these integers exactly
        y = functional.conv_transpose2d(
            torch.tensor(q, dtype=torch.float64),
            torch.tensor(weight, dtype=torch.float64),
            stride=layer["stride"],
            padding=layer["padding"],
            output_padding=layer["output_padding"],
        )
        return y.numpy().astype(np.int64)
    mode = "edge" if layer["padding_mode"] == "replicate" else "constant"
    if layer["op"] == "conv2d":
        p = layer["padding"]
        return slide(np.pad(q, ((0, 0), (0, 0), (p, p), (p, p)), mode), weight, layer["stride"])
    n, _, h, w = q.shape
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)), mode)
    y = np.empty((n, weight.shape[1], 2 * h, 2 * w), np.int64)
    for py in range(2):
        for px in range(2):
            # Rows i - 1 + py and i + py of q, which are i + py and i + py + 1 of the padded one.
            part = padded[:, :, py : py + h + 1, px : px + w + 1]
            y[:, :, py::2, px::2] = slide(part, weight[2 * py + px], 1)
    return y


def slide(q: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """A convolution without padding, tap by tap."""
    o, _, kh, kw = weight.shape
    n, _, h, w = q.shape
    oh, ow = (h - kh) // stride + 1, (w - kw) // stride + 1
    y = np.zeros((n, oh, ow, o))
    for ky in range(kh):
        for kx in range(kw):
            seen = q[:, :, ky : ky + stride * oh : stride, kx : kx + stride * ow : stride]
            # double holds these integers exactly, and multiplies them quickly
            y += seen[:, :, :oh, :ow].transpose(0, 2, 3, 1).astype(np.float64) @ weight[:, :, ky, kx].T
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2)).astype(np.int64)


def plain(layer: Layer, tensors: Tensors, x: np.ndarray) -> np.ndarray:
    """A layer in float64, rounded to float32; int8 weights count as ``weight_scale * weight``."""
    op, t = layer["op"], torch.tensor(x, dtype=torch.float64)
    if op == "reshape":
        return x.reshape(len(x), *layer["shape"])
    if op == "max_pool2d":
        return functional.max_pool2d(t, layer["kernel"], layer["stride"]).numpy().astype(np.float32)
    if op == "activation":
        kinds = {
            "relu": functional.relu,
            "tanh": torch.tanh,
            "sigmoid": torch.sigmoid,
            "softplus": functional.softplus,
            "leaky_relu": lambda t: functional.leaky_relu(t, layer["slope"]),
        }
        return kinds[layer["kind"]](t).numpy().astype(np.float32)
    weight = torch.tensor(tensors[layer["weight"]], dtype=torch.float64)
    if "weight_scale" in layer:
        scale = torch.tensor(tensors[layer["weight_scale"]], dtype=torch.float64)
        weight *= scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = None if layer["bias"] is None else torch.tensor(tensors[layer["bias"]], dtype=torch.float64)
    if op == "linear":
        y = functional.linear(t, weight, bias)
    elif op == "conv_transpose2d":
        y = functional.conv_transpose2d(
            t, weight, bias, layer["stride"], layer["padding"], layer["output_padding"]
        )
    else:
        padding, stride = (layer["padding"], layer["stride"]) if op == "conv2d" else (1, 1)
        if op == "upsample_conv2d":
            t = functional.interpolate(t, scale_factor=2)
        mode = "replicate" if layer["padding_mode"] == "replicate" else "constant"
        y = functional.conv2d(functional.pad(t, [padding] * 4, mode), weight, bias, stride)
    return y.numpy().astype(np.float32)
