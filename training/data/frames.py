"""Frames of a set as the network takes them, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edgevae.preprocess import InputSpec, pack, pack_with_mask, withhold

from .augment import AugmentOptions, all_taken, dropped, jitter, pierced, place, taken
from .draws import Draws, generators
from .prepare import DEPTH_UNIT_M
from .sets import FrameSet

Batch = dict[str, Tensor]
NO_CLASS = -1


class Frames(Dataset[Batch]):
    """Frames of one set.

    ``frames[i]`` is one of them, ``frames[draws]`` a batch with its dimension in front: ``input`` and
    ``target`` float32 (C, h, w), which differ where depth is withheld from the encoder; ``valid`` bool
    (h, w), the target's depth is a reading; ``seen`` bool (h, w), the encoder got it (both all true for a
    network without depth); ``label`` int64 (), the number of its class or -1, where there are classes.

    Args:
        frames: the set.
        indices: those of its frames that are meant.
        spec: what the network takes.
        augment: what is done to them; None for nothing.
        seed: of the run.
        labels: the number of each frame's class, int64 (len(indices),), or None.
    """

    def __init__(
        self,
        frames: FrameSet,
        indices: Sequence[int],
        spec: InputSpec,
        augment: AugmentOptions | None = None,
        *,
        seed: int = 0,
        labels: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.frames, self.spec, self.augment, self.seed, self.labels = frames, spec, augment, seed, labels
        self.indices = np.asarray(indices, np.int64)
        grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
        one = InputSpec(1, 256, 1)
        self._values = pack(grey, None, one)[0, :, 0]  # what the runtime makes of a byte, float32 (256,)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int | Draws) -> Batch:
        if isinstance(item, Draws):
            return self.batch(item)
        one = np.array([range(len(self))[item]])
        return {key: value[0] for key, value in self.batch(Draws(0, one, one)).items()}

    def batch(self, draws: Draws) -> Batch:
        """The frames of ``draws``, each augmented by the random numbers of its place in the epoch."""
        batch = self._tabled(draws) if self._is_plain() else self._packed(draws)
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[draws.items])
        return batch

    def _is_plain(self) -> bool:
        """Whether pixels need no more than a look into a table: the right size, no depth, fixed range."""
        color, spec = self.frames.color, self.spec
        return (
            spec.depth is None
            and spec.color == "fixed"
            and color.shape[1:3] == (spec.height, spec.width)
            and (color.ndim == 3 or spec.channels == 3)
            and (self.augment is None or self.augment.crop == 1.0)
        )

    def _tabled(self, draws: Draws) -> Batch:
        color = self.frames.color[self.indices[draws.items]]
        augment = self.augment
        if augment is not None and (augment.shift or augment.mirror or augment.jitter):
            places = []
            for i, rng in enumerate(generators(self.seed, draws.epoch, draws.places)):
                places.append(place(color.shape[1:3], augment, rng))
                color[i] = jitter(color[i], augment, rng)
            color = all_taken(color, places)
        # OpenCV's LUT takes a fifth of the time of NumPy's indexing
        x = torch.from_numpy(cv2.LUT(color.reshape(len(color), -1), self._values).reshape(color.shape))
        x = x[:, None].expand(-1, self.spec.channels, -1, -1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
        x = x.contiguous()
        whole = torch.ones(x.shape[0], *x.shape[2:], dtype=torch.bool)
        return {"input": x, "target": x, "valid": whole, "seen": whole}

    def _packed(self, draws: Draws) -> Batch:
        """Through the runtime's own preprocessing, which takes any size."""
        spec, augment = self.spec, self.augment
        n, h, w = len(draws.items), spec.height, spec.width
        target = np.empty((n, spec.channels, h, w), np.float32)
        valid = np.ones((n, h, w), np.bool_)
        missing = np.zeros((n, h, w), np.bool_)
        rngs: Any = generators(self.seed, draws.epoch, draws.places) if augment else [None] * n
        for i, (frame, rng) in enumerate(zip(self.indices[draws.items], rngs, strict=True)):
            color = self.frames.color[frame]
            depth = None if spec.depth is None or self.frames.depth is None else self.frames.depth[frame]
            unit_m = DEPTH_UNIT_M
            if augment is not None:
                where = place(color.shape[:2], augment, rng)
                unit_m *= where.zoom(color.shape[:2])
                color, depth = taken(color, where), None if depth is None else taken(depth, where)
                color = jitter(color, augment, rng)
                if spec.depth is not None:
                    missing[i] = dropped((h, w), augment, rng)
            rgb = color if color.ndim == 3 else np.repeat(color[..., None], 3, axis=2)
            target[i], readings = pack_with_mask(rgb, depth, spec, depth_scale=unit_m)
            if spec.depth is not None:
                valid[i] = readings
                if augment is not None and not missing[i].all():
                    missing[i] |= pierced(target[i], readings, spec, augment, rng)
        seen, shown = valid & ~missing, target
        if spec.depth is not None:
            shown = withhold(target, missing, spec)
            if self._sky_counts():
                target, valid = beyond_range(target.copy() if shown is target else target, valid, spec)
        x = torch.from_numpy(shown)
        return {
            "input": x,
            "target": x if shown is target else torch.from_numpy(target),
            "valid": torch.from_numpy(valid),
            "seen": torch.from_numpy(seen),
        }

    def _sky_counts(self) -> bool:
        depth = self.spec.depth
        trained = self.augment is not None and self.frames.options.kind == "synthetic"
        return trained and depth is not None and depth.metric


