"""Rerun: what an .rrd file holds, by Rerun's own reader; the page on loopback; viewers that die or hang."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listeners import listening
from memory_source import MemorySource, make_frame
from test_sink_reconstructions import unpack

import edgevae
from edgevae import stream
from edgevae.cli import main
from edgevae.cli.common import with_value
from edgevae.errors import RecordError
from edgevae.model import Decoded, Model
from edgevae.preprocess import DepthEncoding
from edgevae.sinks import Row, RunInfo
from edgevae.sinks import rerun as view

pytest.importorskip("rerun")

DEADLINE_S = 90.0


@pytest.fixture
def port() -> int:
    """A free port with a free one behind it."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            number = int(first.getsockname()[1])
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", number + 1))
                return number
    pytest.skip("no two free ports in a row")


def make_row(model: Model, index: int, **frame: bool) -> Row:
    picture = make_frame(index, **frame)
    latent = model.encode(picture.rgb, picture.depth)
    return Row.of(picture, latent, model.decode(latent))


def wait_for(condition: Any) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Rerun's own program, on files only."""
    from edgevae.sinks.rerun_viewer import _SETTINGS, _program

    return subprocess.run(
        [_program(), "rrd", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "XDG_CONFIG_HOME": str(_SETTINGS)},
    )


def values(path: Path, entity: str, component: str) -> list[tuple[int | None, Any]]:
    """Frame number (None where static) and value of each row of a component, by Rerun's own reader."""
    from rerun.chunk import RrdReader

    found = []
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        if chunk.entity_path != entity or component not in batch.schema.names:
            continue
        frames = [None] * chunk.num_rows if chunk.is_static else batch["frame"].to_pylist()
        found += zip(frames, batch[component].to_pylist(), strict=True)
    return sorted(found, key=lambda pair: -1 if pair[0] is None else pair[0])


def mended(path: Path) -> Path:
    """A file that was cut off, made whole by Rerun's own tool."""
    whole = path.with_name(f"whole.{path.name}")
    done = tool("merge", path, "-o", whole)
    assert done.returncode == 0, done
    assert tool("verify", whole).returncode == 0
    return whole


