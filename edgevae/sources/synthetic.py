"""``synthetic[:seed]``: a rendered drive down a street, with exact depth, intrinsics and poses.

No hardware and no files: the picture of frame ``index`` depends on the seed and the index alone. The drive
does not repeat, and has no end unless it is given one.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import SourceError
from ..frame import Frame, Intrinsics
from .base import Source
from .synthetic_paint import Painter
from .synthetic_raster import Raster, View
from .synthetic_street import BLOCK_M, Street

FPS = 30
FAR_M = 100.0  # depth beyond is "no reading", as is the sky
_DRAWN_AHEAD_M = 210.0
_FOCAL_BY_WIDTH = 0.68  # 73 degrees across


class SyntheticSource(Source):
    """A drive down a street that is different for each seed.

    Depth is float32 metres along the optical axis, 0 for the sky and beyond ``FAR_M`` (100 m). Timestamps
    are ``index / 30`` seconds on the clock "synthetic".

    Args:
        seed: which street, 0 or more.
        width: of the picture, pixels.
        height: of the picture, pixels.
        frames: after how many the drive ends; None for never.
        with_depth: False gives colour alone.

    Raises:
        SourceError: a negative seed, or a picture smaller than 16x16 or larger than 2048x2048.
    """

    def __init__(
        self,
        seed: int = 0,
        width: int = 320,
        height: int = 240,
        *,
        frames: int | None = None,
        with_depth: bool = True,
    ) -> None:
        if seed < 0:
            raise SourceError(f"synthetic seed is {seed}, wanted 0 or more; for example synthetic:7.")
        if not (16 <= width <= 2048 and 16 <= height <= 2048):
            raise SourceError(f"synthetic size is {width}x{height}, wanted 16x16 to 2048x2048.")
        self.name = f"synthetic:{seed}"
        self.fps = float(FPS)
        self.length, self.endless = frames, frames is None
        focal = _FOCAL_BY_WIDTH * max(width, height * 4 / 3)
        self.intrinsics = Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)
        self._street = Street(seed)
        self._painter = Painter(self._street)
        self._raster = Raster(self.intrinsics, self._painter.leaves)
        self._with_depth = with_depth
        self._next = 0

    def frame(self, index: int) -> Frame:
        """Frame ``index`` of the drive, whatever was read before."""
        time_s = index / FPS
        eye_z, pose = self._street.eye(time_s)
        first = math.floor((eye_z - 14.0) / BLOCK_M)
        last = math.floor((eye_z + _DRAWN_AHEAD_M) / BLOCK_M)
        scene = self._street.scene(time_s, eye_z, first, last)
        view = View.of(self.intrinsics, pose)
        table = self._raster.draw(scene, view)
        rgb = self._painter.paint(self._raster, table, scene, view, first, last)
        depth_m = None
        if self._with_depth:
            inverse = self._raster.inverse
            depth_m = np.where(inverse >= np.float32(1.0 / FAR_M), np.float32(1.0) / inverse, np.float32(0.0))
        return Frame(
            rgb=rgb,
            depth=depth_m,
            timestamp_ns=index * 1_000_000_000 // FPS,
            clock="synthetic",
            index=index,
            intrinsics=self.intrinsics,
            pose=pose,
        )

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame; None after the last, where there is one."""
        if self._next == self.length:
            return None
        frame = self.frame(self._next)
        self._next += 1
        return frame
