"""A scene of planes seen by two cameras: what registration is measured against.

Rays are cut with planes in float64, straight from the definition; nothing here is taken from OpenCV, the lens
included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgevae.frame import Intrinsics

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rectangle:
    """A flat rectangle: its centre and two half sides, in the frame of the depth camera, metres."""

    centre: tuple[float, float, float]
    right: tuple[float, float, float]
    down: tuple[float, float, float]


ROOM = (
    Rectangle((0, 0, 4.0), (9, 0, 0.8), (0, 9, 0.0)),  # a wall, turned a little
    Rectangle((-0.25, 0.1, 1.2), (0.25, 0, 0), (0, 0.3, 0)),  # a board in front of it
    Rectangle((0.6, -0.2, 2.0), (0.3, 0, 0.2), (0, 0.4, 0.1)),
)


def distort(camera: Intrinsics, rays: Array) -> Array:
    """Brown's model, k1 k2 p1 p2 k3 (OpenCV's order): rays (..., 2) at z = 1 to where the lens puts them."""
    k1, k2, p1, p2, k3 = (*camera.distortion, 0, 0, 0, 0, 0)[:5]
    x, y = rays[..., 0], rays[..., 1]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        axis=-1,
    )


def pixel_rays(camera: Intrinsics) -> Array:
    """The ray (x, y, 1) of every pixel, (H, W, 3): Newton's method on ``distort``."""
    y, x = np.mgrid[: camera.height, : camera.width]
    wanted = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy], axis=-1)
    rays = wanted.copy()
    for _ in range(30 if camera.distortion else 0):
        error = distort(camera, rays) - wanted
        step = 1e-6
        columns = [
            distort(camera, rays + step * axis) - distort(camera, rays - step * axis) for axis in np.eye(2)
        ]
        jacobian = np.stack(columns, axis=-1) / (2 * step)
        rays -= np.linalg.solve(jacobian, error[..., None])[..., 0]
    assert np.abs(distort(camera, rays) - wanted).max() < 1e-9
    return np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1)


def render_depth(camera: Intrinsics, depth_from_camera: Array, scene: tuple[Rectangle, ...] = ROOM) -> Array:
    """Metres along the axis of ``camera`` to the nearest rectangle at each pixel, 0 where there is none."""
    rays = pixel_rays(camera)
    rotation, position = depth_from_camera[:3, :3], depth_from_camera[:3, 3]
    directions = rays @ rotation.T  # of one metre of depth each
    nearest = np.full(rays.shape[:2], np.inf)
    for rectangle in scene:
        centre, right, down = (np.array(v) for v in (rectangle.centre, rectangle.right, rectangle.down))
        normal = np.cross(right, down)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = ((centre - position) @ normal) / (directions @ normal)
            at = position + depth[..., None] * directions - centre
            inside = (np.abs(at @ right) <= right @ right) & (np.abs(at @ down) <= down @ down)
        hit = inside & (depth > 0.05) & (depth < nearest)
        nearest[hit] = depth[hit]
    return np.where(np.isfinite(nearest), nearest, 0.0)


def pose(rotation_vector: tuple[float, float, float], translation_m: tuple[float, float, float]) -> Array:
    """(4, 4) from an axis times an angle, by Rodrigues' formula."""
    angle = float(np.linalg.norm(rotation_vector))
    axis = np.array(rotation_vector) / angle if angle else np.zeros(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = translation_m
    return matrix