def pixels(entity: str, path: Path, name: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    dtype = np.uint16 if name == "DepthImage" else np.uint8
    return [
        np.frombuffer(np.array(value[0], np.uint8).tobytes(), dtype).reshape(shape)
        for _, value in values(path, entity, f"{name}:buffer")
    ]


def test_what_a_file_holds(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.rrd"
    sink = view.open_view(str(path))
    stats = stream.run(MemorySource(30), model, [sink])
    assert (sink.rows, stats.encoded) == (30, 30)
    assert list(path.parent.iterdir()) == [path]
    verified = tool("verify", path)
    assert (verified.returncode, verified.stderr) == (0, "1 file verified without error.\n"), verified
    assert "num_static" in tool("stats", path).stdout
    assert "/world/camera/depth" in tool("print", path).stdout
    for i, (frame, value) in enumerate(values(path, "/latent", "BarChart:values")):
        picture = make_frame(i)
        expected = model.encode(picture.rgb, picture.depth)
        assert frame == i
        np.testing.assert_array_equal(np.array(value[0]["buffer"], np.float32), expected)
    for i, depth in enumerate(pixels("/world/camera/depth", path, "DepthImage", (24, 32))):
        np.testing.assert_array_equal(depth, make_frame(i).depth)
    meter = values(path, "/world/camera/depth", "DepthImage:meter")
    assert meter[0][1] == [pytest.approx(1000)]
    decoded = model.decode(model.encode(make_frame(3).rgb, make_frame(3).depth))
    assert decoded.depth is not None
    depth = pixels("/world/decoded/depth", path, "DepthImage", (32, 32))[3] * 0.002
    np.testing.assert_allclose(depth, decoded.depth, atol=0.0011)
    rgb = pixels("/world/decoded/colour", path, "Image", (32, 32, 3))[3]
    np.testing.assert_array_equal(rgb, decoded.rgb)
    jpeg = values(path, "/world/camera/colour", "EncodedImage:blob")[3][1][0]
    colour = unpack(bytes(jpeg))[..., ::-1].astype(int)
    assert colour.shape == (24, 32, 3)
    assert np.abs(colour - make_frame(3).rgb).mean() < 60  # noise, as JPEG keeps it; another frame gives 85
    translations = values(path, "/world/camera", "Transform3D:translation")
    assert [value[0] for _, value in translations] == [[0, 0, i] for i in range(30)]
    camera = values(path, "/world/camera/depth", "Pinhole:image_from_camera")
    assert camera == [(None, [[30.0, 0, 0, 0, 31.0, 0, 15.5, 11.5, 1.0]])]


def test_time_lines(model: Model, tmp_path: Path) -> None:
    from rerun.chunk import RrdReader

    stream.run(MemorySource(3), model, [view.open_view(str(tmp_path / "z.rrd"))])
    names = {name for chunk in RrdReader(tmp_path / "z.rrd").stream() for name in chunk.timeline_names}
    assert names == {"frame", "sensor_time"}


@pytest.mark.parametrize("depth", [None, DepthEncoding("minmax")])
@pytest.mark.parametrize("with_depth", [True, False])
def test_models_and_frames_without_depth_or_metres(
    model: Model, tmp_path: Path, depth: DepthEncoding | None, with_depth: bool
) -> None:
    from dataclasses import replace

    spec = replace(model.spec, input=replace(model.spec.input, depth=depth))
    sink = view.open_view(str(tmp_path / "z.rrd"))
    sink.open(RunInfo("memory", False, spec))
    for i in range(3):
        frame = make_frame(i, depth=with_depth and i != 1, pose=False)
        frame.intrinsics = None
        relative = None if depth is None else np.full((32, 32), 0.5, np.float32)
        sink.write(Row.of(frame, np.zeros(8, np.float32), Decoded(np.zeros((32, 32, 3), np.uint8), relative)))
        sink.source_changed("unplugged." if i == 1 else "")
    sink.close()
    assert tool("verify", tmp_path / "z.rrd").returncode == 0
    assert len(values(tmp_path / "z.rrd", "/source", "TextLog:text")) == 3


def test_large_frames_are_reduced(model: Model, tmp_path: Path) -> None:
    def large() -> edgevae.Frame:
        depth_m = np.full((1000, 1300), 3.0, np.float32)
        depth_m[::2] = np.nan
        camera = edgevae.Intrinsics(900.0, 900.0, 650.0, 500.0, 1300, 1000)
        return edgevae.Frame(np.full((1000, 1300, 3), 90, np.uint8), depth_m, intrinsics=camera)

    path = tmp_path / "z.rrd"
    stream.run(MemorySource(1, actions={0: large}), model, [view.open_view(str(path))])
    jpeg = values(path, "/world/camera/colour", "EncodedImage:blob")[0][1][0]
    assert unpack(bytes(jpeg)).shape == (492, 640, 3)
    depth = pixels("/world/camera/depth", path, "DepthImage", (200, 260))[0]  # every fifth pixel, from 2 on
    assert set(depth[0]) == {0}
    assert set(depth[1]) == {1500}
    camera = values(path, "/world/camera/depth", "Pinhole:image_from_camera")[0][1][0]
    np.testing.assert_allclose(camera, [180, 0, 0, 0, 180, 0, (650 - 2) / 5, (500 - 2) / 5, 1], rtol=1e-6)


def test_a_file_is_never_half_there_nor_replaced(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.rrd"
    sink = view.open_view(str(path))
    sink.open(RunInfo("memory", False, model.spec))
    sink.flush()
    sink.close()
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"precious")
    with pytest.raises(RecordError, match="exists; choose another name"):
        stream.run(MemorySource(3), model, [view.open_view(str(path))])
    assert path.read_bytes() == b"precious"
    stream.run(MemorySource(3), model, [view.open_view(str(path), overwrite=True)])
    assert tool("verify", path).returncode == 0


def test_after_a_failure_it_goes_on_in_another_file(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.rrd"
    info = RunInfo("memory", False, model.spec)
    sink = view.RrdSink(path)
    sink.open(info)
    sink.write(make_row(model, 0))
    assert sink._pipe is not None
    sink._pipe._error = OSError(errno.ENOSPC, "full")
    with pytest.raises(RecordError, match="No space left"):
        sink.write(make_row(model, 1))
    with pytest.raises(RecordError, match="No space left"):
        sink.close()
    assert sink.rows == 1
    sink.open(info)
    for i in (1, 2):
        sink.write(make_row(model, i))
    sink.close()
    assert sink.rows == 3
    assert sink.files == [path, tmp_path / "z.2.rrd"]
    assert [frame for frame, _ in values(sink.files[1], "/latent", "BarChart:values")] == [1, 2]


FULL_DISK = """
import resource, signal, sys
from edgevae.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [1_000, 1_500_000])
def test_a_full_disk(tiny_model_path: Path, tmp_path: Path, limit: int) -> None:
    path = tmp_path / "z.rrd"
    arguments = ["stream", "--camera", "synthetic", "--model", tiny_model_path, "--view", path, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(limit), *map(str, arguments), "--frames", "60"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    sentence = f"cannot write {path}: File too large; check the disk or choose another path."
    assert sentence in done.stderr
    files = sorted(tmp_path.iterdir())
    if limit < 10_000:  # not even the first frame
        assert done.returncode == 2
        assert files == []
    else:  # a limit for each file: the run goes on in the next
        assert len(files) >= 2
        frames = {frame for file in files for frame, _ in values(mended(file), "/latent", "BarChart:values")}
        missing = re.search(r"(\d+) rows? (is|are) missing", done.stderr)  # none, unless patience ran out
        assert frames <= set(range(60))
        # Whatever is not there was counted; so is a row that was cut off, though its latent may be there.
        assert len(frames) >= 60 - (int(missing[1]) if missing else 0)


def test_a_kill_leaves_a_readable_file(tiny_model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.rrd"
    arguments = ["stream", "--camera", "synthetic", "--model", tiny_model_path, "--view", path, "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "edgevae", *map(str, arguments)])
    try:
        wait_for(lambda: path.exists() and path.stat().st_size > 2_000_000)
    finally:
        process.kill()
        code = process.wait()
    assert code == -signal.SIGKILL
    frames = [frame for frame, _ in values(mended(path), "/latent", "BarChart:values")]
    assert frames == list(range(len(frames)))
    assert len(frames) > 5


def get(port: int, path: str = "/") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", path)
    return connection.getresponse()


def viewers() -> list[int]:
    """Processes of Rerun's viewer that this process started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = (entry / "stat").read_text()
            if f"({'rerun'})" in status and int(status.rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.append(int(entry.name))
    return found


def test_the_page_is_on_loopback_only_and_ends_with_the_run(model: Model, port: int) -> None:
    sink = view.open_view(f"serve:{port}")
    assert isinstance(sink, view.ServeSink)
    assert re.match(
        rf"http://127\.0\.0\.1:{port}/\?url=rerun%2Bhttp://127\.0\.0\.1:{port + 1}/proxy", sink.url
    )
    before = listening()
    sink.open(RunInfo("memory", False, model.spec))
    for i in range(5):
        sink.write(make_row(model, i))
    answer = get(port)
    page = answer.read().decode()
    assert answer.status == 200
    assert "re_viewer.js" in page
    policy = answer.getheader("Content-Security-Policy")
    assert policy is not None
    # The browser may talk to this page and to its data: no analytics, no other site.
    allowed = policy.split("connect-src ")[1].split(";")[0].split()
    assert allowed == ["'self'", "data:", "blob:", f"http://*:{port + 1}"]
    assert get(port, "/re_viewer_bg.wasm").status == 200
    assert get(port, "/../../etc/passwd").status == 404
    (viewer,) = viewers()
    assert listening() - before == {("127.0.0.1", port)}
    assert {address for address, _ in listening(viewer)} == {"127.0.0.1"}
    environment = (Path("/proc") / str(viewer) / "environ").read_text()
    settings = re.search(r"XDG_CONFIG_HOME=([^\0]+)", environment)
    assert settings is not None
    assert '"analytics_enabled": false' in (Path(settings[1]) / "rerun" / "analytics.json").read_text()
    sink.close()
    sink.close()
    assert viewers() == []
    assert listening() == before


def test_rerun_itself_says_that_analytics_are_off() -> None:
    from edgevae.sinks.rerun_viewer import _SETTINGS, _program

    done = subprocess.run(
        [_program(), "analytics", "config"],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(_SETTINGS)},
    )
    assert '"analytics_enabled": false' in done.stdout


def test_a_port_that_is_taken(model: Model, port: int) -> None:
    for taken in (port, port + 1):
        with socket.socket() as other:
            other.bind(("127.0.0.1", taken))
            other.listen()
            sink = view.open_view(f"serve:{port}")
            with pytest.raises(RecordError, match=rf"cannot serve on 127\.0\.0\.1:{taken}: .*in use; choose"):
                sink.open(RunInfo("memory", False, model.spec))
            sink.close()
    assert viewers() == []


def test_a_viewer_that_dies_is_an_error_and_can_be_opened_again(model: Model, port: int) -> None:
    sink = view.open_view(f"serve:{port}")
    sink.open(RunInfo("memory", True, model.spec))
    sink.write(make_row(model, 0))
    os.kill(viewers()[0], signal.SIGKILL)

    def write_on() -> bool:
        sink.write(make_row(model, 1))
        return False

    with pytest.raises(RecordError, match=r"viewer ended: |takes no data"):
        wait_for(write_on)
    sink.close()
    sink.open(RunInfo("memory", True, model.spec))
    sink.write(make_row(model, 2))
    sink.close()


def test_a_viewer_that_hangs_is_given_up(model: Model, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "SEND_TIMEOUT_S", 0.5)
    sink = view.open_view(f"serve:{port}")
    sink.open(RunInfo("memory", True, model.spec))
    sink.write(make_row(model, 0))
    os.kill(viewers()[0], signal.SIGSTOP)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)

    def write_on() -> bool:
        row = Row.of(edgevae.Frame(noise), np.zeros(8, np.float32), model.decode(np.zeros(8, np.float32)))
        sink.write(row)
        return False

    with pytest.raises(RecordError, match="takes no data any more: Flush timed out"):
        wait_for(write_on)
    began_s = time.monotonic()
    sink.close()
    assert time.monotonic() - began_s < 60
    assert viewers() == []


def test_a_killed_run_takes_its_viewer_with_it(tiny_model_path: Path, port: int) -> None:
    arguments = [
        "stream",
        "--camera",
        "synthetic",
        "--model",
        str(tiny_model_path),
        "--view",
        f"serve:{port}",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgevae", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == f"watch at {view.ServeSink('127.0.0.1', port).url}\n"

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port + 1), 1):
            return True
        return False

    wait_for(answers)
    process.kill()
    process.communicate()
    wait_for(lambda: not answers())


def test_no_display(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RecordError, match=r"no display .*; use --view serve"):
        view.open_view("window").open(RunInfo("memory", True, model.spec))


def test_a_display_that_does_not_answer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":97")
    sink = view.open_view("window")

    def write_on() -> bool:
        if not opened:
            sink.open(RunInfo("memory", True, model.spec))  # answers before its window is there
            opened.append(True)
        sink.write(make_row(model, 0))
        return False

    opened: list[bool] = []
    with pytest.raises(RecordError, match=r"Rerun's viewer (ended|did not start): .*X11|[Dd]isplay|server"):
        wait_for(write_on)
    sink.close()


