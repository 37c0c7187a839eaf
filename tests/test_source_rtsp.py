"""A camera that speaks RTSP, over loopback: GStreamer's own server sends H.264 to OpenCV's FFmpeg."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from edgevae import SourceError, SourceLost, open_source
from edgevae.sources.base import Source
from edgevae.sources.reconnecting import reconnecting

# GStreamer's bindings come with the system's Python (apt install python3-gi gir1.2-gst-rtsp-server-1.0
# gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly).
SERVER = """
import sys
import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

Gst.init(None)
if not Gst.ElementFactory.find("x264enc"):
    sys.exit("no x264enc")
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=smpte75 ! video/x-raw,width=320,height=240,framerate=25/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""

Start = Callable[[int], tuple[subprocess.Popen[str], int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server on a port, 0 for any, and says on which."""
    begun: list[subprocess.Popen[str]] = []

    def start_one(port: int) -> tuple[subprocess.Popen[str], int]:
        for python in dict.fromkeys(
            (sys.executable, shutil.which("python3", path="/usr/bin") or sys.executable)
        ):
            server = subprocess.Popen(
                [python, "-c", SERVER, str(port)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            begun.append(server)
            assert server.stdout is not None
            if answer := server.stdout.readline():
                return server, int(answer)
        pytest.skip("GStreamer's RTSP server with x264enc and its Python bindings are not installed")

    yield start_one
    for server in begun:
        server.kill()
        server.communicate()


def read_on(source: Source) -> None:
    while source.read(30.0) is not None:
        pass


def test_a_camera_that_speaks_rtsp(start: Start) -> None:
    server, port = start(0)
    with open_source(f"rtsp://127.0.0.1:{port}/camera", timeout_s=30.0) as source:
        assert source.live
        frames = [source.read(30.0) for _ in range(5)]
        assert [frame.rgb.shape for frame in frames if frame is not None] == [(240, 320, 3)] * 5
        bars = frames[-1].rgb[60, 20::46].astype(int)  # grey, yellow, cyan, green, magenta, red, blue
        wanted = [
            (191,) * 3,
            (191, 191, 0),
            (0, 191, 191),
            (0, 191, 0),
            (191, 0, 191),
            (191, 0, 0),
            (0, 0, 191),
        ]
        assert abs(bars - wanted).max() < 25
        server.kill()
        with pytest.raises(SourceError):
            read_on(source)


def test_it_goes_away_and_comes_back(start: Start) -> None:
    server, port = start(0)
    with reconnecting(lambda: open_source(f"rtsp://127.0.0.1:{port}/camera", timeout_s=20.0)) as source:
        first = source.read(30.0)
        assert first is not None
        server.kill()
        server.wait()
        deadline_s = time.monotonic() + 60
        lost = False
        while not lost:
            assert time.monotonic() < deadline_s
            try:
                last = source.read(5.0)
            except SourceLost:
                lost = True
        start(port)
        frame = None
        while frame is None:
            assert time.monotonic() < deadline_s + 60
            try:
                frame = source.read(5.0)
            except SourceLost:
                continue
        assert frame.index > (first if last is None else last).index
        assert source.counts()["recoveries"] >= 1
