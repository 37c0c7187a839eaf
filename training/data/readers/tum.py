"""Sequences of the TUM RGB-D benchmark (Sturm et al. 2012)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevae.errors import SourceError

from .base import Entry, Picture
from .image_files import read_color, read_depth


class Tum:
    """A sequence of the TUM RGB-D benchmark: ``rgb.txt`` and ``depth.txt`` list "timestamp filename".

    Each colour image takes the depth image nearest in time, if it is within ``max_difference_s``.
    """

    def __init__(
        self, root: Path, licence: str, depth_scale: float = 1 / 5000, max_difference_s: float = 0.02
    ) -> None:
        self.licence, self.depth_scale = licence, depth_scale
        lists = [root / "rgb.txt", root / "depth.txt"]
        (color_s, color), (depth_s, depth) = map(_timed_files, lists)
        nearest = np.abs(color_s[:, None] - depth_s[None]).argmin(1)
        near = np.abs(color_s - depth_s[nearest]) <= max_difference_s
        if not near.any():
            raise SourceError(
                f"no colour image of {root} has a depth image within {max_difference_s} s; "
                "are rgb.txt and depth.txt of the same sequence?"
            )
        self.root = root
        self._color = [color[i] for i in np.flatnonzero(near)]
        self._depth = [depth[i] for i in nearest[near]]
        self.inputs = [root / name for name in self._color + self._depth] + lists

    def entries(self) -> list[Entry]:
        scene = self.root.name
        return [Entry(name, scene, self.licence, "", scene) for name in self._color]

    def read(self, index: int) -> Picture:
        depth = read_depth(self.root / self._depth[index], self.depth_scale)
        return read_color(self.root / self._color[index]), depth


def _timed_files(path: Path) -> tuple[npt.NDArray[np.float64], list[str]]:
    if not path.is_file():
        raise SourceError(f"{path} is missing; wanted a TUM sequence with rgb.txt and depth.txt.")
    try:
        lines = path.read_text().splitlines()
        rows = [line.split() for line in lines if line.strip() and line[0] != "#"]
        times, names = np.array([float(row[0]) for row in rows]), [row[1] for row in rows]
    except (ValueError, IndexError) as error:
        raise SourceError(f"{path} has a line that is not 'timestamp filename' ({error}).") from error
    if not rows:
        raise SourceError(f"{path} lists no images; wanted lines 'timestamp filename'.")
    return times, names
