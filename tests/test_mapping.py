"""Maps: what is fused lies where it was rendered, what cannot be trusted is left out, memory has an end."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from room_scene import COLOURS, HALF, off_walls_m, room, turned

from edgevae.errors import EdgevaeError, FrameError, RecordError
from edgevae.frame import Frame, Intrinsics
from edgevae.mapping.map_error import map_error, nearest_m
from edgevae.mapping.odometry import Odometry
from edgevae.mapping.ply import Cloud, write_ply
from edgevae.mapping.tsdf import BLOCK_BYTES, SceneMap
from edgevae.mapping.views import View, camera_view, decoded_view
from edgevae.model import Decoded
from edgevae.preprocess import DepthEncoding
from edgevae.sources.synthetic import SyntheticSource

pytest.importorskip("open3d")

CAMERA = Intrinsics(110.0, 112.0, 79.0, 61.0, 160, 120)
ENCODING = DepthEncoding("log", 0.25, 80.0)
VOXEL_M = 0.05


def view_at(pose: np.ndarray, camera: Intrinsics = CAMERA) -> View:
    rgb, depth_m = room(camera, pose)
    view = camera_view(Frame(rgb, depth_m, intrinsics=camera), 10.0)
    assert view is not None
    return view


def room_map(**options: float) -> SceneMap:
    scene = SceneMap(VOXEL_M, **options)
    for degrees in range(0, 360, 10):
        pose = turned(degrees, (0.1, 0.05, -0.1))
        scene.fuse(view_at(pose), pose)
    return scene


@pytest.fixture(scope="module")
def fused() -> Cloud:
    return room_map().points()


def test_points_lie_on_the_walls(fused: Cloud) -> None:
    off_m = off_walls_m(fused.points)
    assert np.percentile(off_m, 99) < VOXEL_M / 2
    assert off_m.max() < VOXEL_M
    # All round: every wall the camera turned to is there, over its whole width.
    for axis in (0, 2):
        for side in (-1, 1):
            wall = fused.points[np.abs(fused.points[:, axis] - side * HALF[axis]) < VOXEL_M]
            other = 2 - axis
            assert np.ptp(wall[:, other]) > 1.8 * HALF[other]


def test_colours_and_normals_are_the_walls(fused: Cloud) -> None:
    distances = np.abs(fused.points[:, None, :] - HALF * np.array([[-1], [1]])[None])  # (N, side, axis)
    nearest = distances.transpose(0, 2, 1).reshape(-1, 6)
    order = np.sort(nearest, axis=1)
    inner = order[:, 1] > 4 * VOXEL_M  # away from the edges, where two walls meet in a voxel
    wall = nearest.argmin(axis=1)
    assert inner.sum() > 2000
    np.testing.assert_allclose(fused.colours[inner], COLOURS[wall[inner]], atol=3)
    inwards = np.where(wall % 2 == 0, 1.0, -1.0)
    along = fused.normals[np.arange(len(wall)), wall // 2] * inwards
    assert np.percentile(along[inner], 1) > 0.95


def test_a_stretched_picture_is_the_same_room() -> None:
    # As a model sees it: 160x120 becomes 96x96, and the camera is stretched alike.
    scene = SceneMap(VOXEL_M)
    small = CAMERA.scaled(96, 96)
    for degrees in range(0, 60, 10):
        pose = turned(degrees)
        rgb, depth_m = room(small, pose)
        scene.fuse(decoded_view(Decoded(rgb, depth_m), CAMERA, ENCODING, 10.0), pose)
    points = scene.points().points
    assert len(points) > 1000
    assert np.percentile(off_walls_m(points), 99) < VOXEL_M


def test_a_lens_that_bends_is_straightened() -> None:
    bent = replace(CAMERA, distortion=(0.26, -0.5, -0.005, 0.003, 0.3))
    v, u = np.mgrid[: bent.height, : bent.width].astype(np.float64)
    matrix = np.array([[bent.fx, 0, bent.cx], [0, bent.fy, bent.cy], [0, 0, 1]])
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)[:, None]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-10)
    rays = cv2.undistortPoints(pixels, matrix, np.array(bent.distortion), criteria=criteria)
    pose = turned(35.0)  # into a corner: a wall at a constant depth would look flat however it is bent
    rgb, depth_m = room(bent, pose, rays.reshape(bent.height, bent.width, 2))
    view = camera_view(Frame(rgb, depth_m, intrinsics=bent), 10.0)
    assert view is not None
    assert view.camera.distortion == ()
    straight = view.points() @ pose[:3, :3].T
    assert len(straight) > 0.7 * depth_m.size
    # Nearest neighbours: half a pixel at 1.6 m is 7 mm.
    assert np.percentile(off_walls_m(straight), 95) < 0.015
    crooked = camera_view(Frame(rgb, depth_m, intrinsics=CAMERA), 10.0)
    assert crooked is not None
    assert np.percentile(off_walls_m(crooked.points() @ pose[:3, :3].T), 95) > 0.03


def test_too_many_coefficients_is_a_sentence() -> None:
    rgb, depth_m = room(CAMERA, np.eye(4))
    with pytest.raises(FrameError, match="15 distortion coefficients"):
        camera_view(Frame(rgb, depth_m, intrinsics=replace(CAMERA, distortion=(0.01,) * 15)), 10.0)


def test_what_is_not_trusted_is_left_out() -> None:
    camera = Intrinsics(100.0, 100.0, 31.5, 31.5, 64, 64)
    rgb = np.zeros((64, 64, 3), np.uint8)
    depth_m = np.full((64, 64), 2.0, np.float32)
    depth_m[:, 32:] = 3.0  # an edge
    depth_m[:8] = 79.9  # where the encoding ends
    depth_m[8:16] = 0.251
    depth_m[16:24] = 40.0  # beyond the map's reach
    depth_m[60, 5] = np.nan
    view = decoded_view(Decoded(rgb, depth_m), camera, ENCODING, 10.0)
    kept = view.depth_m > 0
    assert not kept[:24].any()
    assert not kept[:, 31:33].any()
    assert kept[26:58, 2:30].all()
    assert kept[26:58, 34:].all()
    assert not kept[60, 5]
    everything = decoded_view(Decoded(rgb, depth_m), camera, ENCODING, 10.0, with_edges=True)
    assert (everything.depth_m > 0)[30:58, 31:33].all()
    far = decoded_view(Decoded(rgb, depth_m), camera, ENCODING, 50.0)
    assert (far.depth_m > 0)[18:22, 2:30].all()


@pytest.mark.parametrize(("degrees", "kept"), [(60.0, True), (70.0, True), (82.0, False)])
def test_grazing_surfaces_are_left_out(degrees: float, kept: bool) -> None:
    camera = Intrinsics(100.0, 100.0, 31.5, 31.5, 64, 64)
    u = (np.arange(64) - 31.5) / 100.0
    # A wall turned by `degrees` about the vertical through (0, 0, 2).
    depth_m = np.tile(2.0 / (1.0 - u * np.tan(np.radians(degrees))), (64, 1)).astype(np.float32)
    depth_m[depth_m < 0] = 0.0
    view = decoded_view(Decoded(np.zeros((64, 64, 3), np.uint8), depth_m), camera, ENCODING, 100.0)
    assert bool(view.depth_m[32, 32] > 0) is kept


def test_nothing_to_fuse_adds_nothing() -> None:
    scene = SceneMap(VOXEL_M)
    nothing = View(np.zeros((120, 160, 3), np.uint8), np.zeros((120, 160), np.float32), CAMERA)
    scene.fuse(nothing, np.eye(4))
    assert (scene.frames, scene.blocks) == (0, 0)
    assert len(scene.points()) == len(scene.mesh()) == 0


def test_memory_has_an_end_and_what_is_there_is_refined() -> None:
    whole = room_map()
    limit = whole.blocks // 2
    half = room_map(max_mb=limit * BLOCK_BYTES / 1e6 + 1e-3)
    assert half.blocks == limit
    assert half.blocks_left_out > 0
    assert half.frames < whole.frames  # the last views saw nothing but what there was no room for
    points = half.points().points
    assert 0.3 < len(points) / len(whole.points()) < 0.7
    assert off_walls_m(points).max() < VOXEL_M


@pytest.mark.parametrize("options", [{"voxel_m": 0.0}, {"voxel_m": float("nan")}, {"voxel_m": 1e9}])
def test_nonsense_sizes(options: dict[str, float]) -> None:
    with pytest.raises(EdgevaeError, match="voxels of"):
        SceneMap(**options)
    with pytest.raises(EdgevaeError, match="a truncation of"):
        SceneMap(0.05, truncation_m=0.01)


def test_without_open3d_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(EdgevaeError, match=r'pip install "edgevae\[map\]"'):
        SceneMap(0.05)


def read_ply(path: Path) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Header lines, vertices and faces of a binary PLY file; fails unless it ends where it says."""
    content = path.read_bytes()
    end = content.index(b"end_header\n") + len(b"end_header\n")
    lines = content[:end].decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    types = {"float": "<f4", "uchar": "u1", "int": "<i4"}
    counts, fields = {}, {}
    for line in lines:
        words = line.split()
        if words[0] == "element":
            name = words[1]
            counts[name], fields[name] = int(words[2]), []
        elif words[:2] == ["property", "list"]:
            fields[name] += [("count", types[words[2]]), (words[4], types[words[3]], 3)]
        elif words[0] == "property":
            fields[name].append((words[2], types[words[1]]))
    vertices = np.frombuffer(content, np.dtype(fields["vertex"]), counts["vertex"], end)
    end += vertices.nbytes
    faces = None
    if "face" in counts:
        faces = np.frombuffer(content, np.dtype(fields["face"]), counts["face"], end)
        end += faces.nbytes
    assert end == len(content)
    return lines, vertices, faces


