"""TUM RGB-D folders: association, poses, intrinsics, and what is wrong with a broken one."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevae import FrameError, SourceError, open_source
from edgevae.trajectory import slerp

START = 1305031247  # seconds, as in a real sequence: too large for float64 to hold nanoseconds


def stamp(milliseconds: float) -> str:
    return f"{START + int(milliseconds // 1000)}.{round(milliseconds % 1000 * 1000):06d}"


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Four frames at 30 Hz, depth 10 ms early; the last two have their depth seconds late."""
    root = tmp_path / "rgbd_dataset_freiburg1_tiny"
    (root / "rgb").mkdir(parents=True)
    (root / "depth").mkdir()
    colors, depths = ["# color images"], ["# depth maps"]
    for i in range(4):
        rgb = np.zeros((480, 640, 3), np.uint8)
        rgb[..., 0], rgb[..., 2] = 200, 10 * i
        depth = np.full((480, 640), 5000 * (i + 1), np.uint16)
        depth[:10] = 0
        t = 1000 * i / 30
        cv2.imwrite(str(root / f"rgb/{i}.png"), rgb[..., ::-1])
        cv2.imwrite(str(root / f"depth/{i}.png"), depth)
        colors.append(f"{stamp(t)} rgb/{i}.png")
        depths.append(f"{stamp(t - 10 if i < 2 else 1000 * i)} depth/{i}.png")
    (root / "rgb.txt").write_text("\n".join(colors) + "\n")
    (root / "depth.txt").write_text("\n".join(depths) + "\n")
    quarter = np.sqrt(0.5)
    (root / "groundtruth.txt").write_text(
        "# timestamp tx ty tz qx qy qz qw\n"
        f"{stamp(0)} 1 2 3 0 0 0 1\n"
        f"{stamp(50)} 2 2 3 0 {quarter} 0 {quarter}\n"
    )
    return root


def test_association_units_clock_and_colour_order(sequence: Path) -> None:
    with open_source(f"tum:{sequence}") as source:
        assert (source.live, source.length) == (False, 2)
        frames = list(source)
        assert source.read() is None
    assert [f.index for f in frames] == [0, 1]
    assert [f.timestamp_ns for f in frames] == [START * 10**9, START * 10**9 + 33_333_000]
    assert frames[0].clock == "file"
    assert frames[1].rgb[0, 0].tolist() == [200, 0, 10]
    assert frames[1].depth.dtype == np.uint16
    assert frames[1].depth_m()[20, 20] == pytest.approx(2.0)
    assert frames[1].depth_m()[0, 0] == 0.0


def test_a_depth_serves_the_nearest_colour_only(sequence: Path) -> None:
    (sequence / "depth.txt").write_text(
        f"{stamp(18)} depth/3.png\n"
    )  # 18 ms from frame 0, 15 ms from frame 1
    (frame,) = open_source(f"tum:{sequence}")
    assert frame.rgb[0, 0, 2] == 10
    assert frame.depth_m()[20, 20] == pytest.approx(4.0)


def test_associations_file_in_either_order_decides(sequence: Path) -> None:
    lines = f"{stamp(0)} rgb/0.png {stamp(1)} depth/3.png\n{stamp(70)} depth/1.png {stamp(66)} rgb/2.png\n"
    (sequence / "associations.txt").write_text(lines)
    with open_source(f"tum:{sequence}") as source:
        first, second = source
    assert first.depth_m()[20, 20] == pytest.approx(4.0)
    assert second.rgb[0, 0, 2] == 20
    assert second.timestamp_ns == START * 10**9 + 66_000_000


def test_poses_are_interpolated_and_end_where_ground_truth_ends(sequence: Path) -> None:
    with open_source(f"tum:{sequence}", depth="none") as source:
        frames = list(source)
    assert len(frames) == 4
    assert all(f.depth is None for f in frames)
    assert np.allclose(frames[0].pose, [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    t = 33.333 / 50
    angle = t * np.pi / 2
    assert frames[1].pose[:3, 3] == pytest.approx([1 + t, 2, 3])
    assert frames[1].pose[:3, :3] == pytest.approx(
        np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    )
    assert frames[2].pose is None  # 66 ms: after the last pose
    (sequence / "groundtruth.txt").write_text(f"{stamp(0)} 0 0 0 0 0 0 1\n{stamp(150)} 1 0 0 0 0 0 1\n")
    with open_source(f"tum:{sequence}") as source:
        frames = list(source)
    assert frames[0].pose is not None  # exactly on a pose
    assert frames[1].pose is None  # the gap of 150 ms is too wide to guess


def test_slerp_takes_the_short_way_and_survives_equal_ends() -> None:
    a = np.array([0.0, 0.0, 0.0, 1.0])
    b = np.array([0.0, 0.0, np.sin(0.4), np.cos(0.4)])
    for t in (0.0, 0.3, 1.0):
        expected = [0.0, 0.0, np.sin(0.4 * t), np.cos(0.4 * t)]
        assert slerp(a, b, t) == pytest.approx(expected, abs=1e-12)
        assert slerp(a, -b, t) == pytest.approx(expected, abs=1e-12)
    assert slerp(a, a, 0.5) == pytest.approx(a)


def test_intrinsics_by_folder_name_by_camera_json_or_unknown(sequence: Path) -> None:
    assert open_source(f"tum:{sequence}").read().intrinsics.fx == 517.3
    moved = sequence.with_name("desk")
    shutil.copytree(sequence, moved)
    assert open_source(f"tum:{moved}").read().intrinsics is None
    (sequence / "camera.json").write_text(
        '{"width": 640, "height": 480, "fx": 500, "fy": 501, "cx": 320, "cy": 240,'
        ' "distortion_k1k2p1p2k3": [0.1, 0, 0, 0, 0], "depth_scale_per_metre": 1000}'
    )
    frame = open_source(f"tum:{sequence}").read()
    assert (frame.intrinsics.fy, frame.intrinsics.distortion) == (501.0, (0.1, 0.0, 0.0, 0.0, 0.0))
    assert frame.depth_m()[20, 20] == pytest.approx(5.0)


def test_colour_only_sequence(sequence: Path) -> None:
    (sequence / "depth.txt").unlink()
    frames = list(open_source(f"tum:{sequence}"))
    assert len(frames) == 4
    assert frames[0].depth is None


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("rgb.txt", "hello\n", r"rgb\.txt line 1 is 'hello', wanted 'stamp rgb/FILE'"),
        ("rgb.txt", "now rgb/0.png\n", "time stamp 'now'"),
        ("rgb.txt", "# nothing\n", "has no frame"),
        ("depth.txt", f"{START + 9}.0 depth/0.png\n", "20 ms"),
        ("associations.txt", "1.0 rgb/0.png 1.0\n", r"associations\.txt line 1"),
        ("groundtruth.txt", "1.0 0 0 0 0 0 0\n", "tx ty tz"),
        ("groundtruth.txt", "1.0 a 0 0 0 0 0 1\n", "wanted numbers"),
        ("groundtruth.txt", "1.0 0 0 0 0 0 0 0\n", "no rotation"),
        ("camera.json", "{", r"camera\.json"),
        ("camera.json", '{"width": 640}', "height = None"),
        ("camera.json", "[1]", "holds a list"),
    ],
)
def test_broken_lists(sequence: Path, file: str, text: str, says: str) -> None:
    (sequence / file).write_text(text)
    with pytest.raises(SourceError, match=says):
        open_source(f"tum:{sequence}")


