"""A frame made ready for a map: a pinhole camera's picture, with only the depth that can be trusted.

Decoded depth has a value at every pixel, also where the sensor had none, in the sky and across the edge of a
chair. Fused as it is, that becomes walls. So depth is taken out

- beyond ``max_depth_m``;
- within ``END_SHARE`` of either end of the model's depth encoding: a decoder puts "as far as I can say" and
  "no reading" there;
- where it steps by more than a surface would that is seen ``GRAZING_DEGREES`` off its normal: such pixels
  lie on an edge, between near and far, or on a surface seen so flat that its depth means nothing.

The measured depth of a camera passes the same sieve, but for the second rule. Odometry takes views
``with_edges``, without the third: edges are what it holds on to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from ..frame import Intrinsics

if TYPE_CHECKING:
    from ..frame import Frame
    from ..model import Decoded
    from ..preprocess import DepthEncoding

END_SHARE = 0.02
GRAZING_DEGREES = 75.0
SENSOR_STEP = 0.03  # a sensor's own noise from pixel to pixel, as a share of depth, is no edge


@dataclass(frozen=True, slots=True)
class View:
    """What a map takes of a frame.

    Attributes:
        rgb: uint8 (H, W, 3).
        depth_m: float32 (H, W) metres along the optical axis, 0 where there is nothing to trust.
        camera: of exactly this size, without distortion.
    """

    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    camera: Intrinsics

    @property
    def readings(self) -> int:
        """How many pixels have depth."""
        return int(np.count_nonzero(self.depth_m))

    def matrix(self) -> npt.NDArray[np.float64]:
        """The camera matrix (3, 3)."""
        c = self.camera
        return np.array([[c.fx, 0.0, c.cx], [0.0, c.fy, c.cy], [0.0, 0.0, 1.0]])

    def points(self, step: int = 1) -> npt.NDArray[np.float32]:
        """The (N, 3) points of every ``step``-th pixel with depth, in the camera's frame, metres."""
        depth_m = self.depth_m[::step, ::step]
        v, u = np.nonzero(depth_m)
        z = depth_m[v, u]
        c = self.camera
        return np.stack([(u * step - c.cx) / c.fx * z, (v * step - c.cy) / c.fy * z, z], axis=1).astype(
            np.float32
        )

    def within(self, side: int) -> View:
        """The same view on no more than ``side`` pixels a side: colour averaged, depth picked."""
        height, width = self.depth_m.shape
        step = max(1.0, max(height, width) / side)
        if step == 1.0:
            return self
        size = (round(width / step), round(height / step))
        return View(
            np.asarray(cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA), np.uint8),
            np.asarray(cv2.resize(self.depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT), np.float32),
            self.camera.scaled(*size),
        )


def decoded_view(
    decoded: Decoded,
    camera: Intrinsics,
    encoding: DepthEncoding,
    max_depth_m: float,
    *,
    with_edges: bool = False,
) -> View:
    """What a latent decoded to, as seen by ``camera``, whose frame was stretched to the model's size.

    ``decoded.depth`` must be metres.
    """
    assert decoded.depth is not None
    height, width = decoded.rgb.shape[:2]
    share = (encoding.to_network(decoded.depth) + 1.0) / 2.0
    inside = (share > END_SHARE) & (share < 1.0 - END_SHARE)
    depth_m = np.where(inside, decoded.depth, np.float32(0.0))
    step = math.inf if with_edges else 0.0
    return _view(decoded.rgb, depth_m, camera.scaled(width, height), max_depth_m, step)


def camera_view(frame: Frame, max_depth_m: float, *, with_edges: bool = False) -> View | None:
    """What the camera saw; None without depth or intrinsics."""
    depth_m = frame.depth_m()
    if depth_m is None or frame.intrinsics is None:
        return None
    camera = frame.intrinsics
    if (camera.width, camera.height) != (frame.width, frame.height):
        camera = camera.scaled(frame.width, frame.height)
    return _view(frame.rgb, depth_m, camera, max_depth_m, math.inf if with_edges else SENSOR_STEP)


def _view(
    rgb: npt.NDArray[np.uint8],
    depth_m: npt.NDArray[np.float32],
    camera: Intrinsics,
    max_depth_m: float,
    least_step: float,
) -> View:
    known = np.isfinite(depth_m) & (depth_m > 0.0) & (depth_m <= max_depth_m)
    depth_m = np.where(known, depth_m, np.float32(0.0))
    # A plane seen at an angle a off its normal changes its depth by tan(a) / f of itself from pixel to pixel.
    step = math.tan(math.radians(GRAZING_DEGREES)) / min(camera.fx, camera.fy)
    if max(step, least_step) < math.inf:
        depth_m[_steps(depth_m, max(step, least_step))] = 0.0
    if any(camera.distortion):
        at_x, at_y = _undistorting(camera)
        rgb = np.asarray(cv2.remap(rgb, at_x, at_y, cv2.INTER_LINEAR), np.uint8)
        # Nearest: a mixture of two depths lies on neither surface.
        depth_m = np.asarray(cv2.remap(depth_m, at_x, at_y, cv2.INTER_NEAREST), np.float32)
    return View(np.ascontiguousarray(rgb), depth_m, replace(camera, distortion=()))


def _steps(depth_m: npt.NDArray[np.float32], step: float) -> npt.NDArray[np.bool_]:
    """Pixels on either side of a jump by more than ``step`` of the nearer depth; no reading is no jump."""
    edge = np.zeros(depth_m.shape, np.bool_)
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        near, far = np.minimum(depth_m[a], depth_m[b]), np.maximum(depth_m[a], depth_m[b])
        jump = (near > 0.0) & (far - near > step * near)
        edge[a] |= jump
        edge[b] |= jump
    return edge


@lru_cache(maxsize=4)
def _undistorting(camera: Intrinsics) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Where each pixel of the undistorted picture lies in the distorted one, x and y.

    Raises:
        FrameError: the camera has more distortion coefficients than OpenCV knows.
    """
    matrix = np.array([[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]])
    # OpenCV takes these numbers of coefficients, and zeros stand for what is not said.
    count = next((size for size in (4, 5, 8, 12, 14) if size >= len(camera.distortion)), None)
    if count is None:
        raise FrameError(f"a camera has {len(camera.distortion)} distortion coefficients, wanted at most 14.")
    coefficients = np.zeros(count)
    coefficients[: len(camera.distortion)] = camera.distortion
    at_x, at_y = cv2.initUndistortRectifyMap(
        matrix, coefficients, np.eye(3), matrix, (camera.width, camera.height), cv2.CV_32FC1
    )
    return np.asarray(at_x, np.float32), np.asarray(at_y, np.float32)
