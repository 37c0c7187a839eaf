"""What a straight line does with as many numbers: principal components of a run's own training frames.

They are fitted to the frames as the network gets them, but for holes that its encoding marks (a mark is no
distance, which a straight line cannot know: they are filled), with their mirror images where the run mirrors,
and judged by the same figures. A network that they beat has not learned what linear algebra gives for
nothing: on NYU, 50 components equal a published variational autoencoder with 400 latents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from torch import Tensor, nn

from edgevae.preprocess import InputSpec

from .data.frames import without_holes
from .models.base import input_document

Rows = npt.NDArray[np.float32]

MAX_SIDE = 4096  # of the matrix whose eigenvectors are taken: a minute of one core
MAX_BYTES = 1 << 30  # of the training frames that are held in memory
_BLOCK = 4096  # terms in one float32 sum; the sum over blocks is float64


@dataclass(frozen=True)
class Sample:
    """Training frames in memory.

    Attributes:
        x: float32 (N, C * h * w) in [-1, 1]; the second half are the mirror images of the first, where
            ``mirrored``.
        frames: how many different frames that are.
        of: how many the run trains on.
    """

    x: Rows
    frames: int
    of: int
    mirrored: bool

    def __str__(self) -> str:
        count = str(self.of) if self.frames == self.of else f"{self.frames} of {self.of}"
        return f"{count} training frames" + (" and their mirror images" if self.mirrored else "")

    def fingerprint(self) -> str:
        """The same for the same frames."""
        return hashlib.sha256(self.x.data).hexdigest()


def sampled(count: int, spec: InputSpec, mirrored: bool, seed: int = 0) -> list[int]:
    """Which of ``count`` training frames are taken, in order: all that can be, else a seeded choice.

    Args:
        count: frames that there are.
        spec: their size.
        mirrored: whether a mirror image is taken with each.
        seed: of the choice.
    """
    size = spec.channels * spec.height * spec.width
    rows = MAX_BYTES // (4 * size)
    if size > MAX_SIDE:
        rows = min(rows, MAX_SIDE)
    limit = max(2, rows // (2 if mirrored else 1))
    if count <= limit:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())


def gather(frames: Iterable[Tensor], of: int, mirrored: bool) -> Sample:
    """The batches (N, C, h, w) of ``frames`` as one array of rows; ``of`` is as in :class:`Sample`."""
    parts = [batch.numpy().astype(np.float32, copy=False) for batch in frames]
    count = sum(map(len, parts))
    x = np.concatenate([*parts, *(part[..., ::-1] for part in parts if mirrored)])
    return Sample(x.reshape(len(x), -1), count, of, mirrored)


class Projection:
    """An autoencoder without posterior: projection onto orthonormal rows, and back.

    It has what a comparison and ``edgevae.export.to_native`` ask of a model of the registry.

    Attributes:
        mean: float32 (D,), D = C * h * w.
        vectors: float32 (latent_dim, D), orthonormal rows; none for the mean image.
        latent_dim: at most what was asked for: N frames span N - 1 dimensions.
    """

    posterior = None
    condition_dim = 0

    def __init__(self, spec: InputSpec, mean: Rows, vectors: Rows) -> None:
        self.input, self.latent_dim = spec, len(vectors)
        self.name = f"PCA {self.latent_dim}" if self.latent_dim else "mean image"
        self.mean, self.vectors = torch.from_numpy(mean), torch.from_numpy(vectors)

    def posterior_of(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, None]:
        """The code (N, latent_dim) of (N, C, h, w), holes filled as in the training frames."""
        return (without_holes(x, self.input).flatten(1) - self.mean) @ self.vectors.T, None

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, latent_dim) to (N, C, h, w), not clipped to [-1, 1]: a straight line."""
        return (z @ self.vectors + self.mean).reshape(len(z), *self._shape())

    def _shape(self) -> tuple[int, int, int]:
        return self.input.channels, self.input.height, self.input.width

    @property
    def encoder(self) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), _linear(self.vectors, -(self.vectors @ self.mean)))

    @property
    def decoder(self) -> nn.Sequential:
        return nn.Sequential(_linear(self.vectors.T, self.mean), nn.Unflatten(1, self._shape()))

    def document(self) -> dict[str, Any]:
        """The model file's document (docs/model-file.md) without its layers and its storage precision."""
        return {
            "name": self.name,
            "latent_dim": self.latent_dim,
            "condition_dim": 0,
            "posterior": None,
            **input_document(self.input),
            "provenance": {},
        }


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias)
    return layer


def fit(sample: Sample, spec: InputSpec, latent_dims: Iterable[int]) -> dict[int, Projection]:
    """Principal components for each of ``latent_dims``, fewer where the frames vary along fewer directions; 0
    stands for the mean image."""
    wanted = sorted(set(latent_dims))
    mean, vectors = principal_components(sample.x, max(wanted))
    return {n: Projection(spec, mean, vectors[:n]) for n in wanted}


def principal_components(x: Rows, count: int) -> tuple[Rows, Rows]:
    """Mean (D,) and the ``count`` directions (count, D) of largest variance, orthonormal, largest first.

    The eigenvectors come from the smaller one of two matrices: the covariance X'X (D x D), or the Gram matrix
    XX' (N x N) of the centred rows, where u of XX' gives the direction X'u / |X'u| of X'X. Fewer directions
    come back where ``x`` (N, D) does not vary along more.
    """
    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    centred = x - mean
    rows, columns = x.shape
    gram = rows < columns
    product = _product(centred if gram else centred.T)
    side = len(product)
    count = min(count, side)
    if not count:
        return mean, np.zeros((0, columns), np.float32)
    variances, vectors = scipy.linalg.eigh(
        product, subset_by_index=(side - count, side - 1), overwrite_a=True, check_finite=False
    )
    # Rounding of float32 products leaves about 1e-7 of the largest where there is nothing.
    kept = np.flatnonzero(variances > 1e-6 * variances[-1])[::-1]
    directions = vectors[:, kept].T.astype(np.float32)
    if gram:
        directions = directions @ centred
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return mean, (directions / lengths).astype(np.float32, copy=False)


def _product(a: Rows) -> npt.NDArray[np.float64]:
    """A A' of a matrix (side, length)."""
    total = np.zeros((len(a), len(a)))
    for start in range(0, a.shape[1], _BLOCK):
        block = a[:, start : start + _BLOCK]
        total += block @ block.T
    return total
