"""Lenses of OpenCV's pinhole model, and the ideal pinhole behind each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..frame import Intrinsics

_WIDEST = 5.0  # tangent of the largest angle off the axis: 79 degrees; no pinhole image reaches further
_SLACK_PX = 0.5  # there and back through the lens model must end within this
_LARGEST_IMAGE = 1 << 25  # pixels
_STEP = 8  # pixels between the places a map is computed at; a lens bends 0.1 in between

Points = npt.NDArray[np.float64]
Known = npt.NDArray[np.bool_]
Maps = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""For cv2.remap: x and y of each pixel's source, -1 (outside) where there is none."""


def pinhole_of(cv2: Any, camera: Intrinsics, name: str, fx: float, fy: float) -> Intrinsics:
    """The camera without distortion, of these focal lengths, whose image covers all that ``camera`` sees.

    Raises:
        SourceError: no lens has such a distortion; ``name`` is what the calibration calls the camera.
    """
    if not camera.distortion and (fx, fy) == (camera.fx, camera.fy):
        return camera
    rays, known = _rays(cv2, camera, _border(camera))
    if known.mean() < 0.5:
        raise SourceError(
            f"the calibration's {name}_distortion_coefficients are no lens: they fold the image's border; "
            "wanted those of OpenCV's pinhole model (k1 k2 p1 p2 k3 ...), see docs/calibration.md."
        )
    low, high = rays[known].min(axis=0), rays[known].max(axis=0)
    width = int(np.ceil((high[0] - low[0]) * fx)) + 1
    height = int(np.ceil((high[1] - low[1]) * fy)) + 1
    if width * height > _LARGEST_IMAGE:
        raise SourceError(
            f"the calibration's {name} camera would need an undistorted image of {width}x{height}; "
            f"check {name}_camera_matrix and {name}_distortion_coefficients."
        )
    return Intrinsics(fx, fy, float(-low[0] * fx), float(-low[1] * fy), width, height)


def through_lens(cv2: Any, pinhole: Intrinsics, camera: Intrinsics) -> Maps:
    """For each pixel of ``pinhole`` the place in the image of ``camera`` that sees the same ray."""

    def places(pixels: Points) -> tuple[Points, Known]:
        rays = (pixels - (pinhole.cx, pinhole.cy)) / (pinhole.fx, pinhole.fy)
        seen = _project(cv2, camera, rays)
        back, known = _rays(cv2, camera, seen)
        return seen, known & ((np.abs(back - rays) * (camera.fx, camera.fy)).max(axis=1) <= _SLACK_PX)

    return _maps(pinhole, places)


def onto_pinhole(cv2: Any, camera: Intrinsics, pinhole: Intrinsics) -> Maps:
    """For each pixel of ``camera`` the place in the image of ``pinhole`` that sees the same ray."""

    def places(pixels: Points) -> tuple[Points, Known]:
        rays, known = _rays(cv2, camera, pixels)
        return rays * (pinhole.fx, pinhole.fy) + (pinhole.cx, pinhole.cy), known

    return _maps(camera, places)


def _maps(onto: Intrinsics, places: Callable[[Points], tuple[Points, Known]]) -> Maps:
    """``places`` of all pixels of ``onto``, from a lattice of them."""
    columns, between_columns = _lattice(onto.width)
    rows, between_rows = _lattice(onto.height)
    x, y = np.meshgrid(columns, rows)
    found, known = places(np.stack([x.ravel(), y.ravel()], axis=1))
    found[~known] = 0.0

    def everywhere(values: npt.NDArray[Any]) -> Points:
        return np.asarray(between_rows @ values.reshape(len(rows), len(columns)) @ between_columns.T)

    nowhere = everywhere(known.astype(np.float64)) < 0.999
    map_x, map_y = (everywhere(found[:, axis]).astype(np.float32) for axis in (0, 1))
    map_x[nowhere] = map_y[nowhere] = -1.0
    return map_x, map_y


def _lattice(side: int) -> tuple[Points, Points]:
    """Places every _STEP pixels or less, both ends among them; and (side, places) weights between them."""
    places = np.linspace(0, side - 1, max(2, -(-side // _STEP) + 1)) if side > 1 else np.zeros(1)
    at = np.interp(np.arange(side), places, np.arange(len(places)))
    return places, np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(len(places))[None, :]))


def _rays(cv2: Any, camera: Intrinsics, pixels: Points) -> tuple[Points, Known]:
    """Where the rays of ``pixels`` (N, 2) cross the plane z = 1, and which of them the lens model has."""
    if not camera.distortion:
        rays = (pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
        return rays, np.ones(len(rays), np.bool_)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 0.01)  # within 0.01 pixels
    undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)  # one function since OpenCV 5
    matrix, coefficients = _matrix(camera), np.array(camera.distortion)
    rays = undistort(pixels[:, None], matrix, coefficients, R=None, P=None, criteria=criteria)[:, 0]
    known = np.isfinite(rays).all(axis=1) & (np.abs(np.nan_to_num(rays)) <= _WIDEST).all(axis=1)
    back = _project(cv2, camera, np.where(known[:, None], rays, 0.0))
    return rays, known & (np.abs(back - pixels).max(axis=1) <= _SLACK_PX)


def _project(cv2: Any, camera: Intrinsics, rays: Points) -> Points:
    """The pixels (N, 2) that rays through (x, y, 1) end on."""
    points = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    coefficients = np.array(camera.distortion or (0.0,) * 5)
    pixels, _ = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), _matrix(camera), coefficients)
    return np.asarray(pixels[:, 0], np.float64)


def _matrix(camera: Intrinsics) -> Points:
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])


def _border(camera: Intrinsics) -> Points:
    x, y = np.arange(camera.width, dtype=np.float64), np.arange(camera.height, dtype=np.float64)
    sides = [np.stack(np.broadcast_arrays(x, row), axis=1) for row in (0.0, y[-1])]
    sides += [np.stack(np.broadcast_arrays(column, y), axis=1) for column in (0.0, x[-1])]
    return np.concatenate(sides)
