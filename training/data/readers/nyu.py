"""The labelled pairs of NYU Depth V2 (Silberman et al. 2012)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevae.errors import FrameError, SourceError
from edgevae.sources.matlab import load_v5
from edgevae.sources.nyu import NyuFile

from .base import Entry, Picture


class NyuMat:
    """``nyu_depth_v2_labeled.mat``, as published or saved anew as MATLAB v5.

    With a split file (``splits.mat`` of the data set: 1-based ``trainNdxs`` and ``testNdxs``) the scenes are
    called "train" and "test"; otherwise as in the file's ``scenes`` ("kitchen_0004"), or all "nyu" where it
    has none. ``sceneTypes`` ("kitchen") of the file are the classes.
    """

    def __init__(self, path: Path, licence: str, split_file: Path | None = None) -> None:
        self.path, self.licence, self.inputs = path, licence, [path]
        self._pairs = NyuFile(path)
        parts = np.full(len(self._pairs), "", dtype=object)
        if split_file is not None:
            for part, key in (("train", "trainNdxs"), ("test", "testNdxs")):
                indices = _split_indices(split_file, key)
                if indices.min(initial=1) < 1 or indices.max(initial=1) > len(parts):
                    raise SourceError(
                        f"{split_file}: {key} goes from {indices.min()} to {indices.max()}, "
                        f"wanted 1 to {len(parts)}, the frames of {path.name}."
                    )
                parts[indices - 1] = part
            self.inputs.append(split_file)
        self._parts = [str(part) for part in parts]
        self._index = [i for i, part in enumerate(self._parts) if part or split_file is None]
        if not self._index:
            raise SourceError(f"{split_file} names no frame of {path.name}; restore it from the data set.")

    def entries(self) -> list[Entry]:
        scenes, types = self._pairs.texts("scenes"), self._pairs.texts("sceneTypes")
        return [
            Entry(
                name=str(i),
                scene=self._parts[i] or (scenes[i] if scenes else "nyu"),
                licence=self.licence,
                label=types[i] if types else "",
                group=scenes[i] if scenes else "nyu",
            )
            for i in self._index
        ]

    def read(self, index: int) -> Picture:
        number = self._index[index]
        try:
            return self._pairs.pair(number)
        except (OSError, RuntimeError) as error:
            raise FrameError(
                f"pair {number} of {self.path} cannot be read ({error}); download the file again."
            ) from error


def _split_indices(path: Path, key: str) -> npt.NDArray[np.int64]:
    """1-based frame numbers, of a MATLAB v5 file or, by h5py, one of v7.3."""
    import h5py  # type: ignore[import-untyped]

    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                numbers = np.asarray(file[key])
        else:
            numbers = np.asarray(load_v5(path, key)[key])
        return numbers.reshape(-1).astype(np.int64)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as a split file with {key} ({error}).") from error
