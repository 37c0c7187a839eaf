"""The picture of docs/reconstruction.md: a map from latents beside the map of the camera's own frames.

EDGEVAE_DATA=DIR python docs/draw_map.py    # writes docs/images/map.png; needs edgevae[map], matplotlib, and
                                            # 100 frames of TUM fr1/rpy in DIR/tum_fr1_rpy_100
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import open3d as o3d
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import edgevae
from edgevae.mapping.builder import MapBuilder, MapSettings
from edgevae.mapping.ply import Cloud
from edgevae.mapping.views import camera_view, decoded_view

IMAGES = Path(__file__).parent / "images"
SETTINGS = MapSettings(voxel_m=0.03, max_depth_m=4.0, reference=True)
# From behind the camera's place in the middle of the sequence: metres back, up and to the left, degrees down.
BACK_M, UP_M, LEFT_M, DOWN_DEGREES = 1.0, 0.4, 0.35, 16.0
WIDTH, HEIGHT, FOCAL = 1000, 750, 760.0
PAPER = np.array([255, 255, 255], np.float32)


def main() -> None:
    folder = Path(os.environ.get("EDGEVAE_DATA", "")) / "tum_fr1_rpy_100"
    if not folder.is_dir():
        sys.exit(f"no folder {folder}; EDGEVAE_DATA must name the folder that holds tum_fr1_rpy_100.")
    model = edgevae.load()
    depth = model.spec.input.depth
    assert depth is not None
    builder = MapBuilder(SETTINGS, odometry=False)
    poses = []
    with edgevae.open_source(f"tum:{folder}") as source:
        for frame in source:
            assert frame.intrinsics is not None
            decoded = model.decode(model.encode_frame(frame).latent)
            builder.add(
                decoded_view(decoded, frame.intrinsics, depth, SETTINGS.max_depth_m),
                frame.pose,
                reference=camera_view(frame, SETTINGS.max_depth_m),
            )
            poses.append(frame.pose)
    assert builder.reference is not None
    error = builder.compare(builder.map.points())
    eye = viewpoint(poses[len(poses) // 2])
    assert error is not None
    pictures = cropped(render(builder.reference.mesh(), eye), render(builder.map.mesh(), eye))
    titles = "the camera's own frames", f"the same remembered as {model.spec.latent_dim} numbers a frame"
    words = (
        f"{len(poses)} frames of TUM fr1/rpy, voxels of {SETTINGS.voxel_m * 100:g} cm. From the right map "
        f"to the left: median {error.median_m * 100:.0f} cm, 95 % within {error.p95_m * 100:.0f} cm."
    )
    height, width = pictures[0].shape[:2]
    high = 5.9 * height / width
    figure = Figure(figsize=(12, high + 0.8), facecolor="white")
    FigureCanvasAgg(figure)
    for left, picture, title in zip((0.005, 0.505), pictures, titles, strict=True):
        axes = figure.add_axes((left, 0.4 / (high + 0.8), 0.49, high / (high + 0.8)))
        axes.imshow(picture, interpolation="antialiased")
        axes.set_axis_off()
        axes.set_title(title, fontsize=12, color="#1f2328")
    figure.text(0.5, 0.13 / (high + 0.8), words, ha="center", fontsize=10, color="#6b7280")
    figure.savefig(IMAGES / "map.png", dpi=100, metadata={"Software": None})
    print(words)
    print(error)


def viewpoint(pose: np.ndarray) -> np.ndarray:
    """Camera-to-world of the picture: behind ``pose``, upright, a little above and looking down."""
    up = np.array([0.0, 0.0, 1.0])  # the world's, as the motion capture has it
    forward = pose[:3, 2] - up * (pose[:3, 2] @ up)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    position = pose[:3, 3] - BACK_M * forward + UP_M * up - LEFT_M * right
    tilt = np.radians(DOWN_DEGREES)
    look = np.cos(tilt) * forward - np.sin(tilt) * up
    eye = np.eye(4)
    eye[:3, :3] = np.stack([right, np.cross(look, right), look], axis=1)
    eye[:3, 3] = position
    return eye


def render(mesh: Cloud, eye: np.ndarray) -> np.ndarray:
    """The mesh in its colours, lightly shaded by its normals, as ``eye`` sees it."""
    assert mesh.faces is not None
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(mesh.points), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    matrix = np.array([[FOCAL, 0.0, WIDTH / 2], [0.0, FOCAL, HEIGHT / 2], [0.0, 0.0, 1.0]])
    rays = scene.create_rays_pinhole(
        o3d.core.Tensor(matrix), o3d.core.Tensor(np.linalg.inv(eye)), WIDTH, HEIGHT
    )
    answer = scene.cast_rays(rays)
    hit = np.isfinite(answer["t_hit"].numpy())
    corners = mesh.faces[answer["primitive_ids"].numpy()[hit]]
    u, v = answer["primitive_uvs"].numpy()[hit].T
    weights = np.stack([1.0 - u - v, u, v], axis=1)[..., None]
    colours = (mesh.colours[corners].astype(np.float32) * weights).sum(axis=1)
    normals = answer["primitive_normals"].numpy()[hit]
    shade = 0.75 + 0.25 * np.abs(normals @ eye[:3, 2])
    picture = np.broadcast_to(PAPER, (HEIGHT, WIDTH, 3)).copy()
    picture[hit] = colours * shade[:, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def cropped(*pictures: np.ndarray) -> list[np.ndarray]:
    """The pictures without the margins that are empty in all of them."""
    used = np.any([(picture != PAPER.astype(np.uint8)).any(axis=2) for picture in pictures], axis=0)
    rows, columns = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
    return [picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for picture in pictures]


if __name__ == "__main__":
    main()
