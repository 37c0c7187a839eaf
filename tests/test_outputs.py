"""All commands that write follow one rule: without --overwrite nothing is replaced; folders are made."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevae.cli import main
from edgevae.errors import RecordError
from edgevae.files import check_outputs

RECORD = ["z.jsonl", "--model", "m.safetensors"]
BENCH = ["bench", "--model", "m.safetensors", "--layers", "--rounds", "1"]
STREAM = ["stream", "--camera", "pictures", "--model", "m.safetensors", "-q"]

COMMANDS = {
    "stream's record": ([*STREAM, "--record", "{}"], "a.jsonl"),
    "stream's video": ([*STREAM, "--save-video", "{}"], "a.mkv"),
    "stream's map": ([*STREAM, "--map", "{}"], "a.ply"),
    "stream's view": ([*STREAM, "--view", "{}"], "a.rrd"),
    "stream's statistics": ([*STREAM, "--stats", "{}"], "a.json"),
    "embed": (["embed", "pictures", "--model", "m.safetensors", "-o", "{}"], "a.h5"),
    "embed in Parquet": (["embed", "pictures", "--model", "m.safetensors", "-o", "{}"], "a.parquet"),
    "embed's statistics": (
        ["embed", "pictures", "--model", "m.safetensors", "-o", "new.h5", "--stats", "{}"],
        "a.json",
    ),
    "interpolate": (
        ["interpolate", "z.jsonl#0", "z.jsonl#1", "--model", "m.safetensors", "-o", "{}"],
        "a.gif",
    ),
    "similar": (["similar", *RECORD, "--to", "0", "-o", "{}"], "a.png"),
    "novelty": (["novelty", "z.jsonl", "-o", "{}"], "a.csv"),
    "keyframes": (["keyframes", "z.jsonl", "-n", "1", "-o", "{}"], "a.jsonl"),
    "reconstruct": (["reconstruct", *RECORD, "-o", "{}"], "a.ply"),
    "reconstruct's report": (["reconstruct", *RECORD, "-o", "new.ply", "--json", "{}"], "a.json"),
    "repair": (["repair", "cut.jsonl", "-o", "{}"], "a.jsonl"),
    "export": (["export", "m.safetensors", "-o", "{}"], "a"),
    "export to ONNX": (["export", "m.safetensors", "--format", "onnx", "-o", "a.onnx"], "a.decoder.onnx"),
    "quantize": (["quantize", "m.safetensors", "--calibrate", "synthetic", "-o", "{}"], "a"),
    "bench's report": ([*BENCH, "--json", "{}"], "a.json"),
    "bench's tables": ([*BENCH, "--markdown", "{}"], "a.md"),
}
NEEDS = {"stream's map": "open3d", "stream's view": "rerun", "embed in Parquet": "pyarrow"}


@pytest.fixture
def folder(tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"frame": i, "timestamp_ns": i, "latent": [float(i), *[1.0] * 7]} for i in range(3)]
    (tmp_path / "z.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cut.jsonl").write_text((tmp_path / "z.jsonl").read_text()[:-5])
    (tmp_path / "m.safetensors").write_bytes(tiny_model_path.read_bytes())
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(3)
    for i in range(8):
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), rng.integers(0, 256, (32, 32, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_there_is_kept(folder: Path, capfd: pytest.CaptureFixture[str], command: str) -> None:
    if command in NEEDS and find_spec(NEEDS[command]) is None:
        pytest.skip(f"needs {NEEDS[command]}")
    arguments, name = COMMANDS[command]
    (folder / name).write_bytes(b"precious")
    before = sorted(folder.rglob("*"))
    assert main([name if argument == "{}" else argument for argument in arguments]) == 2
    said = capfd.readouterr()
    assert said.err == f"edgevae: {name} exists; choose another name or pass --overwrite.\n"
    assert said.out == ""
    assert sorted(folder.rglob("*")) == before
    assert (folder / name).read_bytes() == b"precious"


@pytest.mark.parametrize(
    "arguments",
    [
        ["novelty", "z.jsonl", "-o", "new/folder/a.json"],
        ["repair", "cut.jsonl", "-o", "new/folder/a.jsonl"],
        [
            "quantize",
            "m.safetensors",
            "--calibrate",
            "pictures",
            "--frames",
            "8",
            "-o",
            "new/folder/a",
        ],
    ],
    ids=lambda arguments: arguments[0],
)
def test_folders_are_made_and_files_replaced_when_asked(folder: Path, arguments: list[str]) -> None:
    assert main(arguments) == 0
    (path,) = (folder / "new" / "folder").iterdir()
    path.write_bytes(b"old")
    assert main([*arguments, "--overwrite"]) == 0
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([*STREAM, "--record", "a.h5", "--stats", "a.h5"], "a.h5"),
        (["embed", "pictures", "--model", "m.safetensors", "-o", "a.h5", "--stats", "a.h5"], "a.h5"),
        (["reconstruct", *RECORD, "-o", "a.ply", "--json", "z.jsonl"], "z.jsonl"),
        (["keyframes", "z.jsonl", "-n", "1", "-o", "z.jsonl"], "z.jsonl"),
        (["repair", "cut.jsonl", "-o", "cut.jsonl"], "cut.jsonl"),
        ([*BENCH, "--json", "a", "--markdown", "./a"], "a"),
        (["novelty", "z.jsonl", "-o", "a.csv", "-o", "a.csv"], "a.csv"),
    ],
)
def test_no_file_is_written_over_another_of_the_command(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], name: str
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([*arguments, "--overwrite"]) == 2
    assert f"{name} is read or written by this command already" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_is_no_file_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is no regular file"):
        check_outputs(Path("/dev/null"), overwrite=True)
    with pytest.raises(RecordError, match="is a folder"):
        check_outputs(tmp_path, overwrite=True)
    with pytest.raises(RecordError, match="File name too long"):
        check_outputs(tmp_path / ("a" * 300), overwrite=False)
