"""A RealSense camera that is not there: the SDK's own software device."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

rs = pytest.importorskip("pyrealsense2")

SERIAL = "012345678901"
UNITS = 0.0005  # metres per unit
BASELINE_M = 0.015  # the colour camera sits so far to the right of the depth camera
DEPTH_SIZE, COLOR_SIZE = (64, 48), (96, 72)
HARDWARE, GLOBAL = rs.timestamp_domain.hardware_clock, rs.timestamp_domain.global_time


def camera(
    size: tuple[int, int], focal: float, model: Any = None, coefficients: Iterable[float] = (0, 0, 0, 0, 0)
) -> Any:
    made = rs.intrinsics()
    made.width, made.height = size
    made.fx, made.fy = focal, focal * 1.01
    made.ppx, made.ppy = size[0] / 2 - 0.5, size[1] / 2 + 0.25
    made.model = rs.distortion.brown_conrady if model is None else model
    made.coeffs = list(coefficients)
    return made


DEPTH_CAMERA = camera(DEPTH_SIZE, 50.0)
COLOR_CAMERA = camera(COLOR_SIZE, 80.0)


class SoftRealsense:
    """Depth 64x48 and colour 96x72 at 30 fps, whose images and times a test chooses."""

    def __init__(self, *, units: float = UNITS, color_camera: Any = None) -> None:
        self.device = rs.software_device()
        for key, text in (
            (rs.camera_info.name, "Intel RealSense D435"),
            (rs.camera_info.serial_number, SERIAL),
            (rs.camera_info.firmware_version, "5.16.0.1"),
            (rs.camera_info.usb_type_descriptor, "3.2"),
        ):
            self.device.register_info(key, text)
        self._units = units
        self._keep: list[npt.NDArray[Any]] = []  # the SDK reads pixels after on_video_frame has returned
        self.sensors = {
            "depth": self.device.add_sensor("Stereo Module"),
            "color": self.device.add_sensor("RGB Camera"),
        }
        self.profiles = {
            "depth": self._stream("depth", 1, rs.format.z16, 2, DEPTH_CAMERA),
            "color": self._stream("color", 2, rs.format.rgb8, 3, color_camera or COLOR_CAMERA),
        }
        self.sensors["depth"].add_read_only_option(rs.option.depth_units, units)
        self.sensors["depth"].add_read_only_option(rs.option.stereo_baseline, 50.0)
        to_color = rs.extrinsics()
        to_color.rotation = [1, 0, 0, 0, 1, 0, 0, 0, 1]
        to_color.translation = [-BASELINE_M, 0, 0]
        self.profiles["depth"].register_extrinsics_to(self.profiles["color"], to_color)
        self.device.create_matcher(rs.matchers.default)

    def _stream(self, name: str, uid: int, pixels: Any, depth: int, intrinsics: Any) -> Any:
        stream = rs.video_stream()
        stream.type = getattr(rs.stream, name)
        stream.index, stream.uid, stream.fps = 0, uid, 30
        stream.width, stream.height = intrinsics.width, intrinsics.height
        stream.bpp, stream.fmt, stream.intrinsics = depth, pixels, intrinsics
        return self.sensors[name].add_video_stream(stream)

    def send(
        self,
        name: str,
        number: int,
        pixels: npt.NDArray[Any],
        at_ms: float,
        *,
        domain: Any = HARDWARE,
        exposed_before_us: int | None = None,
    ) -> None:
        """One image; with ``exposed_before_us`` the metadata say how long before ``at_ms`` it was exposed."""
        if exposed_before_us is not None:
            value, at_us = rs.frame_metadata_value, round(at_ms * 1000)
            self.sensors[name].set_metadata(value.frame_timestamp, at_us)
            self.sensors[name].set_metadata(value.sensor_timestamp, at_us - exposed_before_us)
        pixels = np.ascontiguousarray(pixels)
        self._keep = [*self._keep[-63:], pixels]
        frame = rs.software_video_frame()
        frame.pixels, frame.stride = pixels, pixels.strides[0]
        frame.bpp = 2 if name == "depth" else 3
        frame.timestamp, frame.domain, frame.frame_number = at_ms, domain, number
        frame.profile = self.profiles[name].as_video_stream_profile()
        if name == "depth":
            frame.depth_units = self._units
        self.sensors[name].on_video_frame(frame)

    def send_pair(self, number: int, *, skew_ms: float = 2.0, **how: Any) -> None:
        """Depth of 2000 + number units, then colour whose red is the number."""
        at_ms = 10_000 + number * 100 / 3
        self.send("depth", number, depth_image(number), at_ms, **how)
        self.send("color", number, color_image(number), at_ms + skew_ms, **how)


def depth_image(number: int) -> npt.NDArray[np.uint16]:
    return np.full(DEPTH_SIZE[::-1], 2000 + number, np.uint16)


def color_image(number: int) -> npt.NDArray[np.uint8]:
    image = np.zeros((*COLOR_SIZE[::-1], 3), np.uint8)
    image[..., 0] = number % 256
    image[..., 2] = 200
    return image


def record(
    path: Path, count: int, *, missing: Iterable[tuple[str, int]] = (), depth_behind: int = 0, **how: Any
) -> None:
    """``count`` pairs through the SDK's recorder, in real time.

    ``missing`` names images that are left out; depth comes ``depth_behind`` frames after colour of its time.
    """
    missing = set(missing)
    soft = SoftRealsense()
    recorder = rs.recorder(str(path), soft.device)
    sensors = recorder.query_sensors()
    queue = rs.frame_queue(64)
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(queue)
    for number in range(count):
        for name, image, later_ms in (("depth", depth_image, 0.0), ("color", color_image, 2.0)):
            this = number - depth_behind if name == "depth" else number
            if this >= 0 and (name, this) not in missing:
                soft.send(name, this, image(this), 10_000 + this * 100 / 3 + later_ms, **how)
        while queue.poll_for_frame():
            pass
        time.sleep(1 / 30)
    for sensor in sensors:
        sensor.stop()
        sensor.close()
