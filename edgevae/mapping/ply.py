"""Point clouds and meshes, and the PLY files that every viewer of them reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..files import os_errors_as_sentences, replacing


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points of a surface, N of them, in metres in the world's frame.

    Attributes:
        points: float32 (N, 3).
        normals: float32 (N, 3), of length 1, away from the surface.
        colours: uint8 (N, 3), R G B.
        faces: int32 (M, 3), the points of each triangle; None for a cloud of points.
    """

    points: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    colours: npt.NDArray[np.uint8]
    faces: npt.NDArray[np.int32] | None = None

    @staticmethod
    def empty() -> Cloud:
        nothing = np.zeros((0, 3), np.float32)
        return Cloud(nothing, nothing, np.zeros((0, 3), np.uint8))

    def __len__(self) -> int:
        return len(self.points)


_VERTEX = np.dtype([("point", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 3)])
_FACE = np.dtype([("corners", "u1"), ("points", "<i4", 3)])


def write_ply(path: Path, cloud: Cloud, comments: tuple[str, ...] = ()) -> None:
    """Write binary little-endian PLY under its final name in one step, replacing what is there.

    Raises:
        RecordError: the file cannot be written; nothing is left behind.
    """
    vertices = np.empty(len(cloud), _VERTEX)
    vertices["point"], vertices["normal"], vertices["colour"] = cloud.points, cloud.normals, cloud.colours
    header = ["ply", "format binary_little_endian 1.0"]
    header += ["comment " + " ".join(comment.split()) for comment in comments]
    header += [f"element vertex {len(vertices)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    blocks = [vertices]
    if cloud.faces is not None:
        faces = np.empty(len(cloud.faces), _FACE)
        faces["corners"], faces["points"] = 3, cloud.faces
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        blocks.append(faces)
    with os_errors_as_sentences(path), replacing(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii", "replace"))
        for block in blocks:
            file.write(block.view(np.uint8).data)
