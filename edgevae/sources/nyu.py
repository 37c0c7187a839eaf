"""``nyu:FILE.mat``: the labelled pairs of NYU Depth V2 (Silberman et al. 2012), as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError, SourceError
from ..frame import Frame, Intrinsics
from .base import Source

# Of the colour camera, to which depth was projected; the pictures are undistorted (the data set's toolbox).
_CAMERA = Intrinsics(518.858, 519.470, 325.582, 253.736, 640, 480)
_FPS = 30.0


class NyuFile:
    """``nyu_depth_v2_labeled.mat`` (MATLAB v7.3, which is HDF5): pairs by their number from 0.

    Raises:
        SourceError: the file is missing, or no such file.
    """

    def __init__(self, path: str | Path) -> None:
        import h5py  # type: ignore[import-untyped]

        self._file: Any = None
        if not Path(path).is_file():
            raise SourceError(f"no file {path}; wanted nyu_depth_v2_labeled.mat.")
        try:
            self._file = h5py.File(path, "r", locking="best-effort")
            self._images, self._depths = self._file["images"], self._file["depths"]
            shapes = self._images.shape, self._depths.shape
            kinds = self._images.dtype, self._depths.dtype
        except (OSError, KeyError, AttributeError, RuntimeError) as error:
            self.close()
            raise SourceError(
                f"{path} cannot be read as nyu_depth_v2_labeled.mat ({error}); download it again."
            ) from error
        images, depths = shapes
        if len(images) != 4 or images[1] != 3 or depths != (images[0], *images[2:]):
            self.close()
            raise SourceError(
                f"{path} has images {images} and depths {depths}; wanted (N, 3, W, H) and (N, W, H)."
            )
        if kinds[0] != np.uint8 or kinds[1].kind != "f":
            self.close()
            raise SourceError(
                f"{path} has images {kinds[0]} and depths {kinds[1]}; wanted uint8 and float32."
            )

    def __len__(self) -> int:
        return int(self._images.shape[0])

    def pair(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """uint8 (H, W, 3) R G B and float32 (H, W) metres; MATLAB stores columns first.

        Raises:
            OSError: this part of the file cannot be read.
        """
        rgb = np.ascontiguousarray(self._images[index].transpose(2, 1, 0), dtype=np.uint8)
        return rgb, np.ascontiguousarray(self._depths[index].T, dtype=np.float32)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class NyuSource(Source):
    """Every pair of the file. It names no times: timestamps are index / 30 s on the clock "file".

    The pairs are single views of many rooms, so there is no pose, and no frame resembles the one before.

    Args:
        path: the .mat file.
        with_depth: False leaves depth out.

    Raises:
        SourceError: the file is missing, or no such file.
    """

    def __init__(self, path: str | Path, *, with_depth: bool = True) -> None:
        self.name = f"nyu:{path}"
        self.fps = _FPS
        self._pairs = NyuFile(path)
        self._with_depth = with_depth
        self.length = len(self._pairs)
        self._next = 0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next pair.

        Raises:
            FrameError: it cannot be read; the next call goes on behind it.
        """
        index = self._next
        if index >= (self.length or 0):
            return None
        self._next += 1
        try:
            rgb, depth = self._pairs.pair(index)
        except (OSError, RuntimeError) as error:
            raise FrameError(
                f"pair {index} of {self.name} cannot be read: {error}; download it again."
            ) from error
        return Frame(
            rgb=rgb,
            depth=depth if self._with_depth else None,
            timestamp_ns=round(index * 1e9 / _FPS),
            clock="file",
            index=index,
            intrinsics=_CAMERA if rgb.shape[:2] == (480, 640) else None,
        )

    def close(self) -> None:
        self._next = self.length or 0
        self._pairs.close()
