"""One RGB-D frame: arrays, clock, camera. The conventions every source and sink relies on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FrameError


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """Pinhole camera, in pixels of an image of ``width`` x ``height``.

    ``distortion`` holds OpenCV's coefficients (k1, k2, p1, p2, k3, ...), empty for none.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...] = ()

    def scaled(self, width: int, height: int) -> Intrinsics:
        """The same camera after its image was stretched to ``width`` x ``height``.

        Pixel centres lie at integer coordinates, so the principal point moves by
        ``(c + 0.5) * s - 0.5``.
        """
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            self.fx * sx,
            self.fy * sy,
            (self.cx + 0.5) * sx - 0.5,
            (self.cy + 0.5) * sy - 0.5,
            width,
            height,
            self.distortion,
        )


@dataclass(slots=True)
class Frame:
    """A colour image and, where there is one, the depth image on the same pixel grid.

    Attributes:
        rgb: uint8 (H, W, 3), R G B.
        depth: uint16 (H, W) in units of ``depth_scale`` metres, or float32 (H, W) metres, or None.
            0, NaN and infinity mean "no reading".
        depth_scale: metres per unit of a uint16 ``depth``; ignored for float32.
        timestamp_ns: time of exposure on ``clock``.
        clock: which clock that is: "sensor", "host" (time.time_ns), "file" (as recorded) or "synthetic".
        index: frame number in its source, from 0.
        arrival_ns: ``time.monotonic_ns()`` when the frame reached this process.
        intrinsics: of the colour camera, None where unknown.
        pose: float64 (4, 4) camera-to-world, OpenCV camera frame, metres; None where unknown.
        measured: bool (H, W), where ``depth`` is the sensor's own reading and not one that a filter
            invented; None: wherever there is one.
        pair_ms: time it took to match and register the depth of a second source; None for one source.

    Raises:
        FrameError: an array has the wrong dtype or shape, or depth is not of the size of colour.
    """

    rgb: npt.NDArray[np.uint8]
    depth: npt.NDArray[Any] | None = None
    depth_scale: float = 0.001
    timestamp_ns: int = 0
    clock: str = "host"
    index: int = 0
    arrival_ns: int = field(default_factory=time.monotonic_ns)
    intrinsics: Intrinsics | None = None
    pose: npt.NDArray[np.float64] | None = None
    measured: npt.NDArray[np.bool_] | None = None
    pair_ms: float | None = None

    def __post_init__(self) -> None:
        check_rgb(self.rgb)
        if self.depth is not None:
            check_depth(self.depth, self.rgb.shape[:2])
        if self.pose is not None and self.pose.shape != (4, 4):
            raise FrameError(f"pose has shape {self.pose.shape}, wanted (4, 4) camera-to-world.")
        if self.measured is not None and (
            self.depth is None or self.measured.dtype != bool or self.measured.shape != self.depth.shape
        ):
            got = f"{self.measured.dtype} {self.measured.shape}"
            raise FrameError(f"the mask of measured depth is {got}, wanted bool of the size of depth.")

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    def depth_m(self) -> npt.NDArray[np.float32] | None:
        """Depth in metres, float32 (H, W), 0 where there is no reading; None without depth."""
        if self.depth is None:
            return None
        if self.depth.dtype == np.uint16:
            return self.depth.astype(np.float32) * np.float32(self.depth_scale)
        depth = self.depth.astype(np.float32, copy=True)
        depth[~(np.isfinite(depth) & (depth > 0))] = 0.0
        return depth


MAX_SIDE = 65536  # pixels of a frame, as the compiled module counts them


def check_rgb(rgb: object) -> None:
    """Raise FrameError unless ``rgb`` is uint8 (H, W, 3) with at least one pixel."""
    if not isinstance(rgb, np.ndarray):
        raise FrameError(f"colour is a {type(rgb).__name__}, wanted a uint8 array (H, W, 3).")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise FrameError(f"colour is {rgb.dtype} {rgb.shape}, wanted uint8 (H, W, 3) in R, G, B order.")
    if max(rgb.shape) > MAX_SIDE:
        raise FrameError(f"colour is {rgb.shape[1]}x{rgb.shape[0]}, wanted at most {MAX_SIDE} pixels a side.")


def check_depth(depth: object, size: tuple[int, ...]) -> None:
    """Raise FrameError unless ``depth`` is uint16 or float32 of the given (H, W)."""
    if not isinstance(depth, np.ndarray):
        raise FrameError(f"depth is a {type(depth).__name__}, wanted a uint16 or float32 array (H, W).")
    if depth.dtype not in (np.uint16, np.float32):
        raise FrameError(
            f"depth is {depth.dtype}, wanted uint16 (with depth_scale) or float32 metres; "
            "convert it with depth.astype(numpy.float32)."
        )
    if depth.shape != tuple(size):
        raise FrameError(
            f"depth is {depth.shape}, colour is {tuple(size)}; "
            "wanted the same size, depth registered to colour."
        )
