"""The command line: its main jobs end to end, every bad input in one line, signals, no PyTorch."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_model import tiny_document

import edgevae
from edgevae import model_file
from edgevae.cli import main
from edgevae.errors import RecordError
from edgevae.latents import read_latents

MCAP = pytest.mark.skipif(find_spec("mcap") is None, reason="needs mcap")
NO_TORCH = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def without_torch(name, path=None, target=None):
    return None if name.split(".")[0] in ("torch", "lightning") else find(name, path, target)
PathFinder.find_spec = without_torch
from edgevae.cli import main
code = main(sys.argv[1:])
assert not any(name.split(".")[0] in ("torch", "lightning") for name in sys.modules)
sys.exit(code)
"""


def run(*arguments: object, code: str = NO_TORCH, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """``edgevae ARGUMENTS`` in a process that has no PyTorch."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s
    )


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgevae", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(path: Path, rows: int, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s and not (path.exists() and len(read_latents(path)) >= rows):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture
def other_model_path(tmp_path: Path) -> Path:
    """The tiny model with other weights."""
    document, tensors = tiny_document()
    tensors["decoder.1.bias"] += 0.25
    path = tmp_path / "other.safetensors"
    model_file.write(path, document, tensors)
    return path


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder of five colour pictures with depth."""
    folder = tmp_path / "pictures"
    for part in ("color", "depth"):
        (folder / part).mkdir(parents=True)
    for i in range(5):
        cv2.imwrite(str(folder / "color" / f"{i:04d}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
        cv2.imwrite(str(folder / "depth" / f"{i:04d}.png"), rng.integers(500, 5000, (48, 64), np.uint16))
    return folder


def test_the_main_job_without_torch(tiny_model_path: Path, tmp_path: Path) -> None:
    record, report, out = tmp_path / "z.h5", tmp_path / "s.json", tmp_path / "out"
    done = run(
        "stream", "--camera", "synthetic", "--frames", 12, "--model", tiny_model_path, "--threads", 1,
        "--record", record, "--stats", report, "--save-reconstructions", out,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 frames in, 12 encoded, 0 dropped, 0 skipped" in done.stdout
    assert f"wrote {record} (12 frames)" in done.stdout
    latents = read_latents(record)
    model = edgevae.load(tiny_model_path)
    with edgevae.open_source("synthetic") as source:
        for i in range(12):
            frame = source.read()
            assert frame is not None
            np.testing.assert_allclose(
                latents.latent[i], model.encode(frame.rgb, frame.depth), rtol=1e-5, atol=1e-6
            )
    stats = json.loads(report.read_text())
    assert stats["frames"] == {"in": 12, "encoded": 12, "dropped": 0, "skipped": 0, "not_recorded": 0}
    assert stats["stopped_by"] == "frames"
    assert stats["source"]["live"] is False
    assert stats["model"]["sha256"] == model.spec.sha256
    for stage in ("capture_wait", "preprocess", "encode", "decode", "sink", "end_to_end"):
        times = stats["stages_ms"][stage]
        assert 0 <= times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
        assert times["count"] == (24 if stage == "sink" else 12)  # two sinks, each by itself
    assert len(list(out.glob("frame_*.png"))) == 12


def test_embed_takes_every_picture_of_a_folder(tiny_model_path: Path, pictures: Path, tmp_path: Path) -> None:
    assert (
        main(["embed", str(pictures), "-o", str(tmp_path / "z.jsonl"), "--model", str(tiny_model_path)]) == 0
    )
    record = read_latents(tmp_path / "z.jsonl")
    model = edgevae.load(tiny_model_path)
    for i, name in enumerate(sorted((pictures / "color").iterdir())):
        rgb = cv2.cvtColor(cv2.imread(str(name)), cv2.COLOR_BGR2RGB)
        depth = cv2.imread(str(pictures / "depth" / name.name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(record.latent[i], model.encode(rgb, depth), rtol=1e-5, atol=1e-6)


def test_decode_writes_what_the_model_decodes(tiny_model_path: Path, pictures: Path, tmp_path: Path) -> None:
    record, out = tmp_path / "z.h5", tmp_path / "decoded"
    model = ["--model", str(tiny_model_path)]
    assert main(["embed", str(pictures), "-o", str(record), "-q", *model]) == 0
    assert main(["decode", str(record), "-o", str(out), "--every", "2", *model]) == 0
    names = ["000000.png", "000002.png", "000004.png"]
    for part in ("color", "depth", "preview"):
        assert sorted(path.name for path in (out / part).iterdir()) == names
    decoded = edgevae.load(tiny_model_path).decode(read_latents(record).latent[2])
    color = cv2.imread(str(out / "color" / "000002.png"))
    np.testing.assert_array_equal(color[..., ::-1], decoded.rgb)
    depth = cv2.imread(str(out / "depth" / "000002.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert decoded.depth is not None
    np.testing.assert_allclose(depth, np.minimum(decoded.depth * 1000, 65535), atol=0.51)
    # What was decoded can be encoded again: the folder is a source.
    assert main(["embed", str(out), "-o", str(tmp_path / "again.h5"), "-q", *model]) == 0


def test_decode_refuses_the_latents_of_another_model(
    tiny_model_path: Path,
    other_model_path: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record, out = tmp_path / "z.h5", tmp_path / "decoded"
    assert main(["embed", str(pictures), "-o", str(record), "--model", str(tiny_model_path)]) == 0
    capsys.readouterr()
    arguments = ["decode", str(record), "-o", str(out), "--model", str(other_model_path)]
    assert main(arguments) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("edgevae: the latents were made with tiny ")
    assert "--any-model" in sentence
    assert not out.exists()
    assert main([*arguments, "--any-model"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("edgevae: warning: the latents were made with tiny ")
    assert len(list((out / "color").iterdir())) == 5
    assert main([*arguments, "--any-model"]) == 2  # the pictures are there already
    assert "holds 5 pictures" in capsys.readouterr().err
    assert main([*arguments, "--any-model", "--overwrite"]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", [".h5", ".jsonl", pytest.param(".mcap", marks=MCAP)])
def test_signals_flush_close_and_summarise(
    tiny_model_path: Path, tmp_path: Path, number: signal.Signals, suffix: str
) -> None:
    record, report = tmp_path / f"z{suffix}", tmp_path / "s.json"
    process = start(
        "stream", "--camera", "synthetic", "--model", tiny_model_path, "--record", record, "--stats", report
    )
    wait_for_rows(record, 5, process)
    process.send_signal(number)
    output, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (0, "")
    stats = json.loads(report.read_text())
    assert stats["stopped_by"] == number.name
    assert f"stopped by {number.name}" in output
    assert len(read_latents(record)) == stats["frames"]["encoded"] == stats["frames"]["in"]


def test_a_second_signal_kills(tiny_model_path: Path, tmp_path: Path) -> None:
    code = """
import sys, time
from edgevae.sinks.jsonl import JsonlSink
write = JsonlSink.write
def slow(sink, row):
    write(sink, row)
    time.sleep(0.5)
JsonlSink.write = slow
from edgevae.cli import main
sys.exit(main(sys.argv[1:]))
"""
    record = tmp_path / "z.jsonl"
    arguments = ["stream", "--camera", "synthetic", "--model", tiny_model_path, "--record", record, "-q"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    wait_for_rows(record, 2, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # some twenty rows still wait for the slow sink
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert len(read_latents(record)) >= 2


@pytest.mark.parametrize("command", [["stream", "--camera"], ["embed", "-o", "{tmp}/z.jsonl"]])
def test_statistics_that_cannot_be_written_leave_the_summary(
    tiny_model_path: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    def full(path: Path, document: dict[str, object]) -> None:
        raise RecordError(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr("edgevae.files.write_json", full)
    arguments = [part.replace("{tmp}", str(tmp_path)) for part in command]
    options = ["--stats", str(tmp_path / "s.json"), "--model", str(tiny_model_path), "-q"]
    assert main([*arguments, str(pictures), *options]) == 2
    said = capsys.readouterr()
    assert "5 frames in, 5 encoded" in said.out
    assert said.err.endswith("s.json: No space left on device.\n")


@pytest.mark.parametrize("command", [["info"], ["novelty", "{z}"], ["keyframes", "{z}", "-n", "2"]])
def test_a_closed_output_is_no_error(tmp_path: Path, command: list[str]) -> None:
    record = tmp_path / "z.jsonl"
    rows = [{"frame": i, "timestamp_ns": i, "latent": [float(i), 1.0]} for i in range(9)]
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if command[0] == "keyframes":
        command = [*command, "-o", str(tmp_path / "k.jsonl")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "edgevae", *(part.replace("{z}", str(record)) for part in command)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, "Error" in done.stderr) == (0, False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["info"], ["--version"]])
def test_an_output_that_takes_nothing_is_one_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgevae", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    sentence = "edgevae: cannot write standard output: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, sentence)


def test_closed_streams_do_not_end_up_in_a_record(
    tiny_model_path: Path, pictures: Path, tmp_path: Path
) -> None:
    """A file that is opened takes the lowest free number, which must not be that of standard output."""

    def close_all() -> None:
        for number in (0, 1, 2):
            os.close(number)

    arguments = ["stream", "--camera", pictures, "--model", tiny_model_path, "--record", tmp_path / "z.jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", "edgevae", *map(str, arguments)], preexec_fn=close_all, timeout=60
    )
    assert done.returncode == 0
    assert (tmp_path / "z.jsonl").read_text().count("\n") == len(read_latents(tmp_path / "z.jsonl")) == 5


def test_names_that_the_terminal_or_a_format_cannot_spell(
    tiny_model_path: Path, pictures: Path, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff \xc3\xa4"))
    pictures.rename(odd)
    record = tmp_path / "z.h5"
    for command in (
        ["stream", "--camera", odd, "--record", record, "--stats", f"{odd}.json", "--model", tiny_model_path],
        ["novelty", record],
    ):
        done = subprocess.run(
            [os.fsencode(word) for word in (sys.executable, "-m", "edgevae", *map(str, command))],
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, b"")
    assert read_latents(record).attrs["source"].endswith("/\\xff ä")


def test_ctrl_c_in_any_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(model: Path | None) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgevae.info.describe", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "edgevae: interrupted.\n"


def test_a_closed_output_ends_the_run_in_order(tiny_model_path: Path, tmp_path: Path) -> None:
    record = tmp_path / "z.h5"
    process = start("stream", "--camera", "synthetic", "--model", tiny_model_path, "--record", record)
    assert process.stdout is not None
    assert "fps" in process.stdout.readline()
    process.stdout.close()
    process.wait(timeout=20)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.returncode == 0
    assert len(read_latents(record)) > 0


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (["stream", "--camera", "synthetic", "--frames", "60"], "end to end"),
        (["embed", "synthetic", "-o", "z.h5"], "embedding"),
    ],
)
def test_on_a_terminal_a_panel_or_a_bar_is_drawn(
    tiny_model_path: Path, tmp_path: Path, command: list[str], wanted: str
) -> None:
    terminal, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgevae", *command, "--model", str(tiny_model_path)],
        stdout=child,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
    )
    os.close(child)
    shown, deadline_s = b"", time.monotonic() + 30
    stopped = False
    while time.monotonic() < deadline_s:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if command[0] == "embed" and wanted.encode() in shown and not stopped:
            process.send_signal(signal.SIGINT)
            stopped = True
    _, complaint = process.communicate(timeout=10)
    os.close(terminal)
    assert (process.returncode, complaint) == (0, "")
    text = shown.decode(errors="replace")
    assert wanted in text
    assert "fps" in text
    assert "stopped by" in text
    assert "\x1b[" in text  # it was drawn over, not printed line by line


BAD = {
    "no such source": (["stream", "--camera", "{tmp}/nowhere"], "nowhere"),
    "no such TUM folder": (["stream", "--camera", "tum:{tmp}/nowhere"], "nowhere"),
    "an empty folder": (["embed", "{tmp}/empty", "-o", "{tmp}/z.h5"], "empty"),
    "an unset variable": (["stream", "--camera", ""], "'' names no source"),
    "an unset folder": (["stream", "--camera", "tum:"], "'tum:' names no source"),
    "no such camera": (["stream", "--camera", "97"], "97"),
    "a wrong seed": (["stream", "--camera", "synthetic:x"], "seed"),
    "depth from a source without": (["stream", "--camera", "synthetic", "--depth", "{tmp}/nowhere"], "depth"),
    "no such model": (
        ["stream", "--camera", "synthetic", "--model", "{tmp}/none.safetensors"],
        "does not exist",
    ),
    "a foreign model": (
        ["stream", "--camera", "synthetic", "--model", "{tmp}/text.safetensors"],
        "text.safetensors",
    ),
    "a folder as a model": (
        ["stream", "--camera", "synthetic", "--model", "{tmp}/empty"],
        "empty is a folder, wanted a model file",
    ),
    "a truncated model": (["info", "{tmp}/torn.safetensors"], "torn.safetensors"),
    "a model that lies": (["info", "{tmp}/lies.safetensors"], "encoder"),
    "an existing record": (
        ["stream", "--camera", "synthetic", "--record", "{tmp}/there.h5"],
        "there.h5 exists",
    ),
    "an existing text record": (["embed", "synthetic", "-o", "{tmp}/there.jsonl"], "there.jsonl exists"),
    "another suffix": (["stream", "--camera", "synthetic", "--record", "{tmp}/z.csv"], "wanted .jsonl"),
    "a record under a file": (
        ["stream", "--camera", "synthetic", "--record", "{tmp}/there.h5/z.h5"],
        "cannot write",
    ),
    "statistics under a file": (
        ["stream", "--camera", "synthetic", "--stats", "{tmp}/there.h5/s"],
        "cannot write",
    ),
    "statistics in a folder": (["stream", "--camera", "synthetic", "--stats", "{tmp}/empty"], "is a folder"),
    "pictures under a file": (
        ["stream", "--camera", "synthetic", "--save-reconstructions", "{tmp}/there.h5/out"],
        "cannot write",
    ),
    "a map of no size": (
        ["stream", "--camera", "synthetic", "--map", "{tmp}/a.ply", "--map-voxel", "-1"],
        "voxels of -1 m",
    ),
    "a kind of map but no map": (["stream", "--camera", "synthetic", "--map-mesh"], "add --map FILE.ply"),
    "a key but nothing to publish": (["stream", "--camera", "synthetic", "--zenoh-key", "a"], "add --zenoh"),
    "no such port": (["stream", "--camera", "synthetic", "--view", "serve:65535"], "wanted 1 to 65534"),
    "no threads": (["stream", "--camera", "synthetic", "--threads", "0"], "threads"),
    "no such instruction set": (["stream", "--camera", "synthetic", "--isa", "abacus"], "abacus"),
    "no frames": (["stream", "--camera", "synthetic", "--frames", "0"], "frames"),
    "no camera": (["stream"], "--camera"),
    "no such command": (["strem"], "strem"),
    "no such option": (["stream", "--camera", "synthetic", "--fast"], "--fast"),
    "an unset folder for pictures": (
        ["stream", "--camera", "synthetic", "--save-reconstructions", ""],
        "'' is no name",
    ),
    "an unset folder to decode into": (["decode", "{tmp}/short.jsonl", "-o", ""], "'' is no name"),
    "a device as latents": (["novelty", "/dev/null"], "/dev/null is no file"),
    "no such latents": (["decode", "{tmp}/none.h5", "-o", "{tmp}/out"], "none.h5 does not exist"),
    "foreign latents": (["decode", "{tmp}/there.h5", "-o", "{tmp}/out"], "not a readable HDF5 record"),
    "latents of another length": (
        ["decode", "{tmp}/short.jsonl", "-o", "{tmp}/out", "--any-model"],
        "wants 8",
    ),
    "no such checkpoint": (["export", "{tmp}/none.ckpt", "-o", "{tmp}/m.safetensors"], "none.ckpt"),
    "no such engine": (["bench", "--against", "abacus"], "abacus"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_exit_code_2(
    tiny_model_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.h5").write_bytes(b"precious")
    (tmp_path / "there.jsonl").write_bytes(b"precious")
    (tmp_path / "text.safetensors").write_text("not a model")
    content = tiny_model_path.read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "lies.safetensors").write_bytes(content.replace(b'\\"stride\\":2', b'\\"stride\\":3', 1))
    row = {"frame": 0, "timestamp_ns": 0, "latent": [0.0] * 5}
    (tmp_path / "short.jsonl").write_text(json.dumps(row) + "\n")
    before = sorted(tmp_path.rglob("*"))
    arguments, word = BAD[case]
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    takes_model = arguments[0] in ("stream", "embed", "decode", "bench") and "--model" not in arguments
    if takes_model:
        arguments += ["--model", str(tiny_model_path)]
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edgevae: ")
    assert captured.err.count("\n") == 1
    assert word in captured.err
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written
    assert (tmp_path / "there.h5").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (
            lambda folder: cv2.imwrite(str(folder / "depth" / "0003.png"), np.ones((24, 32), np.uint16)),
            "0003",
        ),
        (lambda folder: (folder / "color" / "0003.png").write_bytes(b"not a picture"), "0003"),
        (lambda folder: (folder / "color" / "0003.png").write_bytes(b""), "0003"),
    ],
)
def test_a_wrong_picture_among_good_ones_keeps_what_came_before(
    tiny_model_path: Path,
    pictures: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    damage,
    word: str,
) -> None:
    damage(pictures)
    record = tmp_path / "z.h5"
    code = main(["embed", str(pictures), "-o", str(record), "--model", str(tiny_model_path)])
    captured = capfd.readouterr()
    if code == 2:  # the source ends there
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("edgevae: ")
        assert word in captured.err
        np.testing.assert_array_equal(read_latents(record).frame, [0, 1, 2])
    else:  # or the frame is left out, and said to be
        assert code == 0
        assert "1 skipped" in captured.out
        assert word in captured.out
        np.testing.assert_array_equal(read_latents(record).frame, [0, 1, 2, 4])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_depth_without_any_reading_is_no_error(tiny_model_path: Path, tmp_path: Path, value: float) -> None:
    for part in ("color", "depth"):
        (tmp_path / "in" / part).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in" / "color" / "0.png"), np.full((48, 64, 3), 90, np.uint8))
    np.save(tmp_path / "in" / "depth" / "0.npy", np.full((48, 64), value, np.float32))
    arguments = ["stream", "--camera", str(tmp_path / "in"), "--model", str(tiny_model_path)]
    out = ["--record", str(tmp_path / "z.h5"), "--save-reconstructions", str(tmp_path / "out")]
    assert main([*arguments, *out]) == 0
    record = read_latents(tmp_path / "z.h5")
    assert len(record) == 1
    assert np.isfinite(record.latent).all()


def test_a_fault_of_edgevae_is_exit_code_1_with_a_hint(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a bug\non two lines")

    monkeypatch.setattr("edgevae.stream.run", broken)
    arguments = ["stream", "--camera", "synthetic", "--model", str(tiny_model_path)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err == "edgevae: ZeroDivisionError: a bug on two lines; --debug shows where.\n"
    for place in (0, len(arguments)):  # before the command and after everything
        with pytest.raises(ZeroDivisionError):
            main([*arguments[:place], "--debug", *arguments[place:]])


def test_info(tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_model_path), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["name"], about["latent_dim"], about["precision"]) == ("tiny", 8, "fp32")
    assert about["parameters"] == sum(
        layer["parameters"] for half in ("encoder", "decoder") for layer in about[half]
    )
    assert about["encoder"][0]["output"] == [8, 16, 16]
    assert about["encoder"][-1]["output"] == [16]
    assert about["decoder"][-1]["output"] == [4, 32, 32]
    assert about["sha256"] == model_file.read(tiny_model_path)[2]
    assert main(["info", str(tiny_model_path)]) == 0
    shown = capsys.readouterr().out
    for word in ("tiny", "4 x 32 x 32", "log from 0.25 to 80 m", "upsample_conv2d", "8 x 16 x 16", "noise"):
        assert word in shown


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgevae {edgevae.__version__}\n"
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("stream", "embed", "decode", "info", "export", "bench", "doctor"):
        assert f"\n  {command} " in shown
    assert main(["stream", "--help"]) == 0
    assert "--save-reconstructions DIR" in capsys.readouterr().out


def test_one_is_no_plural(tmp_path: Path, tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, model = str(tmp_path / "z.jsonl"), ["--model", str(tiny_model_path)]
    arguments = ["stream", "--camera", "synthetic?size=32x32", "--frames", "1", "-q", "--record", record]
    assert main([*arguments, "--stats", str(tmp_path / "s.json"), *model]) == 0
    assert main(["embed", "synthetic?size=32x32&frames=1", "-q", "-o", str(tmp_path / "e.h5"), *model]) == 0
    assert main(["decode", record, "-o", str(tmp_path / "out"), "-q", *model]) == 0
    assert main(["keyframes", record, "-n", "1", "-o", str(tmp_path / "k.jsonl")]) == 0
    assert main(["repair", record]) == 0
    said = "".join(capsys.readouterr())
    assert "1 frame in" in said
    assert not re.search(r"(?<![.0-9])1 (frame|row|latent|picture|source)s\b", said), said


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr()
    assert "\n  stream " in shown.out
    assert shown.err == ""


def test_a_usage_error_names_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "--camera", "synthetic", "--frames", "0"]) == 2
    assert capsys.readouterr().err.endswith(" Run 'edgevae stream --help'.\n")
    for value in ("0", "many", "1.5", ""):
        assert main(["stream", "--camera", "synthetic", "--frames", value]) == 2
        assert f"'{value}'" in capsys.readouterr().err
    assert main(["strem"]) == 2
    assert capsys.readouterr().err.endswith(" Run 'edgevae --help'.\n")


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from edgevae.cli import main
code = main(["--help"])
heavy = {"cv2", "h5py", "torch", "scipy", "rich.live", "edgevae.export", "edgevae.bench"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else code)
"""
    done = run(code=code)
    assert (done.returncode, done.stderr) == (0, "")


def test_bench_without_torch(tiny_model_path: Path, tmp_path: Path) -> None:
    done = run("bench", "--model", tiny_model_path, "--rounds", 3, "--json", tmp_path / "b.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "encode" in done.stdout
    assert "decode" in done.stdout
    timings = json.loads((tmp_path / "b.json").read_text())["timings"]
    assert {t["operation"] for t in timings} >= {"encode", "decode"}
    refused = run("bench", "--model", tiny_model_path, "--rounds", 3, "--against", "torch")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_export_without_torch_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"x")
    done = run("export", tmp_path / "a.ckpt", "-o", tmp_path / "m.safetensors")
    assert done.returncode == 2
    assert done.stderr.startswith("edgevae: ")
    assert done.stderr.count("\n") == 1
    assert "torch" in done.stderr.lower()


def test_a_recorded_sequence(tiny_model_path: Path, data_dir: Path, tmp_path: Path) -> None:
    source = f"tum:{data_dir / 'tum_fr1_rpy_100'}"
    record = tmp_path / "z.h5"
    arguments = ["stream", "--camera", source, "--model", str(tiny_model_path), "--record", str(record)]
    assert main([*arguments, "--stats", str(tmp_path / "s.json")]) == 0
    latents = read_latents(record)
    assert len(latents) == 100
    assert latents.pose is not None
    assert np.isfinite(latents.pose).all()
    assert (np.diff(latents.timestamp_ns) > 0).all()
