"""Fusing RGB-D views into one surface: a truncated signed distance on sparse blocks of voxels.

Curless and Levoy (1996): each voxel near a surface keeps the running mean, over all views, of its distance to
the surface along the ray, cut off at the truncation, and of the surface's colour. The surface is where the
mean crosses zero. Blocks of 8x8x8 voxels exist only near surfaces (Niessner et al. 2013).

The fusion is Open3D's (``VoxelBlockGrid``), an extra. Tried on a sequence of 100 decoded 128x128 frames, one
slow core, voxels of 4 cm and of 2 cm in brackets:

- Open3D 0.20: 4 ms (11 ms) a frame, and 6 ms for a search for blocks that misses none; coloured points and
  meshes; grows with the scene.
- OpenCV 5 ``ColorTSDF``: 19 ms (210 ms) a frame and 500 MB for a cube of 8 m at 2 cm, which must be placed
  beforehand: its volume is dense. A drive down a street has no such cube.
- OpenCV 5 ``HashTSDF``: 4 ms (19 ms) a frame, but no colour, and four times the points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import EdgevaeError
from .ply import Cloud

if TYPE_CHECKING:
    from .views import View

BLOCK = 8  # voxels a side
BLOCK_BYTES = BLOCK**3 * 20  # distance, weight and three colours as float32
# Counts in float32: the weight of a voxel that a standing camera sees for hours still grows at 2^24 frames.
_FIRST_BLOCKS = 2048


def check_sizes(voxel_m: float, truncation_m: float) -> None:
    """Raise EdgevaeError unless a map can have such voxels and such a truncation, both in metres."""
    if not 1e-4 <= voxel_m <= 100.0:
        raise EdgevaeError(f"voxels of {voxel_m:g} m were asked for, wanted 0.0001 to 100 m.")
    if not voxel_m <= truncation_m <= 100.0 * voxel_m:
        raise EdgevaeError(
            f"a truncation of {truncation_m:g} m was asked for, wanted 1 to 100 voxels of {voxel_m:g} m."
        )


class SceneMap:
    """A growing map.

    Args:
        voxel_m: side of a voxel, metres.
        truncation_m: how far before and behind a surface voxels are kept; default: four voxels.
        max_mb: what voxels may take in memory. At the limit the map stops growing: what it holds is still
            refined, places new to it are left out and counted.

    Attributes:
        frames: views fused.
        blocks_left_out: blocks that the limit kept out, counted at each view anew; 0 if it never mattered.

    Raises:
        EdgevaeError: Open3D is not installed, or a size is not positive.
    """

    def __init__(self, voxel_m: float, *, truncation_m: float | None = None, max_mb: float = 500.0) -> None:
        truncation_m = 4.0 * voxel_m if truncation_m is None else truncation_m
        check_sizes(voxel_m, truncation_m)
        self._o3d = open3d()
        self.voxel_m = voxel_m
        self.truncation_m = truncation_m
        self.max_blocks = max(1, int(max_mb * 1e6 / BLOCK_BYTES))
        self.frames = 0
        self.blocks_left_out = 0
        core = self._o3d.core
        self._grid = self._o3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight", "color"),
            (core.float32, core.float32, core.float32),
            ((1), (1), (3)),
            voxel_m,
            BLOCK,
            min(_FIRST_BLOCKS, self.max_blocks),
            core.Device("CPU:0"),
        )

    @property
    def blocks(self) -> int:
        """How many blocks the map holds."""
        return int(self._grid.hashmap().size())

    @property
    def megabytes(self) -> float:
        """What they take."""
        return self.blocks * BLOCK_BYTES / 1e6

    def fuse(self, view: View, pose: npt.NDArray[np.float64]) -> bool:
        """Add one view; ``pose`` (4, 4) is camera-to-world in metres.

        Returns:
            Whether it added anything: False for a view without depth, or of places that have no room.
        """
        keys = self._touched(view, pose)
        if len(keys) == 0:
            return False
        tensor, image = self._o3d.core.Tensor, self._o3d.t.geometry.Image
        blocks = tensor(keys)
        known = self._grid.hashmap().find(blocks)[1].numpy()
        room = self.max_blocks - self.blocks
        new = np.flatnonzero(~known)
        if len(new) > room:
            self.blocks_left_out += len(new) - room
            known[new[:room]] = True
            if not known.any():
                return False
            blocks = tensor(np.ascontiguousarray(keys[known]))
        self._grid.integrate(
            blocks,
            image(tensor(np.ascontiguousarray(view.depth_m))),
            image(tensor(view.rgb.astype(np.float32) / np.float32(255.0))),
            tensor(view.matrix()),
            tensor(np.linalg.inv(pose)),
            1.0,  # metres a unit of depth
            float(view.depth_m.max()) + self.truncation_m,
            self.truncation_m / self.voxel_m,
        )
        self.frames += 1
        return True

    def points(self) -> Cloud:
        """The surface as coloured points with normals, where at least ``least_weight`` views saw it."""
        if self.blocks == 0:
            return Cloud.empty()
        cloud = self._grid.extract_point_cloud(self._least_weight())
        return _cloud(cloud.point, None)

    def mesh(self) -> Cloud:
        """The surface as triangles (marching cubes); its corners as in ``points``."""
        if self.blocks == 0:
            return Cloud.empty()
        mesh = self._grid.extract_triangle_mesh(self._least_weight())
        return _cloud(mesh.vertex, mesh.triangle)

    def _least_weight(self) -> float:
        """Seen by three views, a surface is no accident of one; Open3D keeps what weighs more than this."""
        return min(3, self.frames) - 0.5

    def _touched(self, view: View, pose: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        """The blocks (N, 3) within the truncation of the view's surface, along its rays.

        Open3D's own search looks at every fourth pixel, which for a small picture misses half of them.
        """
        far_m = float(view.depth_m.max())
        if far_m == 0.0:
            return np.zeros((0, 3), np.int32)
        block_m = BLOCK * self.voxel_m
        # Pixels a quarter of a block apart at the farthest depth find every block.
        points = view.points(max(1, int(block_m / 4 * min(view.camera.fx, view.camera.fy) / far_m)))
        length = np.linalg.norm(points, axis=1, keepdims=True)
        samples = 1 + 2 * int(np.ceil(self.truncation_m / (block_m / 2)))
        offsets = np.linspace(-self.truncation_m, self.truncation_m, samples, dtype=np.float32)
        rotation, centre = pose[:3, :3].astype(np.float32), pose[:3, 3]
        directions = (points / length) @ rotation.T
        surface = points @ rotation.T + centre.astype(np.float32)
        keys = [np.floor((surface + offset * directions) / block_m).astype(np.int32) for offset in offsets]
        return _unique_rows(np.concatenate(keys))


def _unique_rows(keys: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Each row once. Rows are packed into one number each: sorting rows as such takes ten times as long."""
    if len(keys) == 0:
        return keys
    low = keys.min(axis=0)
    span = (keys.max(axis=0) - low).astype(np.int64) + 1
    packed = ((keys[:, 0] - low[0]).astype(np.int64) * span[1] + (keys[:, 1] - low[1])) * span[2]
    packed = np.unique(packed + (keys[:, 2] - low[2]))
    rows = np.stack([packed // (span[1] * span[2]), packed // span[2] % span[1], packed % span[2]], axis=1)
    return np.ascontiguousarray((rows + low).astype(np.int32))


def _cloud(vertices: Any, triangles: Any) -> Cloud:
    """Open3D's arrays in an order of their own: its threads leave another one each time."""
    points = vertices.positions.numpy().astype(np.float32)
    colours = np.rint(np.clip(vertices.colors.numpy(), 0.0, 1.0) * 255).astype(np.uint8)
    order = np.lexsort(points.T)
    faces = None
    if triangles is not None:
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        faces = place[triangles.indices.numpy()]
        faces = np.ascontiguousarray(faces[np.lexsort(faces.T)])
    return Cloud(points[order], vertices.normals.numpy().astype(np.float32)[order], colours[order], faces)


def open3d() -> Any:
    """Open3D.

    Raises:
        EdgevaeError: it is not installed.
    """
    try:
        import open3d as module
    except (ImportError, OSError) as error:  # OSError: a library of the system that it needs is missing
        raise EdgevaeError(
            f"a map needs Open3D ({error}); install it with 'pip install \"edgevae[map]\"'."
        ) from None
    return module
