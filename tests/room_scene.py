"""A room whose every distance is known: a box seen from inside, each wall of its own colour."""

from __future__ import annotations

import numpy as np

from edgevae.frame import Intrinsics

HALF = np.array([2.0, 1.2, 1.6])  # metres from the middle to the walls, along x, y and z
COLOURS = np.array(  # of the walls at -x, +x, -y, +y, -z, +z
    [[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [40, 200, 200], [200, 40, 200]], np.uint8
)


def room(
    camera: Intrinsics, pose: np.ndarray, rays: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Colour uint8 (H, W, 3) and depth float32 (H, W) metres at camera-to-world ``pose``, inside the room.

    ``rays`` (H, W, 2) are x and y at z = 1 of each pixel; None for a pinhole without distortion.
    """
    if rays is None:
        v, u = np.mgrid[: camera.height, : camera.width]
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy], axis=-1)
    directions = np.concatenate([rays, np.ones((*rays.shape[:2], 1))], axis=-1) @ pose[:3, :3].T
    directions[np.abs(directions) < 1e-12] = 1e-12  # along a wall
    distances = (np.sign(directions) * HALF - pose[:3, 3]) / directions  # of a ray's end at z = 1: depth
    axis = distances.argmin(axis=-1)
    depth_m = np.take_along_axis(distances, axis[..., None], axis=-1)[..., 0].astype(np.float32)
    positive = np.take_along_axis(directions, axis[..., None], axis=-1)[..., 0] > 0
    return COLOURS[2 * axis + positive], depth_m


def turned(degrees: float, position: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """A pose at ``position``, turned about the axis that points down."""
    angle = np.radians(degrees)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = position
    return pose


def off_walls_m(points: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest wall's plane."""
    return np.abs(np.abs(points) - HALF).min(axis=1)
