"""Depth of one camera as another camera would see it, through OpenCV's registerDepth.

registerDepth by itself takes a depth image without distortion, reads past the end of one that is smaller
than its output, throws one depth pixel at one output pixel (a denser output is full of holes through which
what lies behind shows), and follows a distorted colour lens far outside its picture, where the polynomial
folds back. So it works between two ideal pinholes here:

    depth image --nearest--> pinhole of the depth camera            (only where its lens distorts)
                --registerDepth--> pinhole that covers the colour image, as dense as the depth image
                --nearest--> colour pixels                          (the colour lens, and its density)

Readings are carried, never averaged: a mean of near and far is where nothing stands. Each is spread over four
pixels, of which the nearest reading wins: steep surfaces come out nearer by the slope of half a pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..frame import Frame, Intrinsics
from .calibration import Calibration
from .lens import Maps, onto_pinhole, pinhole_of, through_lens
from .opencv_quiet import load_cv2

_NEAREST_M = 0.01  # what lies nearer, or behind the colour camera, it cannot see


class Registration:
    """Registers frames of one pair of cameras.

    Raises:
        SourceError: this OpenCV has no registerDepth, or a lens of the calibration is impossible.
    """

    def __init__(self, calibration: Calibration) -> None:
        self._cv2: Any = load_cv2()
        self._register: Any = _register_depth(self._cv2)
        self.calibration = calibration
        depth, color = calibration.depth, calibration.color
        self._depth = pinhole_of(self._cv2, depth, "depth", depth.fx, depth.fy)
        self._from_lens = through_lens(self._cv2, self._depth, depth) if depth.distortion else None
        self._grid = pinhole_of(self._cv2, color, "color", depth.fx, depth.fy)
        self._to_color = onto_pinhole(self._cv2, color, self._grid)
        # registerDepth walks its input by the size of its output: both are the larger of the two
        self._canvas = (
            max(self._depth.height, self._grid.height),
            max(self._depth.width, self._grid.width),
        )
        self._matrices = _matrix(self._depth, 0.0), _matrix(self._grid, 0.5)
        self._pose = calibration.color_from_depth.astype(np.float32)
        self._forward = self._towards_color()

    def _towards_color(self) -> npt.NDArray[np.float32] | None:
        """What a metre of depth at each pixel adds to the distance along the colour camera's axis.

        None where no reading can end up behind the colour camera.
        """
        x = (np.arange(self._depth.width) - self._depth.cx) / self._depth.fx
        y = (np.arange(self._depth.height) - self._depth.cy) / self._depth.fy
        row = self.calibration.color_from_depth[2]
        forward = row[0] * x[None, :] + row[1] * y[:, None] + row[2]
        if forward.min() > 0 and row[3] >= _NEAREST_M:
            return None
        return np.asarray(forward, np.float32)

    def check_sizes(self, color: Frame, depth: Frame) -> None:
        """Raise SourceError unless both frames have the sizes that the calibration is for."""
        for name, frame, camera in (
            ("colour", color, self.calibration.color),
            ("depth", depth, self.calibration.depth),
        ):
            if (frame.width, frame.height) != (camera.width, camera.height):
                raise SourceError(
                    f"{name} is {frame.width}x{frame.height}, the calibration is for {camera.width}x"
                    f"{camera.height}; calibrate at the size you stream, or set that size."
                )

    def register(self, depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``depth_m`` (H, W) of the depth camera, metres, on the colour camera's pixels.

        Returns:
            float32 (H', W') metres along the colour camera's axis, of the nearest surface at each pixel; 0
            where the depth camera has no reading or the colour camera sees what it does not.
        """
        if self._from_lens is not None:
            depth_m = self._nearest(depth_m, self._from_lens)
        if self._forward is not None:
            seen = depth_m * self._forward + self._pose[2, 3] > _NEAREST_M
            depth_m = np.where(seen, depth_m, np.float32(0))
        canvas = np.zeros(self._canvas, np.float32)
        canvas[: self._depth.height, : self._depth.width] = depth_m
        depth_matrix, grid_matrix = self._matrices
        registered = self._register(
            depth_matrix,
            grid_matrix,
            np.zeros(5, np.float32),
            self._pose,
            canvas,
            self._canvas[::-1],
            depthDilation=True,
        )
        np.nan_to_num(registered, copy=False, nan=0.0)
        return self._nearest(registered[: self._grid.height, : self._grid.width], self._to_color)

    def _nearest(self, image: npt.NDArray[np.float32], maps: Maps) -> npt.NDArray[np.float32]:
        cv2 = self._cv2
        return np.asarray(
            cv2.remap(image, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        )


def _register_depth(cv2: Any) -> Any:
    """OpenCV's function: in the main modules since 5, in those of opencv-contrib before."""
    for module in (cv2, getattr(cv2, "rgbd", None)):
        if register := getattr(module, "registerDepth", None):
            return register
    raise SourceError(
        f"OpenCV {cv2.__version__} has no registerDepth, which a calibration needs; "
        "run 'pip install \"opencv-python-headless>=5\"'."
    )


def _matrix(camera: Intrinsics, shift: float) -> npt.NDArray[np.float32]:
    """The camera's matrix, its centre moved by ``shift`` pixels.

    With depthDilation a point covers the pixel it is rounded to and those left, above and both; half a pixel
    right and down makes them the four around the point.
    """
    return np.array(
        [[camera.fx, 0, camera.cx + shift], [0, camera.fy, camera.cy + shift], [0, 0, 1]], np.float32
    )
