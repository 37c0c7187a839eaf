"""The data module: several weighted sets in one loader, whole scenes held out for validation and test."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from edgevae.errors import SourceError
from edgevae.preprocess import InputSpec

from .augment import AugmentOptions
from .cache import open_set
from .draws import BatchSampler
from .frames import NO_CLASS, Batch, Frames, Mixture, without_holes
from .prepare import DEPTH_UNIT_M
from .sets import FrameSet, SetOptions
from .splits import Split, split

LOOKED_AT = 8  # frames of a set whose depth is compared with the network's range
IN_RANGE = 0.01  # so many of their readings are to be in it


class FramesDataModule(L.LightningDataModule):
    """Sets of pictures, with depth or without, for ``fit`` and ``test``.

    Args:
        sets: what to train on, to validate with and to test with.
        root: folder that the sets' paths are relative to; the environment variable EDGEVAE_DATA by default.
        cache_dir: where decoded images are kept; ~/.cache/edgevae/frames by default.
        batch_size: frames in a batch of one process.
        workers: loader processes; 0 loads in the training process.
        epoch_frames: frames drawn in one epoch; 0 for as many as there are.
        augment: what is done to training frames.
        labels: what the classes are: "class", as the sets say; "scene"; or "none".
        seed: of order and augmentation; null takes that of the run.

    Attributes:
        classes: their names, sorted; those of all sets together. Empty for none.
        names: the sets that are scored: validation sets; for ``test`` those with a test part, if any has one.
        held_images: how many frames of each.
        spec: what frames are packed for; None: what the trainer's model takes.
    """

    def __init__(
        self,
        sets: list[SetOptions],
        root: str | None = None,
        cache_dir: str | None = None,
        batch_size: int = 32,
        workers: int = 1,
        epoch_frames: int = 0,
        augment: AugmentOptions | None = None,
        labels: str = "class",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if labels not in ("class", "scene", "none"):
            raise ValueError(f"labels is {labels!r}, wanted class, scene or none")
        if batch_size < 1 or workers < 0 or epoch_frames < 0:
            raise ValueError("batch_size is to be at least 1, workers and epoch_frames cannot be negative")
        self.sets = sets
        self.root = Path(root or os.environ.get("EDGEVAE_DATA", "."))
        self.cache_dir = Path(cache_dir) if cache_dir else Path.home() / ".cache" / "edgevae" / "frames"
        self.batch_size, self.workers, self.epoch_frames = batch_size, workers, epoch_frames
        self.augment = augment or AugmentOptions()
        self.labels, self.seed = labels, seed
        self.classes: list[str] = []
        self.spec: InputSpec | None = None
        self._opened: list[FrameSet] = []
        self._splits: list[Split] = []
        self._held: dict[str, tuple[FrameSet, list[int]]] = {}

    @property
    def names(self) -> list[str]:
        return list(self._held)

    @property
    def held_images(self) -> list[int]:
        return [len(indices) for _, indices in self._held.values()]

    def prepare_data(self) -> None:
        """Make the caches, in one process of each machine."""
        self._open()

    def setup(self, stage: str) -> None:
        self._open()
        held = [(frames, parts.validation) for frames, parts in zip(self._opened, self._splits, strict=True)]
        if stage == "test" and any(parts.test for parts in self._splits):
            held = [(frames, parts.test) for frames, parts in zip(self._opened, self._splits, strict=True)]
        self._held = {frames.options.name: (frames, indices) for frames, indices in held if indices}
        if not self._held:
            raise SourceError(
                "no frame is held out; give hold_out, hold_out_last or parts to one of the sets."
            )
        self._check_fit()

    def _open(self) -> None:
        if self._opened:
            return
        names = [options.name for options in self.sets]
        if len(set(names)) < len(names):
            raise SourceError(f"the sets are called {names}; give each a name of its own.")
        opened = [open_set(options, self.root, self.cache_dir) for options in self.sets]
        self._splits = [split(frames.entries, frames.options) for frames in opened]
        used = zip(opened, self._splits, strict=True)
        labels = {self._label(frames, i) for frames, parts in used for part in parts for i in part}
        self.classes = sorted(labels - {""})
        self._opened = opened

    def _label(self, frames: FrameSet, index: int) -> str:
        entry = frames.entries[index]
        return entry.label if self.labels == "class" else entry.scene if self.labels == "scene" else ""

    def _check_fit(self) -> None:
        """Raise SourceError if the model and the data do not fit each other."""
        spec = self._spec()
        depth = spec.depth
        if depth is not None and all(frames.depth is None for frames in self._opened):
            raise SourceError(
                f"the model takes {spec.channels} channels, depth the last, and no set has depth; build it "
                "with channels: 3, or add a set with depth."
            )
        model: Any = self.trainer.lightning_module.net if self.trainer else None
        for frames, parts in zip(self._opened, self._splits, strict=True):
            unlabelled = next((i for part in parts for i in part if not self._label(frames, i)), None)
            if unlabelled is not None and model is not None and model.condition_dim:
                raise SourceError(
                    f"the model is conditioned on classes, and frame {frames.entries[unlabelled].name} of "
                    f"set {frames.options.name!r} has none; take the set out, or use --data.labels scene."
                )
            if depth is not None and depth.metric and frames.depth is not None:
                _check_range(frames, depth.min_m, depth.max_m)

    def provenance(self) -> list[dict[str, Any]]:
        """Sets, scenes, licences and numbers of training pairs, for the checkpoint and the model file."""
        entries = []
        for frames, parts in zip(self._opened, self._splits, strict=True):
            pairs = Counter((frames.entries[i].licence, frames.entries[i].scene) for i in parts.train)
            for licence in sorted({licence for licence, _ in pairs}):
                scenes = {scene: n for (what, scene), n in sorted(pairs.items()) if what == licence}
                entries.append(
                    {
                        "name": frames.options.name,
                        "scenes": list(scenes),
                        "licence": licence,
                        "pairs": sum(scenes.values()),
                    }
                )
        return entries

    def held(self, name: str) -> Frames:
        """The frames of the set ``name`` that are scored.

        Raises:
            SourceError: no set of that name is scored.
        """
        if name not in self._held:
            raise SourceError(f"no frames of a set {name!r} are held out; wanted one of {self.names}.")
        frames, indices = self._held[name]
        return self._frames(frames, indices)

    def trained(self, name: str) -> Frames:
        """The frames of the set ``name`` that train, as they are.

        Raises:
            SourceError: no set of that name trains.
        """
        for frames, parts in zip(self._opened, self._splits, strict=True):
            if frames.options.name == name and parts.train:
                return self._frames(frames, parts.train)
        raise SourceError(f"no frames of a set {name!r} train; the sets are {[s.name for s in self.sets]}.")

    def train_dataloader(self) -> DataLoader[Batch]:
        parts, weights = [], []
        for frames, part in zip(self._opened, self._splits, strict=True):
            if part.train:
                parts.append(self._frames(frames, part.train, self.augment))
                weights.append(np.full(len(part.train), frames.options.weight))
        if not parts:
            raise SourceError("every frame is held out; wanted at least one to train on.")
        each = np.concatenate(weights)
        return self._loader(
            Mixture(parts),
            self.workers,
            shuffle=True,
            weights=None if each.min() == each.max() else each,
            epoch_frames=self.epoch_frames,
        )

    def drawn(self, count: int) -> Iterator[Tensor]:
        """What ``count`` training frames or more are to become, epoch after epoch: targets (N, C, h, w).

        Their holes are filled: ``training.data.frames.without_holes``.
        """
        loader = self.train_dataloader()
        for epoch in range(-(-count // len(loader))):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                yield without_holes(batch["target"], self._spec())

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """One loader for each set that is scored, in the order of ``names`` and ``held_images``."""
        return [self._loader(self.held(name), 0, shuffle=False) for name in self.names]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return self.val_dataloader()

    def _frames(self, frames: FrameSet, indices: list[int], augment: AugmentOptions | None = None) -> Frames:
        labels = None
        if self.classes:
            number = {name: i for i, name in enumerate(self.classes)}
            labels = np.array([number.get(self._label(frames, i), NO_CLASS) for i in indices], np.int64)
        return Frames(frames, indices, self._spec(), augment, seed=self._seed(), labels=labels)

    def _spec(self) -> InputSpec:
        if self.spec is not None:
            return self.spec
        assert self.trainer is not None
        return cast(InputSpec, self.trainer.lightning_module.net.input)  # type: ignore[union-attr]

    def _seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))

    def _loader(
        self,
        dataset: Frames | Mixture,
        workers: int,
        *,
        shuffle: bool,
        weights: npt.NDArray[np.float64] | None = None,
        epoch_frames: int = 0,
    ) -> DataLoader[Batch]:
        """A loader of whole batches: the sampler names them, the data set makes them."""
        sampler = BatchSampler(
            len(dataset),
            self.batch_size,
            shuffle=shuffle,
            weights=weights,
            epoch_frames=epoch_frames,
            seed=self._seed(),
            rank=self.trainer.global_rank if self.trainer else 0,
            processes=self.trainer.world_size if self.trainer else 1,
        )
        return _Loader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_one_thread,
            # The loader draws a number for its workers; taken from the global generator, what the model
            # samples would change with the number of workers.
            generator=torch.Generator(),
        )


class _Loader(DataLoader[Batch]):
    """Starts when the first batch is asked for, and not before.

    Lightning makes the first iterator of a run before it tells the sampler which epoch the run is resumed at,
    and workers would begin with another one.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from super().__iter__()


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _check_range(frames: FrameSet, min_m: float, max_m: float) -> None:
    """Raise SourceError if hardly a reading of some frames is between ``min_m`` and ``max_m``."""
    assert frames.depth is not None
    chosen = np.unique(np.linspace(0, len(frames) - 1, LOOKED_AT).astype(int))
    metres = np.concatenate([frames.depth[i][frames.depth[i] > 0] for i in chosen]) * DEPTH_UNIT_M
    if metres.size and ((metres >= min_m) & (metres <= max_m)).mean() < IN_RANGE:
        raise SourceError(
            f"depth of set {frames.options.name!r} is {metres.min():.3g} to {metres.max():.3g} m in the "
            f"frames looked at, the model takes {min_m:g} to {max_m:g} m; is the set's depth_scale right "
            f"({frames.options.depth_scale or 'the default of its kind'})?"
        )
