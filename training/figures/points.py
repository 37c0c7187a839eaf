"""A depth image as points in space, seen from two sides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgevae.frame import Intrinsics
from edgevae.mapping.views import View
from edgevae.pictures import Image

from .images import Floats

Doubles = npt.NDArray[np.float64]

# What most RGB-D cameras see; a set of frames does not say what its camera saw.
WIDE_DEGREES, HIGH_DEGREES = 60.0, 46.0
_FINE = 2  # rendered so many times larger, and averaged
GROUND = 46  # grey of what is empty: as pictures show pixels without a reading


@dataclass(frozen=True)
class Side:
    """From where points are seen: the camera turned about the middle of the scene.

    Attributes:
        name: for people.
        turn, tilt: degrees; to the left, and up.
    """

    name: str
    turn: float
    tilt: float


SIDES = (Side("from the left", 35.0, 12.0), Side("from above", 0.0, 55.0))


def assumed_camera(width: int, height: int) -> Intrinsics:
    """A camera of ``WIDE_DEGREES`` x ``HIGH_DEGREES`` whose picture was stretched to this size."""
    fx = width / 2 / math.tan(math.radians(WIDE_DEGREES / 2))
    fy = height / 2 / math.tan(math.radians(HIGH_DEGREES / 2))
    return Intrinsics(fx, fy, (width - 1) / 2, (height - 1) / 2, width, height)


def render(view: View, side: Side, framed_for: View, size: tuple[int, int] = (240, 320)) -> Image:
    """The points of a view in their colours, uint8 (*size, 3), nearer ones before farther ones.

    Args:
        view: colour and depth, metres.
        side: where the eye is.
        framed_for: the view that fills the picture, so that several views of a scene can be compared.
        size: height and width of the picture.
    """
    height, width = size[0] * _FINE, size[1] * _FINE
    picture = np.full((height, width, 3), GROUND, np.uint8)
    frame = framed_for.points()
    points = view.points()
    if len(points) and len(frame):
        middle = np.median(frame, axis=0)
        distance_m = 2.6 * max(float(np.percentile(np.linalg.norm(frame - middle, axis=1), 90)), 0.05)
        turn = _rotation(side)
        x, y, _, _ = _projected(frame, middle, turn, distance_m)
        (left, right), (top, bottom) = np.percentile(x, (2, 98)), np.percentile(y, (2, 98))
        focal = 0.9 * min(width / max(right - left, 1e-6), height / max(bottom - top, 1e-6))
        x, y, z, seen = _projected(points, middle, turn, distance_m)
        u = np.rint(focal * (x - (left + right) / 2) + width / 2).astype(np.int64)
        v = np.rint(focal * (y - (top + bottom) / 2) + height / 2).astype(np.int64)
        # A point is as large as its pixel was, seen from the eye
        own_m = 1.25 * points[seen][:, 2] / view.camera.fx
        half = np.clip(np.rint(0.5 * focal * own_m / z), 0, 8).astype(np.int64)
        _splat(picture, u, v, half, z, view.rgb[view.depth_m > 0][seen])
    small = picture.reshape(size[0], _FINE, size[1], _FINE, 3).mean((1, 3))
    return np.asarray(small.round(), np.uint8)


def _projected(
    points: Floats, middle: npt.NDArray[np.floating], turn: Doubles, distance_m: float
) -> tuple[Doubles, Doubles, Doubles, npt.NDArray[np.bool_]]:
    """x / z, y / z and z of points before an eye so far from the middle; and which points these are."""
    eye = (points - middle) @ turn.T
    eye[:, 2] += distance_m
    seen = eye[:, 2] > 0.05 * distance_m
    eye = eye[seen]
    return eye[:, 0] / eye[:, 2], eye[:, 1] / eye[:, 2], eye[:, 2], seen


def _rotation(side: Side) -> Doubles:
    """The world turned instead of the eye; x right, y down, z forward."""
    a, b = math.radians(side.turn), math.radians(side.tilt)
    turn = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return np.asarray(tilt @ turn)


def _splat(
    picture: Image,
    u: npt.NDArray[np.int64],
    v: npt.NDArray[np.int64],
    half: npt.NDArray[np.int64],
    z: Doubles,
    colours: npt.NDArray[np.uint8],
) -> None:
    """Squares of side ``2 half + 1`` around (u, v); the farthest are drawn first."""
    order = np.argsort(-z, kind="stable")
    u, v, half, colours, z = u[order], v[order], half[order], colours[order], z[order]
    height, width = picture.shape[:2]
    nearest = np.full((height, width), np.inf)
    for reach in range(int(half.max(initial=0)) + 1):
        large = half >= reach
        for dv in range(-reach, reach + 1):
            for du in range(-reach, reach + 1):
                if max(abs(dv), abs(du)) != reach:
                    continue
                x, y = u[large] + du, v[large] + dv
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                x, y, depth = x[inside], y[inside], z[large][inside]
                before = depth < nearest[y, x]
                # Of several points on one pixel the last of these, the nearest, stays
                x, y = x[before], y[before]
                nearest[y, x] = depth[before]
                picture[y, x] = colours[large][inside][before]