def test_ply_comes_back(fused: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "room.ply"
    write_ply(path, fused, ("what\nit is",))
    lines, vertices, faces = read_ply(path)
    assert "comment what it is" in lines
    assert faces is None
    np.testing.assert_array_equal(np.stack([vertices[n] for n in "xyz"], axis=1), fused.points)
    np.testing.assert_array_equal(np.stack([vertices[n] for n in ("nx", "ny", "nz")], axis=1), fused.normals)
    np.testing.assert_array_equal(
        np.stack([vertices[n] for n in ("red", "green", "blue")], axis=1), fused.colours
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_mesh_is_the_same_surface(tmp_path: Path) -> None:
    mesh = room_map().mesh()
    write_ply(tmp_path / "room.ply", mesh)
    _, vertices, faces = read_ply(tmp_path / "room.ply")
    assert faces is not None
    assert (faces["count"] == 3).all()
    assert 0 <= faces["vertex_indices"].min() <= faces["vertex_indices"].max() < len(vertices)
    assert off_walls_m(mesh.points).max() < VOXEL_M
    a, b, c = (mesh.points[mesh.faces[:, i]] for i in range(3))
    area_m2 = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    seen_m2 = (
        2 * 2 * HALF[1] * (2 * HALF[0] + 2 * HALF[2])
    )  # the walls all round; of floor and ceiling a part
    assert 0.8 * seen_m2 < area_m2 < 1.7 * seen_m2
    import open3d

    again = open3d.t.io.read_triangle_mesh(str(tmp_path / "room.ply"))  # another reader understands it
    assert len(again.triangle.indices) == len(faces)


def test_a_ply_that_cannot_be_written(fused: Cloud, tmp_path: Path) -> None:
    (tmp_path / "room.ply").mkdir()
    with pytest.raises(RecordError, match="cannot write"):
        write_ply(tmp_path / "room.ply", fused)
    assert list(tmp_path.iterdir()) == [tmp_path / "room.ply"]


def test_nearest_is_exact(rng: np.random.Generator) -> None:
    a, b = rng.random((200, 3), np.float32), rng.random((300, 3), np.float32)
    expected = np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2).min(axis=1)
    np.testing.assert_allclose(nearest_m(a, b), expected, atol=1e-6)


def test_error_of_a_map_that_is_off_and_half_missing(fused: Cloud) -> None:
    wall = fused.points[(fused.points[:, 2] > HALF[2] - VOXEL_M) & (np.abs(fused.points[:, 0]) < 1.0)]
    reference = Cloud(wall, wall, np.zeros(wall.shape, np.uint8))
    part = wall[wall[:, 0] > 0] + np.array([0, 0, -0.1], np.float32)
    error = map_error(Cloud(part, part, np.zeros(part.shape, np.uint8)), reference, 0.11)
    assert error is not None
    assert error.median_m == pytest.approx(0.1, abs=0.005)
    assert error.p95_m == pytest.approx(0.1, abs=0.01)
    assert error.accuracy > 0.99
    assert error.completeness == pytest.approx(np.mean(wall[:, 0] > 0), abs=0.05)
    assert map_error(Cloud.empty(), reference, 0.1) is None
    assert map_error(reference, Cloud.empty(), 0.1) is None


def street_view(source: SyntheticSource, index: int) -> tuple[View, np.ndarray]:
    frame = source.frame(index)
    view = camera_view(frame, 40.0, with_edges=True)
    assert view is not None
    assert frame.pose is not None
    return view, frame.pose


def test_odometry_follows_the_street() -> None:
    pytest.importorskip("cv2", "5")
    source = SyntheticSource(3)
    odometry = Odometry(40.0)
    poses, way_m = [], 0.0
    for i in range(30):
        view, pose = street_view(source, i)
        found = odometry.follow(view)
        assert found is not None
        if poses:
            way_m += np.linalg.norm(pose[:3, 3] - poses[-1][:3, 3])
        poses.append(pose)
    off = np.linalg.inv(np.linalg.inv(poses[0]) @ poses[-1]) @ found
    assert way_m > 7.0
    assert np.linalg.norm(off[:3, 3]) < 0.01 * way_m
    assert np.degrees(np.arccos((np.trace(off[:3, :3]) - 1) / 2)) < 0.3
    assert odometry.lost == 0


def test_odometry_says_where_it_is_lost_and_finds_its_way_back() -> None:
    odometry = Odometry(5.0)
    camera = Intrinsics(220.0, 220.0, 159.5, 119.5, 320, 240)
    rng = np.random.default_rng(1)
    rgb = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    here = View(rgb, room(camera, turned(20.0))[1], camera)
    assert odometry.follow(here) is not None
    dark = View(rgb, np.zeros((240, 320), np.float32), camera)
    assert odometry.follow(dark) is None
    elsewhere = View(np.ascontiguousarray(rgb[::-1]), room(camera, turned(150.0, (1.0, 0.5, 1.0)))[1], camera)
    assert odometry.follow(elsewhere) is None
    assert odometry.lost == 2
    again = odometry.follow(here)
    np.testing.assert_allclose(again, np.eye(4), atol=1e-3)


def test_without_opencv_5_no_odometry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "Odometry")
    with pytest.raises(EdgevaeError, match="has no RGB-D odometry; give poses with --poses"):
        Odometry(5.0)
