"""The calibration file: what it says, and what is wrong with a bad one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from two_cameras import Array, distort, pose

from edgevae.errors import SourceError
from edgevae.frame import Intrinsics
from edgevae.sources.calibration import Calibration, read_calibration
from edgevae.sources.registration import Registration

PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
COLOR = Intrinsics(600.0, 601.0, 321.5, 240.25, 640, 480, (0.1, -0.2, 0.001, -0.002, 0.05))
DEPTH = Intrinsics(300.0, 300.0, 159.5, 119.5, 320, 240)
POSE = pose((0.01, -0.02, 0.03), (0.05, 0.001, -0.004))


def block(name: str) -> str:
    """The code block of docs/calibration.md under the mark ``name``."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


def entries(calibration: Calibration) -> dict[str, object]:
    """What a file of ``calibration`` holds."""
    found: dict[str, object] = {}
    for name, camera in (("color", calibration.color), ("depth", calibration.depth)):
        found[f"{name}_camera_matrix"] = np.array(
            [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
        )
        found[f"{name}_distortion_coefficients"] = np.array([camera.distortion or (0.0,) * 5])
        found[f"{name}_image_width"] = camera.width
        found[f"{name}_image_height"] = camera.height
    found["R"] = calibration.color_from_depth[:3, :3]
    found["T"] = calibration.color_from_depth[:3, 3:]
    return found


def write(path: Path, content: dict[str, object]) -> Path:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key, value in content.items():
        if value is not None:
            storage.write(key, value)
    storage.release()
    return path


@pytest.mark.parametrize("suffix", [".yml", ".yaml", ".xml", ".json", ".yml.gz"])
def test_every_format_of_opencv(tmp_path: Path, suffix: str) -> None:
    read = read_calibration(write(tmp_path / f"c{suffix}", entries(Calibration(COLOR, DEPTH, POSE))))
    assert (read.color, read.depth, read.warning) == (COLOR, DEPTH, "")
    np.testing.assert_allclose(read.color_from_depth, POSE, rtol=0, atol=1e-15)


def test_a_row_for_t_and_single_precision(tmp_path: Path) -> None:
    content = entries(Calibration(COLOR, DEPTH, POSE))
    content["T"] = POSE[:3, 3][None]
    content["R"] = POSE[:3, :3].astype(np.float32)
    read = read_calibration(write(tmp_path / "c.yml", content))
    np.testing.assert_allclose(read.color_from_depth, POSE, atol=1e-7)


def test_the_example_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(block("example"))
    read = read_calibration(tmp_path / "c.yml")
    assert (read.color.fx, read.depth.width, read.depth.distortion) == (605.1, 640, ())
    Registration(read)


def test_the_recipe_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board seen by both cameras, through the lenses of two_cameras.py."""
    rng = np.random.default_rng(5)
    board = np.zeros((54, 3), np.float32)
    board[:, :2] = np.stack(np.meshgrid(np.arange(9), np.arange(6)), axis=-1).reshape(-1, 2) * 0.03
    truth = Calibration(COLOR, DEPTH, pose((0.02, -0.03, 0.01), (0.06, 0.002, -0.01)))
    views: dict[str, list[Array]] = {"color": [], "depth": []}
    while len(views["color"]) < 15:
        place = pose(tuple(rng.uniform(-0.6, 0.6, 3)), tuple(rng.uniform((-0.4, -0.3, 0.4), (0.2, 0.2, 0.9))))
        points = board @ place[:3, :3].T + place[:3, 3]
        seen = (
            project(DEPTH, points),
            project(COLOR, points @ truth.color_from_depth[:3, :3].T + truth.color_from_depth[:3, 3]),
        )
        if all(
            (p > 0).all() and (p < (c.width, c.height)).all()
            for p, c in zip(seen, (DEPTH, COLOR), strict=True)
        ):
            views["depth"].append(seen[0].astype(np.float32))
            views["color"].append(seen[1].astype(np.float32))
    monkeypatch.chdir(tmp_path)
    known = {"board": board, "color_corners": views["color"], "depth_corners": views["depth"]}
    exec(block("stereo"), {**known, "color_size": (640, 480), "depth_size": (320, 240)})
    read = read_calibration("cameras.yml")
    np.testing.assert_allclose(read.color_from_depth, truth.color_from_depth, atol=2e-3)
    assert read.color.fx == pytest.approx(600, rel=0.01)
    assert read.depth.fx == pytest.approx(300, rel=0.01)


def project(camera: Intrinsics, points: Array) -> Array:
    rays = distort(camera, points[:, :2] / points[:, 2:])
    return rays * (camera.fx, camera.fy) + (camera.cx, camera.cy)


def test_millimetres_are_suspected(tmp_path: Path) -> None:
    far = POSE.copy()
    far[:3, 3] *= 1000
    read = read_calibration(write(tmp_path / "c.yml", entries(Calibration(COLOR, DEPTH, far))))
    assert "50.1" in read.warning
    assert "divide millimetres by 1000" in read.warning


K = entries(Calibration(COLOR, DEPTH, POSE))["color_camera_matrix"]
MIRROR = np.diag([1.0, 1.0, -1.0])


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("R", None, "has no R, wanted a matrix 3x3"),
        ("color_camera_matrix", None, "has no color_camera_matrix"),
        ("depth_image_height", None, "has no depth_image_height, wanted the image's side"),
        ("depth_image_height", 0, "no number as depth_image_height"),
        ("depth_image_height", "tall", "no number as depth_image_height"),
        ("depth_image_height", -4, "has -4 as depth_image_height"),
        ("depth_image_height", 100_000, "has 100000 as depth_image_height"),
        ("depth_image_height", 240.5, "has 240.5 as"),
        ("R", np.eye(4), "has a R of 4x4 numbers, wanted a matrix 3x3"),
        ("R", np.zeros((3, 1)), "has a R of 3x1 numbers"),
        ("R", 2 * np.eye(3), "R that is no rotation (it is off orthonormal by 3)"),
        ("R", MIRROR, "R that is no rotation (it mirrors)"),
        ("R", np.full((3, 3), np.nan), "has a R that is not finite"),
        ("R", "turned", "has a R that is no matrix"),
        ("R", 5, "has a R that is no matrix"),
        ("T", np.zeros((4, 1)), "has a T of 4x1 numbers, wanted a matrix 3x1 or 1x3"),
        ("T", np.array([[np.inf, 0, 0]]), "has a T that is not finite"),
        ("color_camera_matrix", np.array([[-600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), "wanted fx 0 cx"),
        ("color_camera_matrix", np.array([[600.0, 3, 320], [0, 600, 240], [0, 0, 1]]), "with skew"),
        ("color_camera_matrix", np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 2]]), "0 0 2; wanted fx"),
        ("color_camera_matrix", np.array([[600.0, 0, 1320], [0, 600, 240], [0, 0, 1]]), "at 1320, 240"),
        ("color_image_width", 160, "centre at 321.5, 240.25 in an image of 160x480"),
        ("color_distortion_coefficients", np.zeros((1, 3)), "of 1x3 numbers, wanted a matrix 1x4 or"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, key: str, value: object, says: str) -> None:
    content = entries(Calibration(COLOR, DEPTH, POSE))
    content[key] = value
    path = write(tmp_path / "c.yml", content)
    with pytest.raises(SourceError) as error:
        read_calibration(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n\x00\x01",
        b'{"R": ',
        b"<?xml version=",
        b"just some words\n",
        os.urandom(400),
        b"- 1\n",
    ],
)
@pytest.mark.parametrize("suffix", [".yml", ".xml", ".json", ".txt"])
def test_no_document(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"calibration .* (cannot be read|has no)"):
        read_calibration(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        read_calibration(tmp_path / "c.yml")
    with pytest.raises(SourceError, match="is a folder"):
        read_calibration(tmp_path)
    with (tmp_path / "c.yml").open("wb") as file:
        file.truncate(5_000_000)
    with pytest.raises(SourceError, match="has 5 MB, wanted a few kilobytes"):
        read_calibration(tmp_path / "c.yml")


def test_a_cut_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "c.yml", entries(Calibration(COLOR, DEPTH, POSE))).read_bytes()
    for length in range(0, len(whole) - 12, 37):
        (tmp_path / "cut.yml").write_bytes(whole[:length])
        with pytest.raises(SourceError, match="calibration"):
            read_calibration(tmp_path / "cut.yml")
