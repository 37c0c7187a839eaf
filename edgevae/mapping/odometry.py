"""Where the camera went, from its colour and depth alone: OpenCV 5's dense RGB-D odometry, frame to frame.

Steinbruecker, Sturm and Cremers (2011) for colour, point-to-plane ICP for depth. Every error stays in the
poses that follow: there is no loop closure. Measured at the end of 100 frames: on the rendered street's own
frames 0.07 m and 0.3 degrees after 27 m, on TUM fr1/rpy's 0.01 m and 2.5 degrees after 0.34 m. On what
latents decode to it is rough: 0.22 m and 8 degrees on fr1/rpy; on the street 15 m, and no frame counted as
lost, as successive decoded frames agree with each other.

Open3D's ``rgbd_odometry_multi_scale`` with 10, 5 and 3 iterations, not tuned further, drifted several times
as far on the camera's own frames (60 of them); on decoded fr1/rpy it did about as well.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import EdgevaeError
from .views import View

TRACK_PIXELS = (
    320  # a side: larger frames are reduced, which costs little accuracy and saves most of the time
)
_REACH_M = 8.0  # OpenCV 5.0 finds no motion at all where its depth limit is above 10 m: depth is scaled below
_LEAST_READINGS = 500
_LEAST_OVERLAP = 0.3
_LEAST_AGREEMENT = 0.5


class Odometry:
    """Poses of one camera's successive views, in the frame of the first one.

    Args:
        max_depth_m: the largest depth of the views.

    Attributes:
        lost: views whose pose could not be found.

    Raises:
        EdgevaeError: OpenCV is older than 5 and has no odometry.
    """

    def __init__(self, max_depth_m: float) -> None:
        if not hasattr(cv2, "Odometry"):
            raise EdgevaeError(
                f"OpenCV {cv2.__version__} has no RGB-D odometry; give poses with --poses FILE, or install "
                "OpenCV 5 with 'pip install \"edgevae[map]\"'."
            )
        self.lost = 0
        self._max_depth_m = max_depth_m
        self._scale = min(1.0, _REACH_M / max_depth_m)
        self._odometry: cv2.Odometry | None = None
        self._before: View | None = None
        self._frame: cv2.OdometryFrame | None = None
        self._pose = np.eye(4)

    def follow(self, view: View) -> npt.NDArray[np.float64] | None:
        """Camera-to-world (4, 4) of ``view``; None where it was lost.

        A lost view is not built upon: the next one is compared with the last one found, so that a camera
        that returns to it is found again.
        """
        view = view.within(TRACK_PIXELS)
        frame = cv2.OdometryFrame(view.depth_m * np.float32(self._scale), view.rgb)
        if view.readings < _LEAST_READINGS:
            self.lost += 1
            return None
        if self._odometry is None or self._before is None or self._before.camera != view.camera:
            if self._before is not None:
                self.lost += 1  # another camera: nothing says how the two stand to each other
                return None
            self._odometry = self._prepare(view)
        else:
            assert self._frame is not None
            self._odometry.prepareFrames(frame, self._frame)
            found, answer = self._odometry.compute(frame, self._frame)
            motion = np.array(answer, np.float64)
            if not found or motion.shape != (4, 4) or not np.isfinite(motion).all():
                self.lost += 1
                return None
            motion[:3, 3] /= self._scale
            overlap, agreement = agreement_of(view, self._before, motion)
            if overlap < _LEAST_OVERLAP or agreement < _LEAST_AGREEMENT:
                self.lost += 1
                return None
            self._pose = _orthonormal(self._pose @ motion)
        self._before, self._frame = view, frame
        return self._pose.copy()

    def _prepare(self, view: View) -> cv2.Odometry:
        settings = cv2.OdometrySettings()
        settings.setCameraMatrix(view.matrix().astype(np.float32))
        settings.setMinDepth(0.01 * self._scale)
        settings.setMaxDepth(self._max_depth_m * self._scale)
        # Depths that differ by more are taken for another surface; a motion that is larger for a failure.
        settings.setMaxDepthDiff((0.02 + 0.0125 * self._max_depth_m) * self._scale)
        settings.setMaxTranslation(0.05 * self._max_depth_m * self._scale)
        settings.setMaxRotation(20.0)
        return cv2.Odometry(cv2.OdometryType_RGB_DEPTH, settings, cv2.OdometryAlgoType_COMMON)


def agreement_of(view: View, before: View, motion: npt.NDArray[np.float64]) -> tuple[float, float]:
    """How well ``before`` shows what ``view`` saw, if ``motion`` (4, 4) takes one's points to the other.

    Returns:
        The share of points that fall on a reading of ``before``, and the share of those whose depth agrees
        within 3 % and 2 cm.
    """
    points = view.points(step=2) @ motion[:3, :3].T + motion[:3, 3]
    count = len(points)
    points = points[points[:, 2] > 1e-3]
    camera = before.camera
    u = np.rint(points[:, 0] / points[:, 2] * camera.fx + camera.cx)
    v = np.rint(points[:, 1] / points[:, 2] * camera.fy + camera.cy)
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    there = before.depth_m[v[inside].astype(int), u[inside].astype(int)]
    z = points[inside, 2]
    close = np.abs(there - z) < 0.02 + 0.03 * z
    met = int(np.count_nonzero(there))
    return met / max(count, 1), int(np.count_nonzero(close & (there > 0))) / max(met, 1)


def _orthonormal(pose: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The nearest pose with a rotation that is one: rounding adds up over thousands of products."""
    u, _, vt = np.linalg.svd(pose[:3, :3])
    pose = pose.copy()
    pose[:3, :3] = u @ vt
    return pose
