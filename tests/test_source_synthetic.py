"""The rendered street: deterministic, endless, and with depth that agrees with geometry."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from edgevae import Frame, SourceError, open_source
from edgevae.sources.synthetic import FAR_M, FPS, SyntheticSource


def points(frame: Frame) -> np.ndarray:
    """Camera-frame points (H, W, 3) of every pixel, float64."""
    camera = frame.intrinsics
    assert camera is not None
    depth = frame.depth.astype(np.float64)
    v, u = np.mgrid[: camera.height, : camera.width]
    return np.stack([(u - camera.cx) / camera.fx * depth, (v - camera.cy) / camera.fy * depth, depth], -1)


def to_world(frame: Frame, p: np.ndarray) -> np.ndarray:
    return p @ frame.pose[:3, :3].T + frame.pose[:3, 3]


def test_frame_conventions() -> None:
    with open_source("synthetic:7") as source:
        assert (source.live, source.length, source.fps, source.dropped) == (False, None, 30.0, 0)
        frames = [source.read() for _ in range(3)]
    for i, frame in enumerate(frames):
        assert frame is not None
        assert frame.rgb.shape == (240, 320, 3)
        assert frame.rgb.dtype == np.uint8
        assert frame.depth.shape == (240, 320)
        assert frame.depth.dtype == np.float32
        assert (frame.index, frame.clock, frame.timestamp_ns) == (i, "synthetic", i * 1_000_000_000 // FPS)
        assert (frame.intrinsics.width, frame.intrinsics.height) == (320, 240)
        assert frame.pose.dtype == np.float64


def test_same_seed_same_bits_in_any_order_and_process() -> None:
    a, b = SyntheticSource(5), SyntheticSource(5)
    forward = [a.frame(i) for i in (0, 1, 900)]
    backward = [b.frame(i) for i in (900, 1, 0)][::-1]
    for x, y in zip(forward, backward, strict=True):
        assert np.array_equal(x.rgb, y.rgb)
        assert np.array_equal(x.depth, y.depth)
        assert np.array_equal(x.pose, y.pose)
    program = (
        "import hashlib, edgevae\n"
        "f = next(iter(edgevae.open_source('synthetic:5')))\n"
        "print(hashlib.sha256(f.rgb.tobytes() + f.depth.tobytes() + f.pose.tobytes()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_each_seed_is_another_street_and_the_drive_goes_on() -> None:
    first = [SyntheticSource(seed).frame(0) for seed in range(4)]
    for i in range(4):
        for j in range(i):
            assert np.mean(first[i].rgb != first[j].rgb) > 0.5
    later = SyntheticSource(0).frame(1_000_000)  # nine hours on
    assert later.pose[2, 3] > 100_000.0
    assert np.mean(later.rgb != first[0].rgb) > 0.5
    assert np.isfinite(later.depth).all()
    assert (later.depth > 0).mean() > 0.4


@pytest.mark.parametrize("seed", range(4))
def test_ground_obeys_its_plane(seed: int) -> None:
    """Ground is y = 0, nothing lies below it, and a good part of each picture is on it."""
    source = SyntheticSource(seed)
    for index in (0, 137, 500_000):
        frame = source.frame(index)
        height_m = -to_world(frame, points(frame))[..., 1]
        valid = frame.depth > 0
        # Nothing is below the ground. float32 depth of <= 100 m is good to 8e-6 m; the plane's inverse
        # depth near the horizon, 1/100, is a difference of terms near 0.4, so 2.4e-8 / 0.01 * 1.5 m of
        # height = 4e-6 m; 1e-4 m leaves room for a camera that pitches.
        assert height_m[valid].min() > -1e-4
        on_ground = valid & (np.abs(height_m) < 1e-4)
        assert on_ground.sum() > 0.15 * valid.size
        # against the plane itself, from the ray, in float64
        camera, pose = frame.intrinsics, frame.pose
        v, u = np.nonzero(on_ground)
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(u))], -1)
        exact = -pose[1, 3] / (rays @ pose[:3, :3].T)[:, 1]
        assert np.max(np.abs(frame.depth[v, u] / exact - 1.0)) < 2e-5


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_depth_of_one_frame_lands_on_the_surfaces_of_another(seed: int) -> None:
    """Points of frame a lie on what frame b sees there, but for traffic and what hides behind an edge."""
    source = SyntheticSource(seed)
    for index in (10, 400):
        a, b = source.frame(index), source.frame(index + 4)
        p = points(a)[a.depth > 0]
        seen_by_b = (to_world(a, p) - b.pose[:3, 3]) @ b.pose[:3, :3]
        z = seen_by_b[:, 2]
        camera = b.intrinsics
        ok = z > 0.3
        u = camera.fx * seen_by_b[ok, 0] / z[ok] + camera.cx
        v = camera.fy * seen_by_b[ok, 1] / z[ok] + camera.cy
        z = z[ok]
        inside = (u >= 0) & (v >= 0) & (u <= camera.width - 1.001) & (v <= camera.height - 1.001)
        u, v, z = u[inside], v[inside], z[inside]
        # Inverse depth is affine over a plane in the picture, so bilinear interpolation of it is exact there.
        with np.errstate(divide="ignore"):
            w = 1.0 / b.depth.astype(np.float64)
        i, j = v.astype(int), u.astype(int)
        fv, fu = v - i, u - j
        seen = (1 - fv) * ((1 - fu) * w[i, j] + fu * w[i, j + 1]) + fv * (
            (1 - fu) * w[i + 1, j] + fu * w[i + 1, j + 1]
        )
        relative = np.abs(seen * z - 1.0)
        assert np.mean(relative < 1e-4) > 0.85, f"seed {seed}, frame {index}"
        # a wrong pose is noticed: the same test with b's camera 5 cm to the side fails almost everywhere
        shifted = np.abs(seen * (z + 0.05) - 1.0)
        assert np.mean(shifted < 1e-4) < 0.2


def test_sky_and_far_things_have_no_reading() -> None:
    frame = SyntheticSource(3).frame(0)
    assert (frame.depth == 0).any()
    readings = frame.depth[frame.depth > 0]
    assert readings.min() > 0.2
    assert readings.max() <= FAR_M * (1 + 1e-6)
    # sky is at the top: its pixels point upwards
    v, u = np.nonzero(frame.depth == 0)
    camera, rotation = frame.intrinsics, frame.pose[:3, :3]
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(u))], -1)
    assert np.mean((rays @ rotation.T)[:, 1] < 0.02) > 0.99


def test_motion_is_smooth_and_poses_are_rigid() -> None:
    source = SyntheticSource(2)
    poses = np.stack([source._street.eye(i / FPS)[1] for i in range(300)])
    rotation = poses[:, :3, :3]
    assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotation), 1.0)
    velocity = np.diff(poses[:, :3, 3], axis=0) * FPS
    speed = np.linalg.norm(velocity, axis=1)
    assert speed.min() > 4.0
    assert speed.max() < 14.0
    assert np.abs(np.diff(velocity, axis=0) * FPS).max() < 4.0  # m/s^2
    forward = rotation[:, :, 2]
    assert ((forward[1:] * velocity).sum(1) / speed).min() > 0.99  # it drives where it looks
    assert -1.6 < poses[:, 1, 3].min() < poses[:, 1, 3].max() < -1.4


def test_traffic_moves_against_the_street() -> None:
    """Where nothing moved, frame b explains frame a; where oncoming traffic was, it does not."""
    source = SyntheticSource(7)
    street = source._street
    eye_z = street.eye(0.0)[0]

    def oncoming(time_s: float) -> list[float]:
        vehicles = street._vehicles(time_s, eye_z)
        return sorted(z for _, (_, z, heading), _ in vehicles if abs(heading) > 2.0 and z > eye_z + 20.0)

    before, after = oncoming(0.0), oncoming(0.5)
    assert before
    for z in before:
        moved = z - 0.5 * street.oncoming_m_s
        assert z < eye_z + 30.0 or min(abs(moved - other) for other in after) < 0.1


def test_size_option_and_colour_alone() -> None:
    with open_source("synthetic:7?size=200x150", depth="none") as source:
        frame = source.read()
    assert frame.rgb.shape == (150, 200, 3)
    assert frame.depth is None
    assert frame.intrinsics.cx == 99.5
    small, large = SyntheticSource(7, 160, 120).frame(0), SyntheticSource(7, 320, 240).frame(0)
    scaled = small.intrinsics.scaled(320, 240)
    assert scaled.fx == pytest.approx(large.intrinsics.fx)
    assert scaled.cx == pytest.approx(large.intrinsics.cx)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("synthetic:x", "whole number"),
        ("synthetic:-1", "whole number"),
        ("synthetic:7?size=big", "WxH"),
        ("synthetic:7?size=4x4", "16x16"),
        ("synthetic:7?size=9999x9999", "2048x2048"),
        ("synthetic:7?colour=blue", "size="),
        ("synthetic:7?frames=0", "wanted a number, as in"),
        ("synthetic:7?frames=x", "wanted a number, as in"),
    ],
)
def test_bad_uri(uri: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        open_source(uri)


def test_a_drive_with_an_end() -> None:
    with open_source("synthetic:3?size=32x32&frames=4") as source:
        assert (source.length, source.endless) == (4, False)
        assert [frame.index for frame in source] == [0, 1, 2, 3]
        assert source.read() is None
    with open_source("synthetic:3") as source:
        assert (source.length, source.endless) == (None, True)
