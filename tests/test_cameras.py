"""``edgevae cameras``: V4L2 devices behind a preloaded shim, a machine without any camera."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevae import cameras, v4l2
from edgevae.cli import main

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shim(build_shim: Callable[[str], Path]) -> Path:
    return build_shim("v4l2_shim")


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose /dev and USB hold no camera; the folder of its devices."""
    dev = tmp_path / "dev"
    (dev / "v4l" / "by-id").mkdir(parents=True)
    (tmp_path / "usb").mkdir()
    monkeypatch.setattr(cameras, "DEV", dev)
    monkeypatch.setattr(cameras, "USB", tmp_path / "usb")
    return dev


def listed(shim: Path, dev: Path, *arguments: str, **settings: str) -> str:
    """What ``edgevae cameras`` prints where the shim answers for /dev/video0."""
    program = f"""
import sys, pathlib
from edgevae import cameras
from edgevae.cli import main
cameras.DEV = pathlib.Path({str(dev)!r})
sys.exit(main(["cameras", *sys.argv[1:]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "LD_PRELOAD": str(shim), **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "shim: closed\n")  # asked, and released
    return done.stdout


def test_a_v4l2_camera_with_its_modes(shim: Path, nothing: Path) -> None:
    (nothing / "video0").symlink_to("/dev/video0")
    (nothing / "video").touch()  # no number: no device
    (device,) = json.loads(listed(shim, nothing, "--json"))["v4l2"]
    assert device == {
        "camera": "/dev/video0",
        "device": "/dev/video0",
        "by_id": None,
        "name": "test camera",
        "driver": "shim",
        "bus": "",
        "modes": [{"pixels": "YUYV", "width": 64, "height": 48, "fps": [50.0, 25.0]}],
        "problem": None,
    }


def test_a_camera_that_takes_any_size_and_rate_in_a_range(shim: Path, nothing: Path) -> None:
    (nothing / "video0").symlink_to("/dev/video0")
    text = listed(shim, nothing, SHIM_RANGES="1")
    assert text.splitlines()[2:] == ["  YUYV   64x48 at 50, 25 fps"]


def test_a_name_that_survives_a_reboot_is_preferred(shim: Path, nothing: Path) -> None:
    link = nothing / "v4l" / "by-id" / "usb-Acme_Camera_0001-video-index0"
    link.symlink_to("/dev/video0")
    (nothing / "video0").symlink_to("/dev/video0")
    text = listed(shim, nothing)
    assert text.splitlines()[:3] == [
        "test camera (shim)",
        f"  --camera {link}   (/dev/video0)",
        "  YUYV   64x48 at 50, 25 fps",
    ]


def test_nothing_connected_says_what_to_check(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cameras"]) == 0
    said = capsys.readouterr()
    assert "no camera found. Check that it is plugged in" in said.out
    assert "edgevae stream --camera synthetic" in said.out
    assert said.err == ""
    assert main(["cameras", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format_version"], document["v4l2"]) == (1, [])


def test_a_device_that_cannot_be_asked_is_listed_with_the_reason(nothing: Path) -> None:
    (nothing / "video2").touch()  # a file: it answers no ioctl
    (nothing / "video10").symlink_to(nothing / "gone")
    found = v4l2.cameras(nothing)
    assert [(camera.device[-6:], camera.error) for camera in found] == [
        ("video2", os.strerror(errno.ENOTTY)),
        ("v/gone", os.strerror(errno.ENOENT)),
    ]
    text = cameras.show({"realsense": [], "realsense_problem": None, "v4l2": cameras.find_cameras()["v4l2"]})
    assert os.strerror(errno.ENOTTY) in text


def test_no_permission_names_the_group(nothing: Path) -> None:
    if os.geteuid() == 0:
        camera = v4l2.V4l2Camera("/dev/video0", None, error=os.strerror(errno.EACCES))
    else:
        (nothing / "video0").touch(mode=0o000)
        (camera,) = v4l2.cameras(nothing)
    assert "sudo usermod -aG video $USER" in cameras._v4l2(camera)["problem"]


def test_a_realsense_that_the_sdk_cannot_open(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyrealsense2")
    plug = cameras.USB / "2-1"
    plug.mkdir()
    (plug / "product").write_text("Intel(R) RealSense(TM) Depth Camera 435\n")
    assert main(["cameras"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Depth Camera 435 is plugged in, but the SDK cannot open it" in said
    assert "udev rules" in said
