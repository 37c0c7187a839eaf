"""What a model file knows of its own limits: how far off it is, and which frames it has seen the like of.

Both are measured after training, on frames that are stated in the file's provenance
(``python -m training calibrate``), and stored as percentiles: no distribution is assumed.
docs/training-evaluate.md has the figures that novelty was chosen by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .preprocess import DepthEncoding, FloatArray

PERCENTS = np.arange(101)
COLOR, DEPTH, GUESSED = range(3)  # rows of the errors: colour, depth that was given, depth that was not


class Errors:
    """Percentiles of decoded pixels' errors: an interval that held out frames were in, so often.

    That is split conformal prediction (Vovk et al., "Algorithmic learning in a random world", 2005): where
    the frames to come are like those held out, intervals for ``coverage`` hold that share of all pixels.

    Args:
        percentiles: float32 (rows, 101) of |error| in the network's range; one row without a depth channel.
    """

    def __init__(self, percentiles: FloatArray) -> None:
        self.percentiles = percentiles

    def within(self, coverage: float, row: int) -> float:
        """The error in the network's range that ``coverage`` (0 to 1) of all pixels stay below."""
        return float(np.interp(100 * coverage, PERCENTS, self.percentiles[row]))

    def depth_bounds(
        self, depth_m: npt.ArrayLike, encoding: DepthEncoding, coverage: float, given: npt.ArrayLike
    ) -> tuple[FloatArray, FloatArray]:
        """The nearest and the farthest that decoded depth stands for; see ``Model.depth_bounds``."""
        given = np.asarray(given, np.bool_)
        reach = np.where(given, self.within(coverage, DEPTH), self.within(coverage, GUESSED))
        x = encoding.to_network(depth_m)
        ends = encoding.to_metres(x - reach), encoding.to_metres(x + reach)
        return np.minimum(*ends), np.maximum(*ends)


class Novelty:
    """How unlike all training frames a frame is: the distance to the nearest of their latents.

    The distance is 1 - cosine, as in ``edgevae.latent_tools``. The score is its percentile among frames of
    recordings that the model was trained on, though not on these frames: 95 says that of such frames 5 in 100
    are farther from what was seen.

    Args:
        latents: float32 (n, latent_dim) of training frames.
        percentiles: float32 (2, 101) of the distances of frames with depth and without; (1, 101) for a model
            without a depth channel.
    """

    def __init__(self, latents: FloatArray, percentiles: FloatArray) -> None:
        self.directions = directions(latents)
        self.percentiles = percentiles

    def distances(self, z: FloatArray) -> FloatArray:
        """Of latents (N, latent_dim), float32 (N,)."""
        return nearest(directions(z), self.directions)

    def scores(self, z: FloatArray, with_depth: npt.NDArray[np.bool_]) -> FloatArray:
        """Percentiles (N,) of latents (N, latent_dim); ``with_depth`` bool (N,): did the frame have any?"""
        rows = np.where(with_depth, 0, len(self.percentiles) - 1)
        found = [
            np.interp(away, self.percentiles[row], PERCENTS)
            for away, row in zip(self.distances(z), rows, strict=True)
        ]
        return np.array(found, np.float32)


def directions(z: FloatArray) -> FloatArray:
    """Latents (N, D) at length 1; zeros stay zeros, at distance 1 from everything."""
    return np.asarray(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12), np.float32)


def nearest(a: FloatArray, b: FloatArray) -> FloatArray:
    """1 - cosine of each of ``a`` (N, D) with the nearest of ``b`` (M, D), all of length 1; float32 (N,)."""
    return np.asarray(np.clip(1 - (a @ b.T).max(axis=1), 0, 2), np.float32)


def of_document(
    document: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> tuple[Errors | None, Novelty | None]:
    """What a model file (docs/model-file.md) says; None for what it does not."""
    errors, novelty = document.get("errors"), document.get("novelty")
    return (
        None if errors is None else Errors(tensors[errors]),
        None if novelty is None else Novelty(tensors[novelty["latents"]], tensors[novelty["percentiles"]]),
    )
