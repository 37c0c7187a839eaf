"""Video files, network streams and cameras through OpenCV's own back ends."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevae import SourceError, open_source
from edgevae.sources.opencv_quiet import load_cv2

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames at 20 Hz, all red of rising brightness."""
    load_cv2()  # before FFmpeg starts in this process: it reads its log level once
    path = tmp_path_factory.mktemp("video") / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (64, 48))
    assert writer.isOpened()
    for i in range(10):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 2] = 20 + 20 * i
        writer.write(frame)
    writer.release()
    return path


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def camera_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("edgevae-camera")]


def test_video_file_gives_every_frame_in_rgb_with_its_time(video: Path) -> None:
    with open_source(str(video)) as source:
        assert (source.live, source.length, source.fps, source.dropped) == (False, 10, 20.0, 0)
        frames = list(source)
        assert source.read() is None
    assert [f.index for f in frames] == list(range(10))
    assert [f.timestamp_ns for f in frames] == [50_000_000 * i for i in range(10)]
    for i, frame in enumerate(frames):
        assert frame.clock == "file"
        assert frame.depth is None
        assert np.abs(frame.rgb[20, 20].astype(int) - [20 + 20 * i, 0, 0]).max() < 8  # JPEG, 4:2:0
    with pytest.raises(SourceError, match="is closed"):
        source.read()
    source.close()


def test_video_file_closes_its_file(video: Path) -> None:
    open_source(str(video)).close()
    before = open_files()
    for _ in range(5):
        with open_source(str(video)) as source:
            source.read()
    assert open_files() == before


