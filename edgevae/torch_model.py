"""A model file as a PyTorch module: what the bench runs against, and an oracle of export's parity check.

Imports torch; nothing that ``import edgevae`` loads imports this file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from . import model_file
from .errors import EdgevaeError
from .torch_layers import Chain, ConcatCondition
from .zoo import path_of


class TorchModel(nn.Module):
    """An encoder and a decoder in PyTorch, frozen: float32, on the CPU, in eval mode.

    Attributes:
        document: the model's description as in ``docs/model-file.md``.
        encoder: (N, C, h, w) in [-1, 1] to the raw head, whose first ``latent_dim`` numbers are the mean.
        decoder: (N, latent_dim) to (N, C, h, w) in [-1, 1].
    """

    def __init__(self, document: Mapping[str, Any], encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.document = dict(document)
        self.latent_dim = int(document["latent_dim"])
        self.encoder, self.decoder = encoder, decoder
        self.cpu().float().eval().requires_grad_(False)

    def encode(self, x: Tensor, *condition: Tensor) -> Tensor:
        """The posterior mean (N, latent_dim)."""
        head: Tensor = self.encoder(x, *condition)
        return head[:, : self.latent_dim]

    def decode(self, z: Tensor, *condition: Tensor) -> Tensor:
        """(N, latent_dim) to (N, C, h, w)."""
        image: Tensor = self.decoder(z, *condition)
        return image


class Encode(nn.Module):
    """``model.encode`` as the ``forward`` of a module, as ONNX wants it."""

    def __init__(self, model: TorchModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.model.encode(x) if condition is None else self.model.encode(x, condition)


def load(path: str | os.PathLike[str], *, mean_only: bool = False) -> TorchModel:
    """The networks of a model file in PyTorch, layer for layer as ``docs/model-file.md`` defines them.

    Args:
        path: the model file, or the name of a shipped model.
        mean_only: leave the raw scales out of a final linear layer, as ``edgevae.Model.encode`` does:
            the work that a mean needs.

    Raises:
        ModelFileError: the file is missing, truncated, foreign, or contradicts itself.
        EdgevaeError: it is an int8 file. PyTorch has no module for its layers, and float ones with the same
            weights would answer something else.
    """
    document, tensors, _ = model_file.read(path_of(path))
    if document["precision"] == "int8":
        raise EdgevaeError(
            f"{path} is an int8 file, which PyTorch does not run; wanted the float file that it was made "
            "from ('edgevae bench --against none' times edgevae alone)."
        )
    layers, latent_dim = document["encoder"], document["latent_dim"]
    last = layers[-1]
    if mean_only and last["op"] == "linear":
        for key in ("weight", "bias"):
            # Under a name of its own: another layer may use the same tensor.
            if last[key] is not None:
                tensors[f"mean.{key}"] = tensors[last[key]][:latent_dim]
                last = {**last, key: f"mean.{key}"}
    return TorchModel(document, chain([*layers[:-1], last], tensors), chain(document["decoder"], tensors))


def chain(layers: Sequence[Mapping[str, Any]], tensors: Mapping[str, npt.NDArray[np.float32]]) -> Chain:
    """One layer list of a model file."""
    return Chain(*(_build(layer, tensors) for layer in layers))


class Reshape(nn.Module):
    """(N, ...) to (N, *shape), C-order."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


def _build(layer: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.float32]]) -> nn.Module:
    op = layer["op"]
    if op == "reshape":
        return Reshape(layer["shape"])
    if op == "concat_condition":
        return ConcatCondition(layer["size"])
    if op == "max_pool2d":
        return nn.MaxPool2d(layer["kernel"], layer["stride"])
    if op == "activation":
        return _activation(layer)

    weight = torch.tensor(tensors[layer["weight"]])
    bias = None if layer["bias"] is None else torch.tensor(tensors[layer["bias"]])
    has_bias = bias is not None
    module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    if op == "linear":
        module = nn.Linear(weight.shape[1], weight.shape[0], has_bias)
    elif op == "conv_transpose2d":
        module = nn.ConvTranspose2d(
            weight.shape[0],
            weight.shape[1],
            (weight.shape[2], weight.shape[3]),
            layer["stride"],
            layer["padding"],
            layer["output_padding"],
            bias=has_bias,
        )
    else:
        stride, padding = (layer["stride"], layer["padding"]) if op == "conv2d" else (1, 1)
        module = nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            (weight.shape[2], weight.shape[3]),
            stride,
            padding,
            bias=has_bias,
            padding_mode=layer["padding_mode"],
        )
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)
    if op == "upsample_conv2d":
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), module)
    return module


def _activation(layer: Mapping[str, Any]) -> nn.Module:
    kinds: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "softplus": nn.Softplus,
    }
    return nn.LeakyReLU(layer["slope"]) if layer["kind"] == "leaky_relu" else kinds[layer["kind"]]()