def test_missing_folder_list_picture_and_sizes(sequence: Path) -> None:
    with pytest.raises(SourceError, match="no folder"):
        open_source(f"tum:{sequence}/nowhere")
    with pytest.raises(SourceError, match=r"neither associations\.txt nor rgb\.txt"):
        open_source(f"tum:{sequence / 'rgb'}")

    cv2.imwrite(str(sequence / "depth/1.png"), np.ones((240, 320), np.uint16))
    source = open_source(f"tum:{sequence}")
    source.read()
    with pytest.raises(FrameError, match=r"depth .*1\.png is 320x240, colour .*1\.png is 640x480"):
        source.read()

    whole = (sequence / "rgb/0.png").read_bytes()
    (sequence / "rgb/0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FrameError, match=r"0\.png is truncated or not a picture"):
        open_source(f"tum:{sequence}").read()
    (sequence / "rgb/0.png").unlink()
    with pytest.raises(FrameError, match=r"cannot read picture .*0\.png: No such file"):
        open_source(f"tum:{sequence}").read()


def test_camera_json_of_another_size(sequence: Path) -> None:
    (sequence / "camera.json").write_text(
        '{"width": 320, "height": 240, "fx": 250, "fy": 250, "cx": 160, "cy": 120}'
    )
    with pytest.raises(SourceError, match=r"640x480, camera\.json is for 320x240"):
        open_source(f"tum:{sequence}").read()


def test_real_sequence(data_dir: Path) -> None:
    with open_source(f"tum:{data_dir / 'tum_fr1_rpy_100'}") as source:
        assert source.length == 100
        assert source.fps == pytest.approx(30.0, rel=0.1)
        frames = list(source)
    assert len(frames) == 100
    assert frames[0].timestamp_ns == 1305031247829657000
    assert frames[0].intrinsics.fx == 517.3
    assert frames[0].depth_scale == pytest.approx(0.0002)
    assert all(f.pose is not None for f in frames)
    assert np.allclose([np.linalg.det(f.pose[:3, :3]) for f in frames], 1.0)
    depth = frames[50].depth_m()
    assert 0.3 < np.median(depth[depth > 0]) < 5.0


def test_real_depth_agrees_between_frames_through_the_poses(data_dir: Path) -> None:
    """The pose convention is right: half a second later the same surfaces stand at the same place."""
    with open_source(f"tum:{data_dir / 'tum_fr1_rpy_100'}") as source:
        frames = list(source)
    a, b = frames[60], frames[66]
    camera = a.intrinsics
    v, u = np.mgrid[40:440:4, 40:600:4]
    z = a.depth_m()[v, u].astype(np.float64)
    ok = (z > 0.4) & (z < 3.0)
    p = np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], -1)[ok]

    def agreement(pose_a: np.ndarray, pose_b: np.ndarray) -> float:
        q = (p @ pose_a[:3, :3].T + pose_a[:3, 3] - pose_b[:3, 3]) @ pose_b[:3, :3]
        front = q[:, 2] > 0.2
        uu = np.rint(camera.fx * q[:, 0] / np.maximum(q[:, 2], 0.2) + camera.cx).astype(int)
        vv = np.rint(camera.fy * q[:, 1] / np.maximum(q[:, 2], 0.2) + camera.cy).astype(int)
        inside = front & (uu >= 0) & (vv >= 0) & (uu < 640) & (vv < 480)
        seen = b.depth_m()[vv[inside], uu[inside]]
        return float(np.median(np.abs(seen - q[inside, 2])[seen > 0]))

    assert agreement(a.pose, b.pose) < 0.03
    assert agreement(a.pose, b.pose) < 0.7 * agreement(np.eye(4), np.eye(4))
