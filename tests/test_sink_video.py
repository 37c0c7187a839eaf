"""Videos of a run, read back by OpenCV: pictures, beat, gaps, kills and full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from memory_source import MemorySource, make_frame

import edgevae
from edgevae import stream
from edgevae.errors import RecordError
from edgevae.model import Model
from edgevae.sinks import Row, RunInfo, video
from edgevae.sinks.sheets import Sheets
from edgevae.sinks.video import VideoSink, frame_rate

SUFFIXES = (".mp4", ".mkv", ".avi")


def make_row(model: Model, index: int, timestamp_ns: int | None = None) -> Row:
    """A row with pictures, its colour a grey that follows from its number."""
    frame = make_frame(index)
    frame.rgb[...] = 20 + index * 7 % 200
    if timestamp_ns is not None:
        frame.timestamp_ns = timestamp_ns
    latent = model.encode(frame.rgb, frame.depth)
    return Row.of(frame, latent, model.decode(latent))


def read(path: Path) -> tuple[list[np.ndarray], float]:
    reader = cv2.VideoCapture(str(path))
    fps, pictures = reader.get(cv2.CAP_PROP_FPS), []
    while (taken := reader.read())[0]:
        pictures.append(taken[1])
    reader.release()
    return pictures, fps


def greys(pictures: list[np.ndarray]) -> list[float]:
    """The grey of the camera's panel in each picture."""
    return [float(picture[60:280, 30:300].mean()) for picture in pictures]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_frame_of_a_file(model: Model, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"v{suffix}"
    sink = VideoSink(path)
    stream.run(MemorySource(40), model, [sink])
    pictures, fps = read(path)
    assert sink.rows == 40
    assert len(pictures) == 40
    assert fps == pytest.approx(1e9 / 33e6, abs=0.01)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_are_the_sheets(model: Model, tmp_path: Path, suffix: str) -> None:
    path, sheets = tmp_path / f"v{suffix}", Sheets(model.spec)
    sink = VideoSink(path)
    sink.open(RunInfo("memory", False, model.spec))
    for i in range(15):
        sink.write(make_row(model, i))
    sink.close()
    sink.close()
    pictures, _ = read(path)
    for i, picture in enumerate(pictures):
        drawn = sheets.draw(make_row(model, i))[..., ::-1]
        height, width = drawn.shape[:2]
        assert picture.shape == (height + height % 2, width + width % 2, 3)
        # The codec is lossy, and noise in 24x32 pixels is hard for it; sheets of other frames differ by 7.
        assert np.abs(picture[:height, :width].astype(int) - drawn).mean() < 5


def test_a_gap_is_a_still_picture(model: Model, tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "v.avi")
    sink.open(RunInfo("camera", True, model.spec))
    beats = [*range(20), 30, 31, 32]  # ten are missing
    for i, beat in enumerate(beats):
        jitter_ns = (i % 3 - 1) * 9_000_000
        sink.write(make_row(model, i, 10**18 + beat * 40_000_000 + jitter_ns))
    sink.close()
    pictures, fps = read(tmp_path / "v.avi")
    assert fps == pytest.approx(25, abs=1.5)
    assert len(pictures) == pytest.approx(33, abs=2)
    shown = [round(grey) for grey in greys(pictures)]
    assert shown.count(shown[21]) >= 8


@pytest.mark.parametrize("jump_ns", [3_600 * 10**9, -3_600 * 10**9])
def test_a_jump_of_the_clock_is_no_hour_of_one_picture(model: Model, tmp_path: Path, jump_ns: int) -> None:
    sink = VideoSink(tmp_path / "v.avi")
    sink.open(RunInfo("camera", True, model.spec))
    for i in range(40):
        sink.write(make_row(model, i, 10**18 + i * 33_333_333 + (jump_ns if i >= 20 else 0)))
    sink.close()
    assert len(read(tmp_path / "v.avi")[0]) == 40


@pytest.mark.parametrize(
    ("timestamps_ns", "fps"),
    [
        ([], 30.0),
        ([5], 30.0),
        ([5, 5, 5], 30.0),
        ([30, 20, 10], 30.0),
        ([0, 40_000_000, 80_000_000, 900_000_000], 25.0),
        ([0, 1, 2], 240.0),
        ([0, 10**12], 1.0),
    ],
)
def test_frame_rate(timestamps_ns: list[int], fps: float) -> None:
    assert frame_rate(timestamps_ns) == fps


def test_a_run_of_one_frame(model: Model, tmp_path: Path) -> None:
    stream.run(MemorySource(1), model, [VideoSink(tmp_path / "v.mp4")])
    assert len(read(tmp_path / "v.mp4")[0]) == 1


def test_another_size_in_the_middle(model: Model, tmp_path: Path) -> None:
    def other() -> edgevae.Frame:
        return edgevae.Frame(np.zeros((50, 20, 3), np.uint8), timestamp_ns=1_660_000_000)

    stream.run(MemorySource(30, actions={20: other}), model, [VideoSink(tmp_path / "v.avi")])
    assert len(read(tmp_path / "v.avi")[0]) == 30


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_appears_without_a_row(model: Model, tmp_path: Path, suffix: str) -> None:
    sink = VideoSink(tmp_path / f"v{suffix}")
    sink.open(RunInfo("memory", False, model.spec))
    sink.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_video_is_kept(model: Model, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(RecordError, match="exists; choose another name or pass --overwrite"):
        stream.run(MemorySource(3), model, [VideoSink(path)])
    assert path.read_bytes() == b"precious"
    stream.run(MemorySource(20), model, [VideoSink(path, overwrite=True)])
    assert len(read(path)[0]) == 20
    assert list(tmp_path.iterdir()) == [path]


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"wanted \.mkv or \.avi"):
        VideoSink(tmp_path / "v.gif")


def test_a_full_disk(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = VideoSink(tmp_path / "v.mkv")
    sink.open(RunInfo("memory", False, model.spec))
    for i in range(14):
        sink.write(make_row(model, i))
    monkeypatch.setattr(video, "_ROOM_BYTES", 1 << 55)
    monkeypatch.setattr(video, "_CLAIM_SECONDS", 0)
    with pytest.raises(RecordError, match=r"cannot write .*v\.mkv: .*; check the disk"):
        sink.write(make_row(model, 14))
    sink.close()
    assert len(read(tmp_path / "v.mkv")[0]) == 14


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_after_a_failure_it_goes_on_in_another_file(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"v{suffix}"
    info = RunInfo("memory", False, model.spec)
    sink = VideoSink(path)
    sink.open(info)
    for i in range(14):
        sink.write(make_row(model, i))
    with monkeypatch.context() as patched:
        patched.setattr(video, "_ROOM_BYTES", 1 << 55)
        patched.setattr(video, "_CLAIM_SECONDS", 0)
        with pytest.raises(RecordError, match="check the disk"):
            sink.write(make_row(model, 14))
    assert sink.rows == 14
    sink.close()
    sink.open(info)
    for i in range(14, 30):
        sink.write(make_row(model, i))
    sink.close()
    assert sink.rows == 30
    assert sink.files == [path, tmp_path / f"v.2{suffix}"]
    assert [len(read(name)[0]) for name in sink.files] == [14, 16]
    assert sorted(tmp_path.iterdir()) == sorted(sink.files)


LIMITED = """
import resource, signal, sys
from edgevae.cli import main
from edgevae.sinks import video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
if sys.argv[1] == "unseen":
    video._ROOM_BYTES = 1
sys.exit(main(sys.argv[2:]))
"""


def test_every_frame_that_found_no_room_is_counted(tiny_model_path: Path, tmp_path: Path) -> None:
    """More rows wait for the frame rate than the queue keeps for another try."""
    report = tmp_path / "s.json"
    arguments = ["stream", "--camera", "synthetic", "--frames", "60", "--model", str(tiny_model_path)]
    arguments += ["--save-video", str(tmp_path / "v.mkv"), "--stats", str(report), "--quiet"]
    subprocess.run([sys.executable, "-c", LIMITED, "seen", *arguments], capture_output=True, timeout=120)
    stats = json.loads(report.read_text())
    (sink,) = stats["sinks"]
    assert sink["rows"] == 0
    assert sink["lost"] + sink["behind"] == stats["frames"]["encoded"] > 8


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", ["seen", "unseen"])
def test_a_limit_is_met(tiny_model_path: Path, tmp_path: Path, suffix: str, how: str) -> None:
    path = tmp_path / f"v{suffix}"
    arguments = ["stream", "--camera", "synthetic", "--frames", "60", "--model", str(tiny_model_path)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, how, *arguments, "--save-video", str(path), "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if how == "seen":  # before anything is written
        assert done.returncode == 2
        assert f"cannot write {path}: File too large; check the disk or choose another path." in done.stderr
        assert list(tmp_path.iterdir()) == []
    else:  # at the end, by what is missing
        assert f"{path} holds " in done.stderr or f"cannot write {path}" in done.stderr
        # An .mp4 has its name only when it is whole; what is tried again may fit.
        assert path.exists() or suffix == ".mp4"
        assert suffix != ".mp4" or not path.exists() or read(path)[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill(tiny_model_path: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    arguments = [
        "stream",
        "--camera",
        "synthetic",
        "--model",
        str(tiny_model_path),
        "--save-video",
        str(path),
    ]
    process = subprocess.Popen([sys.executable, "-m", "edgevae", *arguments, "--quiet"])
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        files = list(tmp_path.iterdir())
        if files and files[0].stat().st_size > 700_000:
            break
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    if suffix == ".mp4":
        assert not path.exists()  # never half-written under its name
    else:
        pictures, fps = read(path)
        assert len(pictures) > 10
        assert fps == 30
        assert os.listdir(tmp_path) == [path.name]
