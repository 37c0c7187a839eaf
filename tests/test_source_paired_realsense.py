"""Depth of a RealSense camera (the SDK's software device) with the colour of another camera."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyrealsense2")

from scripted_source import LiveSource
from soft_realsense import BASELINE_M, DEPTH_CAMERA, DEPTH_SIZE, GLOBAL, HARDWARE, UNITS, SoftRealsense, rs
from test_calibration import entries, write

from edgevae.frame import Frame, Intrinsics
from edgevae.sources.calibration import Calibration
from edgevae.sources.paired import PairedSource
from edgevae.sources.realsense import RealsenseSource
from edgevae.sources.realsense_frames import intrinsics

WEBCAM = Intrinsics(60.0, 60.0, 39.5, 29.5, 80, 60)
FAR = round(2 / UNITS)  # two metres


def film(soft: SoftRealsense, webcam: LiveSource, domain: str, done: threading.Event) -> None:
    """Frames of both at some 30 fps; depth has its number added, and no reading in its right half."""
    number = 0
    while not done.wait(1 / 30):
        units = np.full(DEPTH_SIZE[::-1], FAR + number, np.uint16)
        units[:, DEPTH_SIZE[0] // 2 :] = 0
        at_ns = time.time_ns()
        if domain == "host":
            soft.send("depth", number, units, at_ns / 1e6, domain=GLOBAL)
        else:
            soft.send("depth", number, units, 500.0 + number * 33.3, domain=HARDWARE)
        rgb = np.full((60, 80, 3), number % 256, np.uint8)
        webcam.give(Frame(rgb, timestamp_ns=at_ns, index=number))
        number += 1
    webcam.give(None)


@pytest.mark.parametrize("domain", ["host", "sensor"])
def test_registered_to_a_webcam(tmp_path: Path, caplog: pytest.LogCaptureFixture, domain: str) -> None:
    soft, webcam = SoftRealsense(), LiveSource("cam")
    camera = intrinsics(rs, DEPTH_CAMERA)
    assert camera is not None
    to_webcam = np.eye(4)
    to_webcam[0, 3] = -BASELINE_M
    file = write(tmp_path / "c.yml", entries(Calibration(WEBCAM, camera, to_webcam)))
    realsense = RealsenseSource(device=soft.device, size=DEPTH_SIZE, fps=30, streams="depth")
    done = threading.Event()
    feeder = threading.Thread(target=film, args=(soft, webcam, domain, done))
    with PairedSource(webcam, realsense, calibration=file) as source:
        feeder.start()
        try:
            frames = [source.read(60.0) for _ in range(15)]
        finally:
            done.set()
            feeder.join()
    for frame in frames:
        assert frame is not None
        assert (frame.rgb[0, 0, 0], frame.intrinsics) == (frame.index % 256, WEBCAM)
        (reading,) = np.unique(frame.depth[frame.depth > 0])
        number = round(float(reading) / UNITS) - FAR
        # by arrival, on a busy machine, the neighbour may be nearer
        assert abs(number - frame.index) <= (0 if domain == "host" else 1)
        seen = (frame.depth > 0).any(axis=0)
        # Readings end in front of the depth camera, BASELINE_M to the left of the webcam's middle, two metres
        # away; they begin where its view does.
        end = round(39.5 - 60 * BASELINE_M / 2)
        begin = round(39.5 + 60 * (-camera.cx / camera.fx - BASELINE_M / 2))
        assert seen[begin + 1 : end - 1].all()
        assert not seen[: begin - 1].any()
        assert not seen[end + 2 :].any()
    counts = source.counts()
    assert counts["paired"] == len(frames)
    assert counts["depth_in"] == counts["paired"] + counts["pairs_dropped"] + counts["depth_unpaired"]
    assert sum("arrival" in text for text in caplog.messages) == (1 if domain == "sensor" else 0)