@pytest.mark.parametrize(
    "where", ["", "serve:", "serve:x", "serve:1.2.3:90", "z.mcap", "/", "windows", "serve:1:2"]
)
def test_wrong_places(where: str) -> None:
    with pytest.raises(RecordError, match="cannot view in"):
        view.open_view(where)


@pytest.mark.parametrize("where", ["serve:0.0.0.0:90000", "serve:192.0.2.1:9090"])
def test_addresses_that_are_not_ours(model: Model, where: str) -> None:
    with pytest.raises(RecordError, match="cannot serve on"):
        view.open_view(where).open(RunInfo("memory", True, model.spec))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--view", "--view window"),
        ("--view --frames 3", "--view window --frames 3"),
        ("--frames 3 --view", "--frames 3 --view window"),
        ("--view serve --frames 3", "--view serve --frames 3"),
        ("--view=serve", "--view=serve"),
        ("--view z.rrd", "--view z.rrd"),
        ("--frames 3", "--frames 3"),
    ],
)
def test_an_optional_value(typed: str, meant: str) -> None:
    assert with_value(typed.split(), "--view", "window") == meant.split()


def test_the_command_line(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["stream", "--camera", "synthetic", "--frames", "5", "--model", str(tiny_model_path)]
    assert main([*arguments, "--view", str(tmp_path / "z.rrd")]) == 0
    assert f"wrote {tmp_path / 'z.rrd'} (5 frames)" in capsys.readouterr().out
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main([*arguments, "--view"]) == 2
    assert "no display" in capsys.readouterr().err
    assert main([*arguments, "--view", "nonsense"]) == 2
    assert "cannot view in 'nonsense'" in capsys.readouterr().err
