"""MNIST and whatever else comes as its idx files (LeCun, Cortes, Burges)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevae.errors import SourceError

from .base import Entry, Picture

_PARTS = {"train": "train", "test": "t10k"}
_NAMES = {1: "labels", 3: "images"}  # by dimensions


class Mnist:
    """The idx files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and ``t10k-...``, .gz or not.

    Grey pictures with white strokes on black; the scenes are "train" and "test", the classes the digits. One
    of the two parts will do.
    """

    def __init__(self, root: Path, licence: str) -> None:
        self.licence = licence
        self._files: dict[str, tuple[Path, Path]] = {}
        for part, prefix in _PARTS.items():
            images, labels = _find(root, prefix, 3), _find(root, prefix, 1)
            if images and labels:
                self._files[part] = (images, labels)
            elif images or labels:
                found, absent = (images, "labels-idx1") if images else (labels, "images-idx3")
                raise SourceError(
                    f"{found} has no {prefix}-{absent}-ubyte beside it; place the four files of MNIST, .gz "
                    "or not, in one folder."
                )
        if not self._files:
            raise SourceError(
                f"{root} holds no idx files; wanted train-images-idx3-ubyte, train-labels-idx1-ubyte, "
                "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, .gz or not, as MNIST is published."
            )
        self.inputs = [path for files in self._files.values() for path in files]
        self._images: npt.NDArray[np.uint8] | None = None  # all of them, 55 MB, while the cache is written

    def entries(self) -> list[Entry]:
        parts, labels = [], []
        for part, files in self._files.items():
            images, digits = read_idx(files[0], 3), read_idx(files[1], 1)
            if len(images) != len(digits) or not len(images):
                raise SourceError(
                    f"{files[0]} holds {len(images)} pictures, {files[1]} {len(digits)} labels; wanted as "
                    "many of each: take both from the same place."
                )
            parts.append(images)
            labels += [(part, i, int(digit)) for i, digit in enumerate(digits)]
        if len({images.shape[1:] for images in parts}) > 1:
            raise SourceError(
                f"pictures of {' and '.join(str(files[0]) for files in self._files.values())} are "
                f"{' and '.join(str(images.shape[1:]) for images in parts)}; wanted one size."
            )
        self._images = np.concatenate(parts)
        width = len(str(max(digit for _, _, digit in labels)))  # so that names sort as numbers do
        return [
            Entry(f"{part}/{i}", part, self.licence, f"{digit:0{width}}", f"{part}/{i}")
            for part, i, digit in labels
        ]

    def read(self, index: int) -> Picture:
        if self._images is None:
            self.entries()
        assert self._images is not None
        return self._images[index], None


def _find(root: Path, prefix: str, dimensions: int) -> Path | None:
    name = f"{prefix}-{_NAMES[dimensions]}"
    candidates = (f"{name}{dot}idx{dimensions}-ubyte{gz}" for gz in ("", ".gz") for dot in ("-", "."))
    return next((path for candidate in candidates if (path := root / candidate).is_file()), None)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes: 0, 0, 8, D, then D sizes as big-endian int32, then the bytes.

    Raises:
        SourceError: the file is damaged or holds something else.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path} cannot be read ({error}); download it again.") from error
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise SourceError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'}, wanted 00 00 08 {dimensions:02x}, an "
            f"idx file of {_NAMES[dimensions]}; download it again."
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", dimensions, 4))
    if min(shape) < 0 or len(content) - start != np.prod(shape, dtype=object):
        raise SourceError(
            f"{path} holds {len(content) - start} bytes, wanted {' x '.join(map(str, shape))} of them: it is "
            "cut off or damaged; download it again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
