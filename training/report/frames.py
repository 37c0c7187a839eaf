"""The held-out frames of a report: loaded when asked for, encoded, and named by class or scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..models import VAE, one_hot

Floats = npt.NDArray[np.float32]
NO_CLASS = "no class"
_BATCH_VALUES = 1 << 22  # of the input: 64 frames of 4 x 128 x 128


@dataclass(frozen=True)
class Shown:
    """Frames as arrays: input, target (N, C, h, w), valid (N, h, w) and a condition (N, k) or None."""

    input: Floats
    target: Floats
    valid: npt.NDArray[np.bool_]
    condition: Floats | None


class HeldOut:
    """The validation sets of a run, or frames spread evenly over them where they hold more.

    Attributes:
        sets: their names.
        places: (set, item) of each frame.
        names: of the groups: classes, else scenes, else sets.
        groups: (N,) the group of each frame.
        by: what groups are: "class", "scene" or "set".

    Raises:
        EdgevaeError: the data cannot be read.
    """

    def __init__(self, datamodule: Any, most: int) -> None:
        self.sets = list(datamodule.names)
        self.datasets = [datamodule.held(name) for name in self.sets]
        places = [(s, i) for s, dataset in enumerate(self.datasets) for i in range(len(dataset))]
        self.total = len(places)
        self.places = [places[i] for i in spread(len(places), most)]
        self.labels: npt.NDArray[np.int64] | None = None
        if datamodule.classes:
            self.by, self.names = "class", [*datamodule.classes, NO_CLASS]
            labels = [int(self.datasets[s].labels[i]) for s, i in self.places]
            self.labels = np.array(labels, np.int64)
            self.groups = np.where(self.labels < 0, len(self.names) - 1, self.labels)
            return
        self.by, words = "scene", [self._scene(s, i) for s, i in self.places]
        # Scenes of a frame or two each are no groups
        if not 1 < len(set(words)) <= len(words) / 2:
            self.by, words = "set", [self.sets[s] for s, _ in self.places]
        self.names = sorted(set(words))
        self.groups = np.array([self.names.index(word) for word in words], np.int64)

    def _scene(self, number: int, item: int) -> str:
        dataset = self.datasets[number]
        return str(dataset.frames.entries[int(dataset.indices[item])].scene)

    def __len__(self) -> int:
        return len(self.places)

    def of_set(self, number: int, count: int) -> list[int]:
        """``count`` frames of a set at most, spread evenly over it."""
        inside = [n for n, (s, _) in enumerate(self.places) if s == number]
        return [inside[i] for i in spread(len(inside), count)]

    def name(self, frame: int) -> str:
        """What to call a frame."""
        return str(self.names[self.groups[frame]])

    def load(self, frames: Sequence[int], condition_dim: int) -> Shown:
        """These frames."""
        items = [self.datasets[s][i] for s, i in (self.places[frame] for frame in frames)]
        stacked = {key: torch.stack([item[key] for item in items]) for key in ("input", "target", "valid")}
        labels = None if self.labels is None else torch.from_numpy(self.labels[list(frames)])
        condition = None
        if condition_dim and labels is not None:
            condition = one_hot(labels, condition_dim).numpy()
        return Shown(stacked["input"].numpy(), stacked["target"].numpy(), stacked["valid"].numpy(), condition)

    def encode(self, net: VAE) -> tuple[Floats, Floats | None]:
        """Mean and deviation of all frames, (N, latent_dim) each; no deviation without a posterior."""
        means, stds = [], []
        size = net.input.channels * net.input.height * net.input.width
        for frames in _parts(len(self), max(1, _BATCH_VALUES // size)):
            mean, std = encode(net, self.load(frames, net.condition_dim))
            means.append(mean)
            stds.append(std)
        whole = np.concatenate(means)
        return whole, np.concatenate([s for s in stds if s is not None]) if stds[0] is not None else None


def spread(count: int, most: int) -> list[int]:
    """``most`` of the numbers below ``count``, evenly, both ends included; all if there are no more."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())] if count else []


def tensor(array: Floats) -> Tensor:
    return torch.from_numpy(array)


@torch.inference_mode()
def encode(net: VAE, shown: Shown) -> tuple[Floats, Floats | None]:
    """Posterior mean and deviation of frames, (N, latent_dim)."""
    condition = None if shown.condition is None else torch.from_numpy(shown.condition)
    mean, std = net.posterior_of(torch.from_numpy(shown.input), condition)
    return mean.numpy(), None if std is None else std.numpy()


@torch.inference_mode()
def decode(net: VAE, z: Floats, condition: Floats | None) -> Floats:
    """Pictures (N, C, h, w) of latents (N, latent_dim), one condition (N, k) each for a conditional model."""
    size = net.input.channels * net.input.height * net.input.width
    parts = []
    for rows in _parts(len(z), max(1, _BATCH_VALUES // size)):
        given = None if condition is None else torch.from_numpy(condition[rows])
        parts.append(net.decode(torch.from_numpy(z[rows]), given).numpy())
    return np.concatenate(parts)


def _parts(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))
