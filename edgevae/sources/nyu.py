"""``nyu:FILE.mat``: the labelled pairs of NYU Depth V2 (Silberman et al. 2012), as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError, SourceError
from ..frame import Frame, Intrinsics
from .base import Source
from .matlab import load_v5

# Of the colour camera, to which depth was projected; the pictures are undistorted (the data set's toolbox).
_CAMERA = Intrinsics(518.858, 519.470, 325.582, 253.736, 640, 480)
_FPS = 30.0


class NyuFile:
    """``nyu_depth_v2_labeled.mat``: pairs by their number from 0.

    As published it is MATLAB v7.3, which is HDF5 and is read pair by pair: images (N, 3, W, H) and depths
    (N, W, H). Saved anew as v5 it goes through SciPy, which reads it whole: images (H, W, 3, N) and depths
    (H, W, N).

    Raises:
        SourceError: the file is missing, or no such file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._file: Any = None
        self._hdf5 = True
        if not Path(path).is_file():
            raise SourceError(f"no file {path}; wanted nyu_depth_v2_labeled.mat.")
        try:
            self._open()
            shapes = self._images.shape, self._depths.shape
            kinds = self._images.dtype, self._depths.dtype
        # SourceError: of a v5 file; the others are what h5py raises over a damaged or foreign one
        except (SourceError, OSError, KeyError, AttributeError, RuntimeError) as error:
            self.close()
            raise SourceError(
                f"{path} cannot be read as nyu_depth_v2_labeled.mat ({error}); download it again."
            ) from error
        images, depths = shapes
        fits = len(images) == 4 and images[1] == 3 and depths == (images[0], *images[2:])
        if not fits or not all(images):
            self.close()
            raise SourceError(
                f"{path} has images {images} and depths {depths}; wanted (N, 3, W, H) and (N, W, H)."
                if self._hdf5
                else f"{path} has images {images[::-1]} and depths {depths[::-1]}; wanted (H, W, 3, N) and "
                "(H, W, N)."
            )
        if kinds[0] != np.uint8 or kinds[1].kind != "f":
            self.close()
            raise SourceError(
                f"{path} has images {kinds[0]} and depths {kinds[1]}; wanted uint8 and float32."
            )

    def _open(self) -> None:
        """Both versions as HDF5 shows them: MATLAB's dimensions reversed."""
        with open(self._path, "rb") as file:
            self._hdf5 = not file.read(19).startswith(b"MATLAB 5.0 MAT-file")
        if self._hdf5:
            import h5py  # type: ignore[import-untyped]

            self._file = h5py.File(self._path, "r", locking="best-effort")
            self._images, self._depths = self._file["images"], self._file["depths"]
        else:
            self._file = load_v5(self._path, "images", "depths", "scenes", "sceneTypes")
            self._images, self._depths = self._file["images"].T, self._file["depths"].T

    def __len__(self) -> int:
        return int(self._images.shape[0])

    def pair(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """uint8 (H, W, 3) R G B and float32 (H, W) metres; MATLAB stores columns first.

        Raises:
            OSError: this part of the file cannot be read.
        """
        rgb = np.ascontiguousarray(self._images[index].transpose(2, 1, 0), dtype=np.uint8)
        return rgb, np.ascontiguousarray(self._depths[index].T, dtype=np.float32)

    def texts(self, name: str) -> list[str] | None:
        """A text for each pair: "scenes" ("kitchen_0004a") or "sceneTypes" ("kitchen"); None without them.

        Raises:
            SourceError: the file has them in another form.
        """
        if name not in self._file:
            return None
        try:
            cells = np.asarray(self._file[name]).ravel()
            if self._hdf5:  # a reference for each text, to its UTF-16 code units
                texts = ["".join(map(chr, np.asarray(self._file[cell]).ravel())) for cell in cells]
            else:
                texts = [str(np.asarray(cell).ravel()[0]) for cell in cells]
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise SourceError(
                f"{self._path} has {name} that are no texts ({error}); download it again."
            ) from error
        if len(texts) != len(self):
            raise SourceError(
                f"{self._path} has {len(texts)} {name} for {len(self)} pairs, wanted one for each; download "
                "it again."
            )
        return texts

    def close(self) -> None:
        if self._file is not None and self._hdf5:
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