def test_broken_video_files(video: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    truncated, foreign, empty = tmp_path / "t.avi", tmp_path / "f.mp4", tmp_path / "e.mkv"
    truncated.write_bytes(video.read_bytes()[:300])
    foreign.write_text("hello " * 100)
    empty.write_bytes(b"")
    for path in (truncated, foreign, empty):
        with pytest.raises(
            SourceError, match=rf"{path.name} is not a video .*\([0-9]+ bytes\)|without a readable"
        ):
            open_source(str(path)).read()
    with pytest.raises(SourceError, match=r"'.*none\.mp4' does not exist; wanted a camera index"):
        open_source(str(tmp_path / "none.mp4"))
    assert capfd.readouterr().err == ""


# Network ---------------------------------------------------------------------------------------------


class Stream(http.server.BaseHTTPRequestHandler):
    """/stream: endless MJPEG at 50 Hz; /short: 5 frames; /stall: 5 frames, then silence; /file: a video."""

    protocol_version = "HTTP/1.0"
    video = b""
    sent = 0
    stop = threading.Event()

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        try:
            if self.path == "/file.avi":
                self.send_response(200)
                self.send_header("Content-Length", str(len(self.video)))
                self.end_headers()
                self.wfile.write(self.video)
            elif self.path == "/text":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"hello " * 1000)
            elif self.path in ("/stream", "/short", "/stall"):
                self._mjpeg(None if self.path == "/stream" else 5)
                if self.path == "/stall":
                    self.stop.wait(20.0)
            else:
                self.send_error(404)
        except OSError:
            pass  # the reader went away

    def _mjpeg(self, limit: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        number = 0
        while not self.stop.is_set() and (limit is None or number < limit):
            picture = np.full((48, 64, 3), (0, 0, 40 + number % 200), np.uint8)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            number += 1
            type(self).sent = number
            time.sleep(0.02)


@pytest.fixture
def server(video: Path) -> Iterator[str]:
    Stream.stop.clear()
    Stream.video = video.read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        Stream.stop.set()
        httpd.shutdown()
        thread.join()


def test_http_stream_gives_the_newest_frame_and_counts_drops(server: str) -> None:
    with open_source(f"{server}/stream") as source:
        assert source.live
        assert source.length is None
        first = source.read()
        assert first.clock == "host"
        assert abs(time.time_ns() - first.timestamp_ns) < 20_000_000_000
        assert first.rgb.shape == (48, 64, 3)
        assert first.rgb[0, 0, 0] > 30
        assert first.rgb[0, 0, 2] < 10  # red is first
        napped_ns = time.monotonic_ns()
        time.sleep(0.5)
        while source.dropped < 5:
            time.sleep(0.01)
        later = source.read()
        assert later.index >= first.index + 5
        assert later.index == source.dropped + 1  # every frame is given or counted
        assert later.arrival_ns > napped_ns
    assert camera_threads() == []
    with pytest.raises(SourceError, match="is closed"):
        source.read()


def test_http_stream_that_ends_or_stalls_raises_in_time(server: str) -> None:
    for path in ("short", "stall"):
        with open_source(f"{server}/{path}", timeout_s=1.0) as source:
            assert source.read() is not None
            time.sleep(0.3)  # the rest arrives, and the newest of it is still given
            assert source.read().index == 4
            began = time.monotonic()
            with pytest.raises(SourceError, match=r"gave no frame within 0\.5 s|is gone"):
                source.read(0.5)
            assert time.monotonic() - began < 10.0


def test_closing_a_stream_wakes_who_waits_for_its_frame(server: str) -> None:
    source = open_source(f"{server}/stall", timeout_s=30.0)
    all_came, told = threading.Event(), []

    def read_on() -> None:
        try:
            while True:
                if source.read(60.0).index == 4:
                    all_came.set()
        except SourceError as error:
            told.append(str(error))

    reader, closing = threading.Thread(target=read_on), threading.Thread(target=source.close)
    reader.start()
    assert all_came.wait(20.0)
    time.sleep(0.2)  # now it waits
    closing.start()
    reader.join(20.0)
    Stream.stop.set()  # lets the thread that waits in FFmpeg go
    closing.join(20.0)
    assert len(told) == 1
    assert "is closed; open it again" in told[0]
    assert camera_threads() == []


def test_http_video_file_gives_every_frame_however_slow_the_reader(server: str) -> None:
    with open_source(f"{server}/file.avi") as source:
        assert (source.live, source.length) == (False, 10)
        frames = []
        while (frame := source.read()) is not None:
            frames.append(frame)
            time.sleep(0.02)
        assert source.read() is None
        assert source.dropped == 0
    assert [f.timestamp_ns for f in frames] == [50_000_000 * i for i in range(10)]
    assert frames[0].clock == "file"


def test_streams_that_are_not_there(server: str, capfd: pytest.CaptureFixture[str]) -> None:
    for path in ("missing", "text"):
        with pytest.raises(SourceError, match=rf"cannot open stream {server}/{path}"):
            open_source(f"{server}/{path}")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # listens, never answers
        port = silent.getsockname()[1]
        for scheme in ("http", "rtsp"):
            began = time.monotonic()
            url = f"{scheme}://user:secret@127.0.0.1:{port}/x"
            with pytest.raises(SourceError, match="cannot open stream") as caught:
                open_source(url, timeout_s=0.5)
            assert time.monotonic() - began < 25.0  # OpenCV itself would wait for 30 s
            assert "secret" not in str(caught.value)
    with pytest.raises(SourceError, match="Check the address and the network"):
        open_source(f"http://127.0.0.1:{port}/x", timeout_s=2.0)  # now nobody listens
    assert capfd.readouterr().err == ""
    deadline = time.monotonic() + 5.0
    while camera_threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert camera_threads() == []


# Cameras ---------------------------------------------------------------------------------------------


def test_missing_camera(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError) as caught:
        open_source("63")
    assert str(caught.value) == "no camera 63 (cannot open /dev/video63). Run 'edgevae cameras'."
    with pytest.raises(SourceError, match="no camera /dev/v4l/by-id/usb-none"):
        open_source("/dev/v4l/by-id/usb-none")
    with pytest.raises(SourceError, match=r"camera index.*tum:DIR.*synthetic"):
        open_source("no-such-source")
    assert capfd.readouterr().err == ""
    assert camera_threads() == []


@pytest.fixture(scope="module")
def shim(build_shim: Callable[[str], Path]) -> Path:
    return build_shim("v4l2_shim")


def with_camera(shim: Path, program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that has a camera at /dev/video0."""
    done = subprocess.run(
        [sys.executable, "-c", "import os, threading, time, edgevae\n" + program],
        env={**os.environ, "LD_PRELOAD": str(shim), **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("uri", ["0", "/dev/video0"])
def test_v4l2_camera(shim: Path, uri: str) -> None:
    done = with_camera(
        shim,
        f"""
with edgevae.open_source({uri!r}) as source:
    assert (source.live, source.length, source.fps) == (True, None, 50.0)
    first = source.read()
    assert first.rgb.shape == (48, 64, 3) and first.clock == "host" and first.depth is None
    assert 0 <= time.time_ns() - first.timestamp_ns < 10**10
    second = source.read()
    assert second.index > first.index
    assert second.rgb[0, 0].tolist() != first.rgb[0, 0].tolist()
    while source.dropped < 10:
        time.sleep(0.01)
    third = source.read()
    assert third.index == source.dropped + 2
    # luma is 16 + the device's number of the frame, and OpenCV keeps the first frame to itself
    assert abs(third.rgb[0, 0, 0] - (third.index + 1) * 255 / 219) <= 1
    files = len(os.listdir("/proc/self/fd"))
assert len(os.listdir("/proc/self/fd")) < files
assert threading.active_count() == 1
with edgevae.open_source({uri!r}) as source:  # free again
    assert source.read().index == 0
print("done")
""",
    )
    assert done.stdout == "done\n"
    assert done.stderr == "shim: closed\n" * 2  # released, and OpenCV was silent


def test_v4l2_camera_by_id(shim: Path, tmp_path: Path) -> None:
    """A by-id path is a link to the device; a link elsewhere stands for it."""
    link = tmp_path / "usb-camera-index0"
    link.symlink_to("/dev/video0")
    done = with_camera(
        shim,
        f"""
from edgevae.sources.opencv import CameraSource
with CameraSource({str(link)!r}) as source:
    assert source.read() is not None
print("done")
""",
    )
    assert done.stdout == "done\n"


@pytest.mark.parametrize("setting", ["SHIM_UNPLUG_AT", "SHIM_STALL_AT"])
def test_v4l2_camera_that_goes_away_raises_in_time(shim: Path, setting: str) -> None:
    done = with_camera(
        shim,
        """
with edgevae.open_source("0") as source:
    for _ in range(3):
        assert source.read() is not None
    began = time.monotonic()
    said = []
    while time.monotonic() - began < 20 and not any("is gone" in text for text in said):
        try:
            source.read(0.5)
        except edgevae.SourceError as error:
            said.append(str(error))
    assert "camera 0 is gone: it stopped giving frames" in said[-1], said
    if "SHIM_STALL_AT" in os.environ:
        assert said[0] == "camera 0 gave no frame within 0.5 s. Run 'edgevae cameras'.", said
    began = time.monotonic()
assert time.monotonic() - began < 10
assert threading.active_count() == 1
print("done")
""",
        **{setting: "6"},
    )
    assert done.stdout == "done\n"
    assert done.stderr == "shim: closed\n"


def test_v4l2_camera_unplugged_again_and_again_is_found_again(shim: Path, tiny_model_path: Path) -> None:
    """100 times with EDGEVAE_SOAK=1; each time two attempts fail, every second time it is smaller."""
    times = 100 if os.environ.get("EDGEVAE_SOAK") else 8
    done = with_camera(
        shim,
        f"""
import json
from pathlib import Path
from edgevae import load, stream
from edgevae.sinks import Sink
from edgevae.sources.reconnecting import reconnecting

class Notes(Sink):
    path = Path("notes")
    indices, changes, files, threads = [], [], [], []
    def open(self, run): pass
    def source_changed(self, lost):
        self.changes.append(lost)
        if not lost:
            self.files.append(len(os.listdir("/proc/self/fd")))
            self.threads.append(threading.active_count())
    def write(self, row):
        self.indices.append(row.index)
        self.rows += 1
        if len(self.changes) >= 2 * {times}:
            stop.request("enough")

stop, notes = stream.Stop(), Notes()
source = reconnecting(lambda: edgevae.open_source("0"))
stats = stream.run(source, load({str(tiny_model_path)!r}, threads=1), [notes], stop=stop)
report = stats.report()
assert report["stopped_by"] == "enough"
assert report["source_state"]["recoveries"] == {times}, report
assert report["source_state"]["lost_seconds"] > 0
assert report["frames"]["in"] == stats.encoded + stats.dropped + stats.skipped
gone = "camera 0 is gone: it stopped giving frames. Check its cable or network."
assert notes.changes[0::2] == [gone] * {times}
assert notes.changes[1::2] == [""] * {times}
assert notes.indices == sorted(set(notes.indices))
assert len(set(notes.files)) == 1, notes.files
assert max(notes.threads) == min(notes.threads), notes.threads
assert threading.active_count() == 1
print("done", report["source_state"], report["frames"])
""",
        SHIM_UNPLUG_AT="5",
        SHIM_PERIOD_US="2000",
        SHIM_AWAY="2",
        SHIM_SMALLER="1",
    )
    assert done.stdout.startswith("done")
    assert done.stderr == "shim: closed\n" * (times + 1)
    print(done.stdout)


@pytest.mark.parametrize("on_lost", ["retry", "exit"])
def test_what_stream_does_when_a_camera_goes_away(
    shim: Path, tiny_model_path: Path, tmp_path: Path, on_lost: str
) -> None:
    report = tmp_path / "s.json"
    arguments = [
        "stream",
        "--camera",
        "0",
        "--model",
        str(tiny_model_path),
        "--on-lost",
        on_lost,
        "--frames",
        "12",
    ]
    done = with_camera(
        shim,
        f"""
from edgevae.cli import main
print("code", main({[*arguments, "--stats", str(report), "--quiet"]!r}))
""",
        SHIM_UNPLUG_AT="9",
    )
    stats = json.loads(report.read_text())
    said = [line for line in done.stderr.splitlines() if line.startswith("edgevae:")]
    gone = "camera 0 is gone: it stopped giving frames. Check its cable or network."
    if on_lost == "exit":
        assert done.stdout.endswith("code 2\n")
        assert said == [f"edgevae: {gone}"]
        assert stats["stopped_by"] == "error"
        assert stats["source_state"] == {"lost": None}
        assert stats["frames"]["in"] <= 9
    else:
        assert done.stdout.endswith("code 0\n")
        assert said[0] == f"edgevae: source lost and looked for: {gone}"
        assert said[1].startswith("edgevae: source 0 is back, after ")
        assert stats["source_state"]["recoveries"] >= 1
        assert "the source was lost and found again" in done.stdout
        assert stats["frames"]["encoded"] == 12


def test_a_url_with_a_query_is_one_address(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match=r"cannot open stream http://127\.0\.0\.1:9/\?action=stream"):
        open_source("http://127.0.0.1:9/?action=stream", timeout_s=1.0)
    assert capfd.readouterr().err == ""