def beyond_range(
    target: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], spec: InputSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Rendered targets (N, C, h, w) with their sky at the far end of the range, and the mask that counts it.

    A renderer misses no surface: where it has no reading, nothing is in range. Without this the decoder is
    free to put anything there, phantom obstacles in the sky among them. The encoder still sees no reading.
    """
    assert spec.depth is not None
    target[:, 3][~valid] = spec.depth.to_network(spec.depth.max_m)
    return target, np.ones_like(valid)


def without_holes(x: Tensor, spec: InputSpec) -> Tensor:
    """Packed frames (N, C, h, w) for what knows no holes, such as a straight line.

    Where the encoding tells a hole from a distance (``no_reading`` below -1), it becomes what was filled in
    for it, or else the mean of the frame's readings, 0 where there are none.
    """
    depth = spec.depth
    if depth is None or depth.no_reading >= -1:
        return x
    d = x[:, 3]
    hole = d < depth.no_reading if depth.fill else d == depth.no_reading
    if not bool(hole.any()):
        return x
    if depth.fill:
        guess = 2 * depth.no_reading - d
    else:
        readings = (~hole).sum((1, 2)).clamp(min=1)
        guess = ((d * ~hole).sum((1, 2)) / readings)[:, None, None].expand_as(d)
    return torch.cat([x[:, :3], torch.where(hole, guess, d)[:, None]], 1)


class Mixture(Dataset[Batch]):
    """Several sets after another as one."""

    def __init__(self, sets: Sequence[Frames]) -> None:
        self.sets = list(sets)
        self.starts = np.cumsum([0, *(len(frames) for frames in self.sets)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, item: int | Draws) -> Batch:
        if isinstance(item, Draws):
            return self.batch(item)
        item = range(len(self))[item]
        owner = int(np.searchsorted(self.starts, item, "right")) - 1
        return self.sets[owner][item - int(self.starts[owner])]

    def batch(self, draws: Draws) -> Batch:
        """The frames of ``draws`` in their order, whichever sets they are of."""
        if len(self.sets) == 1:
            return self.sets[0].batch(draws)
        owners = np.searchsorted(self.starts, draws.items, "right") - 1
        merged: Batch = {}
        for owner in np.unique(owners):
            rows = np.flatnonzero(owners == owner)
            items = draws.items[rows] - self.starts[owner]
            part = self.sets[owner].batch(Draws(draws.epoch, draws.places[rows], items))
            for key, values in part.items():
                if key not in merged:
                    merged[key] = values.new_empty(len(owners), *values.shape[1:])
                merged[key][torch.from_numpy(rows)] = values
        return merged
