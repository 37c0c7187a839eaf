"""A model file's networks as PyTorch modules, one an operation: what every peer is made from, and the oracle.

Imports torch; the bench imports this file only where an engine needs it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .. import torch_model
from ..preprocess import FloatArray

_CHUNK = 16  # frames at once in float64


class First(nn.Module):
    """The first ``count`` outputs of ``module``."""

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()
        self.module, self.count = module, count

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        y: Tensor = self.module(x, condition)
        return y[:, : self.count]


def load(path: str | os.PathLike[str]) -> dict[str, nn.Module]:
    """The modules "encode" (to the mean), "posterior" (mean and raw scale, where there is one) and "decode".

    "encode" does no more than a mean needs, where a linear layer is the encoder's last.
    """
    whole = torch_model.load(path)
    mean = torch_model.load(path, mean_only=True).encoder
    if whole.document["posterior"] is None:
        return {"encode": mean, "decode": whole.decoder}
    if whole.document["encoder"][-1]["op"] != "linear":
        mean = First(mean, whole.latent_dim)
    return {"encode": mean, "posterior": whole.encoder, "decode": whole.decoder}


def exact(module: nn.Module, *arrays: FloatArray) -> npt.NDArray[np.float64]:
    """What ``module`` answers in float64."""
    wide = copy.deepcopy(module).double()
    parts = []
    for start in range(0, len(arrays[0]), _CHUNK):
        chunk = [torch.from_numpy(array[start : start + _CHUNK]).double() for array in arrays]
        with torch.inference_mode():
            parts.append(wide(*chunk).numpy())
    return np.concatenate(parts)


def tensors(arrays: Sequence[FloatArray]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
