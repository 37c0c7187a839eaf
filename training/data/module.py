"""The data module: several weighted sets in one loader, whole scenes held out for validation."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler

from edgevae.errors import SourceError
from edgevae.preprocess import InputSpec, pack_with_mask

from .augment import AugmentOptions, dropped, jitter, move
from .sets import DEPTH_UNIT_M, FrameSet, SetOptions, open_set


class Frames(Dataset[dict[str, Tensor]]):
    """Frames of one set as the network takes them, packed by the runtime's own preprocessing.

    An item holds ``input`` and ``target`` float32 (C, h, w), which differ where depth is withheld from the
    encoder; ``valid`` bool (h, w), the target's depth is a reading; ``seen`` bool (h, w), the encoder got it.
    """

    def __init__(
        self, frames: FrameSet, indices: list[int], spec: InputSpec, augment: AugmentOptions | None = None
    ) -> None:
        self.frames, self.indices, self.spec, self.augment = frames, indices, spec, augment

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        i = self.indices[item]
        rgb, depth = self.frames.color[i], self.frames.depth[i]
        missing = np.zeros((self.spec.height, self.spec.width), np.bool_)
        if self.augment is not None:
            rng = np.random.default_rng(int(torch.randint(2**62, ()).item()))
            rgb, depth = move(rgb, depth, self.augment, rng)
            rgb = jitter(rgb, self.augment, rng)
            missing = dropped(missing.shape, self.augment, rng)
        with_depth = self.spec.depth is not None
        target, valid = pack_with_mask(
            rgb, depth if with_depth else None, self.spec, depth_scale=DEPTH_UNIT_M
        )
        seen = valid & ~missing
        shown = target
        if self.spec.depth is not None and missing.any():
            shown = target.copy()
            shown[3][missing] = self.spec.depth.no_reading
        if self.augment is not None and self.frames.options.kind == "synthetic":
            target, valid = beyond_range(target, valid, self.spec)
        return {
            "input": torch.from_numpy(shown),
            "target": torch.from_numpy(target),
            "valid": torch.from_numpy(valid),
            "seen": torch.from_numpy(seen),
        }


def beyond_range(
    target: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], spec: InputSpec
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A rendered target with its sky at the far end of the range, and the mask that counts it.

    A renderer misses no surface: where it has no reading, nothing is in range. Without this the decoder is
    free to put anything there, phantom obstacles in the sky among them. The encoder still sees no reading.
    """
    if spec.depth is None or not spec.depth.metric:
        return target, valid
    target = target.copy()
    target[3][~valid] = spec.depth.to_network(spec.depth.max_m)
    return target, np.ones_like(valid)


class FramesDataModule(L.LightningDataModule):
    """Sets of RGB-D frames for ``fit`` and ``test``.

    Args:
        sets: what to train on and to validate with.
        root: folder that the sets' paths are relative to; the environment variable EDGEVAE_DATA by default.
        cache_dir: where decoded images are kept; ~/.cache/edgevae/frames by default.
        batch_size: frames in a batch.
        workers: loader processes; 0 loads in the training process.
        epoch_frames: frames drawn in one epoch; 0 for as many as there are.
        augment: what is done to training frames.
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
    ) -> None:
        super().__init__()
        self.sets = sets
        self.root = Path(root or os.environ.get("EDGEVAE_DATA", "."))
        self.cache_dir = Path(cache_dir) if cache_dir else Path.home() / ".cache" / "edgevae" / "frames"
        self.batch_size, self.workers, self.epoch_frames = batch_size, workers, epoch_frames
        self.augment = augment or AugmentOptions()
        self.names: list[str] = []
        self.held_images: list[int] = []
        self.classes: list[str] = []
        self.spec: InputSpec | None = None  # what frames are packed for; None: what the trainer's model takes
        self._opened: list[FrameSet] = []

    def setup(self, stage: str) -> None:
        if self._opened:
            return
        self._opened = [open_set(options, self.root, self.cache_dir) for options in self.sets]
        splits = [frames.split() for frames in self._opened]
        names = [options.name for options in self.sets]
        if len(set(names)) < len(names):
            raise SourceError(f"the sets are called {names}; give each a name of its own.")
        held = {name: len(held) for name, (_, held) in zip(names, splits, strict=True) if held}
        if not held:
            raise SourceError("no frame is held out; give hold_out or hold_out_last to one of the sets.")
        self.names, self.held_images = list(held), list(held.values())

    def provenance(self) -> list[dict[str, Any]]:
        """Sets, scenes, licences and numbers of training pairs, for the checkpoint and the model file."""
        entries = []
        for frames in self._opened:
            pairs = Counter((frames.licences[i], frames.scenes[i]) for i in frames.split()[0])
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

    def _spec(self) -> InputSpec:
        if self.spec is not None:
            return self.spec
        assert self.trainer is not None
        return cast(InputSpec, self.trainer.lightning_module.net.input)  # type: ignore[union-attr]

    def held(self, name: str) -> Frames:
        """The held-out frames of a set of ``names``."""
        frames = next(frames for frames in self._opened if frames.options.name == name)
        return Frames(frames, frames.split()[1], self._spec())

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        parts, weights = [], []
        for frames in self._opened:
            train, _ = frames.split()
            if train:
                parts.append(Frames(frames, train, self._spec(), self.augment))
                weights += [frames.options.weight] * len(train)
        if not parts:
            raise SourceError("every frame is held out; wanted at least one to train on.")
        dataset: ConcatDataset[dict[str, Tensor]] = ConcatDataset(parts)
        sampler = WeightedRandomSampler(weights, self.epoch_frames or len(weights), replacement=True)
        if len(set(weights)) == 1 and not self.epoch_frames:
            return self._loader(dataset, shuffle=True, drop_last=len(dataset) >= self.batch_size)
        return self._loader(dataset, sampler=sampler, drop_last=len(sampler) >= self.batch_size)

    def val_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """One loader for each set that holds frames out, in the order of ``names`` and ``held_images``."""
        splits = [(frames, frames.split()[1]) for frames in self._opened]
        return [self._loader(Frames(frames, held, self._spec())) for frames, held in splits if held]

    def test_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        return self.val_dataloader()

    def _loader(self, dataset: Dataset[dict[str, Tensor]], **options: Any) -> DataLoader[dict[str, Tensor]]:
        training = bool(options)
        workers = self.workers if training else 0
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
            **options,
        )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
