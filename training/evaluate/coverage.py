"""Whether a model knows what it does not know: how often the truth lies within what it claims.

Two claims are checked, each by the share that lies within intervals of nominal 50, 80 and 95 %.

**Latents.** A posterior has to agree with itself as depth is taken away. By the law of total probability
p(z | part) is the mean of p(z | whole) over what the rest may be. So for frames with depth, z drawn from
q(z | whole frame) has to lie within intervals of q(z | frame without some of its depth) as often as these
say. A posterior that keeps its certainty when it loses depth fails; the one that was given everything passes
by construction and is not checked. That observed and nominal shares agree is probabilistic calibration in
the sense of Gneiting, Balabdaoui, Raftery, "Probabilistic forecasts, calibration and sharpness", JRSS B 2007;
that it follows from the joint distribution is the idea of Talts et al., "Validating Bayesian inference
algorithms with simulation-based calibration", 2018. It says nothing of whether q(z | whole) is right, which
no amount of data shows: the truth has no latent.

**Pixels.** Where the model file holds percentiles of its errors, the share of pixels whose error is within.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.stats

from edgevae.known import COLOR, DEPTH, GUESSED, Errors
from edgevae.preprocess import FloatArray

from ..metrics import ACTIVE_VARIANCE
from .depth import GIVEN

NOMINAL = (0.5, 0.8, 0.95)
PIXELS = {COLOR: "colour", DEPTH: "depth that was given", GUESSED: "depth that was not"}

Bool = npt.NDArray[np.bool_]
Posterior = tuple[FloatArray, FloatArray]  # mean and standard deviation, (N, latent_dim)


@dataclass(frozen=True)
class Covered:
    """One claim: the share observed within each of ``NOMINAL``.

    Attributes:
        what: of what.
        observed: shares, as many as ``NOMINAL``.
        spread: of latents, the root mean square of (z - mean) / std, 1 if all is well; None of pixels.
    """

    what: str
    observed: tuple[float, ...]
    spread: float | None = None


def of_latents(posteriors: Mapping[str, Posterior], seed: int = 0) -> list[Covered]:
    """The check of latents, for each way in which depth was withheld.

    Args:
        posteriors: of the same frames, by what was given of their depth; ``GIVEN`` among them.
        seed: of the draws from the whole frame's posterior.
    """
    mean, std = posteriors[GIVEN]
    active = mean.var(0) > ACTIVE_VARIANCE
    if not active.any():
        return []
    z = mean + std * np.random.default_rng(seed).standard_normal(mean.shape)
    halves = scipy.stats.norm.ppf(0.5 + np.array(NOMINAL) / 2)
    found = []
    for how, (part_mean, part_std) in posteriors.items():
        if how == GIVEN:
            continue
        away = np.abs((z - part_mean) / part_std)[:, active]
        observed = tuple(float((away <= half).mean()) for half in halves)
        found.append(Covered(f"latents, depth {how}", observed, float(np.sqrt(np.mean(away**2)))))
    return found


@dataclass
class PixelCoverage:
    """Counts pixels within the intervals of ``errors``."""

    errors: Errors
    _inside: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, len(NOMINAL)), np.int64))
    _total: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))

    def update(self, row: int, error: FloatArray) -> None:
        """Count absolute errors in the network's range of one row of ``PIXELS``."""
        self._total[row] += error.size
        for i, share in enumerate(NOMINAL):
            self._inside[row, i] += int((error <= self.errors.within(share, row)).sum())

    def covered(self) -> list[Covered]:
        """Of each kind of pixel that there was."""
        return [
            Covered(f"pixels, {what}", tuple((self._inside[row] / self._total[row]).tolist()))
            for row, what in PIXELS.items()
            if self._total[row]
        ]
