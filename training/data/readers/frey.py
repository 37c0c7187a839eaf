"""Frey Face: 1965 frames of one face, as Sam Roweis published them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevae.errors import SourceError
from edgevae.sources.matlab import load_v5

from .base import Entry, Picture

HEIGHT, WIDTH = 28, 20


class Frey:
    """``frey_rawface.mat`` (MATLAB v5): ``ff`` uint8 (560, N), a column for each grey picture, row by row."""

    def __init__(self, path: Path, licence: str) -> None:
        wanted = "wanted frey_rawface.mat with ff, uint8 (560, N)"
        content = load_v5(path, "ff")
        if "ff" not in content:
            raise SourceError(f"{path} has no variable ff; {wanted}: download it again.")
        faces = np.asarray(content["ff"])
        if faces.ndim != 2 or faces.shape[0] != HEIGHT * WIDTH or not faces.size or faces.dtype != np.uint8:
            raise SourceError(f"{path} has ff {faces.dtype} {faces.shape}; {wanted}: download it again.")
        self._faces = np.ascontiguousarray(faces.T).reshape(-1, HEIGHT, WIDTH)
        self.licence, self.inputs = licence, [path]

    def entries(self) -> list[Entry]:
        return [Entry(str(i), "frey", self.licence, "", "frey") for i in range(len(self._faces))]

    def read(self, index: int) -> Picture:
        return self._faces[index], None
