"""Which face of the street each pixel sees, and how far it is: one ray a pixel, exact depth, NumPy only.

Along the ray of pixel (u, v) the inverse of the z-depth at which a plane is met is affine in u and v:
with ray direction D0 + u DU + v DV (z = 1 in the camera frame) and camera centre o,

    w = 1 / z = (normal . D) / (offset - normal . o)

The ray enters a convex solid where the smallest w of the planes that face the camera lies, and misses it
if a plane that faces away has a larger one. So a solid costs one addition for each pixel of its screen
rectangle and each plane, and depth is the plane equation itself, to float32 rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..frame import Intrinsics
from .synthetic_street import F64, FACE_COLUMNS, MAX_PLANES, Blobs, Material, Scene, Solids

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

NEAR_M = 0.2
DRAWN_M = 400.0  # the ground is drawn to here; beyond is sky
NOISE_SIZE = 512


@dataclass(frozen=True)
class View:
    """A camera in the world, and its rays: pixel (u, v) looks along ``d0 + u * du + v * dv``."""

    camera: Intrinsics
    rotation: F64
    eye: F64
    du: F64
    dv: F64
    d0: F64

    @classmethod
    def of(cls, camera: Intrinsics, pose: F64) -> View:
        rotation, eye = pose[:3, :3], pose[:3, 3]
        du, dv = rotation[:, 0] / camera.fx, rotation[:, 1] / camera.fy
        return cls(camera, rotation, eye, du, dv, rotation[:, 2] - camera.cx * du - camera.cy * dv)

    def rects(self, corners: F64) -> tuple[I64, F64, F64]:
        """Screen rectangles x0 y0 x1 y1 (P, 4) of boxes (P, 8, 3), their nearest and farthest depth (P,)."""
        camera = self.camera
        local = (corners - self.eye) @ self.rotation
        depth = local[..., 2]
        # The 12 edges, corner number = bits x y z; an edge through the near plane adds the point on it.
        a = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6])
        b = np.array([1, 2, 4, 3, 5, 3, 6, 7, 5, 6, 7, 7])
        za, zb = depth[:, a], depth[:, b]
        crossing = (za < NEAR_M) != (zb < NEAR_M)
        s = np.where(crossing, (NEAR_M - za) / np.where(crossing, zb - za, 1.0), 0.0)[..., None]
        points = np.concatenate([local, local[:, a] + s * (local[:, b] - local[:, a])], axis=1)
        valid = np.concatenate([depth >= NEAR_M, crossing], axis=1)
        z = np.where(valid, np.maximum(points[..., 2], NEAR_M), 1.0)
        u = camera.fx * points[..., 0] / z + camera.cx
        v = camera.fy * points[..., 1] / z + camera.cy
        rects = self._on_screen(
            np.where(valid, u, 1e9).min(1),
            np.where(valid, v, 1e9).min(1),
            np.where(valid, u, -1e9).max(1),
            np.where(valid, v, -1e9).max(1),
        )
        return rects, np.where(valid, points[..., 2], 1e9).min(1), depth.max(1)

    def blob_rects(self, blobs: Blobs) -> tuple[I64, F64]:
        """Screen rectangles (B, 4) of ellipsoids and their nearest depth, -1 for those not in front."""
        camera = self.camera
        local = (blobs.shape[:, :3] - self.eye) @ self.rotation
        near = local[:, 2] - blobs.shape[:, 3:6].max(1)
        valid = near > NEAR_M
        # The box of the largest radius around the centre, upright in the camera frame, bounds the picture.
        radius = blobs.shape[:, 3:6].max(1)
        z0, z1 = np.where(valid, near, 1.0), np.where(valid, local[:, 2] + radius, 1.0)
        edges = []
        for axis, focal, middle in ((0, camera.fx, camera.cx), (1, camera.fy, camera.cy)):
            low, high = local[:, axis] - radius, local[:, axis] + radius
            edges.append(focal * np.where(low < 0, low / z0, low / z1) + middle)
            edges.append(focal * np.where(high < 0, high / z1, high / z0) + middle)
        rects = self._on_screen(edges[0], edges[2], edges[1], edges[3])
        rects[~valid] = 0
        return rects, np.where(valid, near, -1.0)

    def _on_screen(self, u0: F64, v0: F64, u1: F64, v1: F64) -> I64:
        """Rectangles of the pixels whose centres lie in [u0, u1] x [v0, v1]."""
        width, height = self.camera.width, self.camera.height
        edges = np.stack([np.ceil(u0), np.ceil(v0), np.floor(u1) + 1, np.floor(v1) + 1], axis=-1)
        return np.asarray(np.clip(edges, 0, [width, height, width, height]), dtype=np.int64)


@dataclass(frozen=True)
class FaceTable:
    """One row for each face that a pixel can show; row 0 is the ground.

    Attributes:
        paint: float32 (rows, FACE_COLUMNS), as in ``Solids.faces`` but with axis offsets from the camera;
            a blob's parameters 0..2 are its centre from the camera, 3..5 its radii.
        normal: float32 (rows, 3), zero for blobs.
        distance: float32 (rows,), of the face's plane from the camera.
    """

    paint: F32
    normal: F32
    distance: F32


class Raster:
    """Inverse depth and face number of every pixel. Holds buffers, so not for two threads at once."""

    def __init__(self, camera: Intrinsics, leaves: F32) -> None:
        self._u = np.arange(camera.width, dtype=np.float32)
        self._v = np.arange(camera.height, dtype=np.float32)
        self._leaves = leaves
        self.inverse = np.empty((camera.height, camera.width), np.float32)
        self.face = np.empty((camera.height, camera.width), np.int32)

    def draw(self, scene: Scene, view: View) -> FaceTable:
        """Fill ``inverse`` (1/m, at least 1 / DRAWN_M) and ``face``."""
        a, b, c = (-float(d[1]) / float(view.eye[1]) for d in (view.du, view.dv, view.d0))
        np.add((np.float32(b) * self._v + np.float32(c))[:, None], np.float32(a) * self._u, out=self.inverse)
        np.maximum(self.inverse, np.float32(1.0 / DRAWN_M), out=self.inverse)
        self.face.fill(0)

        solids, blobs = scene.solids, scene.blobs
        normal = solids.planes[..., :3]
        distance = solids.planes[..., 3] - normal @ view.eye  # > 0: the camera is on the solid's side
        rays = np.stack([view.du, view.dv, view.d0], axis=-1)
        affine = ((normal @ rays) / np.where(distance == 0.0, 1e-12, distance)[..., None]).astype(np.float32)
        used = np.abs(normal).sum(-1) > 0.0

        rects, near, far = view.rects(solids.corners)
        blob_rects, blob_near = view.blob_rects(blobs)
        shown = (rects[:, 2:] > rects[:, :2]).all(1) & (far > NEAR_M) & (near < solids.reach_m)
        blob_shown = (blob_rects[:, 2:] > blob_rects[:, :2]).all(1) & (blob_near < blobs.shape[:, 7])
        order = [(float(near[k]), int(k), False) for k in np.flatnonzero(shown)]
        order += [(float(blob_near[k]), int(k), True) for k in np.flatnonzero(blob_shown)]
        order.sort()
        for nearest, k, is_blob in order:
            x0, y0, x1, y1 = (blob_rects if is_blob else rects)[k].tolist()
            inverse, face = self.inverse[y0:y1, x0:x1], self.face[y0:y1, x0:x1]
            if nearest > NEAR_M and float(inverse.min()) * nearest > 1.0:
                continue  # all of it lies behind what is drawn already
            u, v = self._u[x0:x1], self._v[y0:y1]
            if is_blob:
                self._blob(inverse, face, u, v, blobs.shape[k], 1 + len(used) * MAX_PLANES + k, view)
            else:
                self._solid(inverse, face, u, v, affine[k], distance[k] < 0.0, used[k], 1 + k * MAX_PLANES)
        return _face_table(solids, blobs, distance, view.eye)

    def _solid(
        self,
        inverse: F32,
        face: I32,
        u: F32,
        v: F32,
        affine: F32,
        facing: npt.NDArray[np.bool_],
        used: npt.NDArray[np.bool_],
        row: int,
    ) -> None:
        front = np.flatnonzero(facing)
        if not len(front):
            return
        behind = inverse.copy()
        for a, b, c in affine[used & ~facing]:
            np.maximum(behind, (b * v + c)[:, None] + a * u, out=behind)
        entries = [(b * v + c)[:, None] + a * u for a, b, c in affine[front]]
        enter = entries[0]
        for entry in entries[1:]:
            enter = np.minimum(enter, entry)
        seen = enter > behind
        np.copyto(inverse, enter, where=seen)
        np.copyto(face, np.int32(row + front[0]), where=seen)
        for f, entry in zip(front[1:], entries[1:], strict=True):
            np.copyto(face, np.int32(row + f), where=seen & (entry == enter))

    def _blob(self, inverse: F32, face: I32, u: F32, v: F32, shape: F64, row: int, view: View) -> None:
        """An ellipsoid, (o + z d)^2 = 1 in units of its radii; a leafy one has holes in its surface."""
        radii = shape[3:6]
        o = ((view.eye - shape[:3]) / radii).astype(np.float32)
        du, dv, d0 = ((d / radii).astype(np.float32) for d in (view.du, view.dv, view.d0))
        d = [(dv[i] * v + d0[i])[:, None] + du[i] * u for i in range(3)]
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
        c = np.float32(float(o.astype(np.float64) @ o) - 1.0)
        discriminant = b * b - a * c
        # z = (-b - sqrt(D)) / a = c / (sqrt(D) - b)
        enter = (np.sqrt(np.maximum(discriminant, np.float32(0.0))) - b) / c
        seen = (discriminant > 0.0) & (enter > inverse)
        if not seen.any():
            return
        if shape[6] > 0.0:
            z = np.float32(1.0) / np.where(seen, enter, np.float32(1.0))
            p = [o[i] + z * d[i] for i in range(3)]
            i = ((p[0] + np.float32(0.7) * p[1]) * np.float32(40.0)).astype(np.int32) & (NOISE_SIZE - 1)
            j = ((p[2] - np.float32(0.8) * p[1]) * np.float32(40.0)).astype(np.int32) & (NOISE_SIZE - 1)
            # -p . direction: 0 on the outline, 1 in the middle of the crown
            facing = np.sqrt(np.maximum(discriminant, np.float32(0.0)) / a)
            seen &= self._leaves[i, (j + row * 37) & (NOISE_SIZE - 1)] > np.float32(0.62) - facing
        np.copyto(inverse, enter, where=seen)
        np.copyto(face, np.int32(row), where=seen)


def _face_table(solids: Solids, blobs: Blobs, distance: F64, eye: F64) -> FaceTable:
    faces = solids.faces.reshape(-1, FACE_COLUMNS)
    paint = np.zeros((1 + len(faces) + len(blobs.shape), FACE_COLUMNS))
    paint[1 : 1 + len(faces)] = faces
    paint[1 : 1 + len(faces), 6] -= faces[:, 4] * eye[0] + faces[:, 5] * eye[2]
    rest = paint[1 + len(faces) :]
    rest[:, :3] = blobs.color
    rest[:, 3] = np.where(blobs.shape[:, 6] > 0.0, Material.LEAVES, Material.SKIN)
    rest[:, 7:10] = blobs.shape[:, :3] - eye
    rest[:, 10:13] = blobs.shape[:, 3:6]
    normal = np.zeros((len(paint), 3))
    normal[0] = 0.0, -1.0, 0.0
    normal[1 : 1 + len(faces)] = solids.planes[..., :3].reshape(-1, 3)
    reach = np.zeros(len(paint))
    reach[1 : 1 + len(faces)] = np.abs(distance.reshape(-1))
    return FaceTable(paint.astype(np.float32), normal.astype(np.float32), reach.astype(np.float32))
