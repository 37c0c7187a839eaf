"""Registration beside the RealSense SDK's own alignment, on frames of its software device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from two_cameras import pose, render_depth

from edgevae.frame import Intrinsics
from edgevae.sources.calibration import Calibration
from edgevae.sources.registration import Registration

rs: Any = pytest.importorskip(
    "pyrealsense2", reason="the RealSense SDK is not installed", exc_type=ImportError
)

DEPTH = Intrinsics(380, 380, 319, 241, 640, 480)
COLOR = Intrinsics(600, 601, 322, 238, 640, 480)
# Turned about and moved across the axis only: the SDK moves readings to colour's pixels as they are, while
# registration takes the distance along the colour camera's axis, and only so is it the same.
COLOR_FROM_DEPTH = pose((0, 0, 0.02), (0.059, 0.004, 0))
UNIT_M = 0.0005


def sdk_intrinsics(camera: Intrinsics) -> Any:
    found = rs.intrinsics()
    found.width, found.height = camera.width, camera.height
    found.fx, found.fy, found.ppx, found.ppy = camera.fx, camera.fy, camera.cx, camera.cy
    found.model, found.coeffs = rs.distortion.brown_conrady, [0.0] * 5
    return found


def add_stream(sensor: Any, kind: Any, number: int, camera: Intrinsics, pixels: Any, size: int) -> Any:
    stream = rs.video_stream()
    stream.type, stream.index, stream.uid = kind, 0, number
    stream.width, stream.height, stream.fps, stream.bpp = camera.width, camera.height, 30, size
    stream.fmt, stream.intrinsics = pixels, sdk_intrinsics(camera)
    return sensor.add_video_stream(stream)


def video_frame(profile: Any, pixels: np.ndarray[Any, Any], number: int) -> Any:
    frame = rs.software_video_frame()
    frame.pixels, frame.profile = pixels, profile.as_video_stream_profile()
    frame.bpp, frame.stride = pixels[0, 0].nbytes, pixels[0].nbytes
    frame.timestamp, frame.frame_number, frame.domain = (
        number * 33.0,
        number,
        rs.timestamp_domain.hardware_clock,
    )
    return frame


def aligned_by_sdk(depth: np.ndarray[Any, np.dtype[np.uint16]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """``depth`` as rs.align puts it onto colour."""
    device = rs.software_device()
    depth_sensor, color_sensor = device.add_sensor("Depth"), device.add_sensor("Color")
    profiles = (
        add_stream(depth_sensor, rs.stream.depth, 0, DEPTH, rs.format.z16, 2),
        add_stream(color_sensor, rs.stream.color, 1, COLOR, rs.format.rgb8, 3),
    )
    depth_sensor.add_read_only_option(rs.option.depth_units, UNIT_M)
    extrinsics = rs.extrinsics()
    extrinsics.rotation = COLOR_FROM_DEPTH[:3, :3].T.ravel().tolist()  # the SDK counts by columns
    extrinsics.translation = COLOR_FROM_DEPTH[:3, 3].tolist()
    profiles[0].register_extrinsics_to(profiles[1], extrinsics)
    device.create_matcher(rs.matchers.default)
    syncer = rs.syncer(8)
    color = np.zeros((COLOR.height, COLOR.width, 3), np.uint8)
    for sensor, profile in zip((depth_sensor, color_sensor), profiles, strict=True):
        sensor.open(profile)
        sensor.start(syncer)
    align = rs.align(rs.stream.color)
    try:
        for number in range(1, 30):  # the first framesets may lack one of the two
            depth_sensor.on_video_frame(video_frame(profiles[0], depth, number))
            color_sensor.on_video_frame(video_frame(profiles[1], color, number))
            arrived, frames = syncer.try_wait_for_frames(2000)
            if arrived and frames.get_depth_frame() and frames.get_color_frame():
                return np.array(align.process(frames).get_depth_frame().get_data())
    finally:
        for sensor in (depth_sensor, color_sensor):
            sensor.stop()
            sensor.close()
    raise AssertionError("the software device gave no pair")


def test_registration_agrees_with_the_sdk() -> None:
    depth = np.round(render_depth(DEPTH, np.eye(4)) / UNIT_M).astype(np.uint16)
    theirs = aligned_by_sdk(depth).astype(np.float32) * np.float32(UNIT_M)
    calibration = Calibration(COLOR, DEPTH, COLOR_FROM_DEPTH)
    ours = Registration(calibration).register(depth.astype(np.float32) * np.float32(UNIT_M))
    both = (theirs > 0) & (ours > 0)
    assert both.mean() > 0.9
    assert ((theirs > 0) == (ours > 0)).mean() > 0.98  # they differ along edges
    error = np.abs(theirs - ours)[both] / theirs[both]
    assert np.median(error) < 0.002
    assert (error < 0.02).mean() > 0.98
