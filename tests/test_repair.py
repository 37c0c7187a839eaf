"""Repair: every row comes back as it was written or not at all, and the old file is never touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from memory_source import MemorySource

pytest.importorskip("mcap")

from mcap.reader import make_reader

from edgevae import stream
from edgevae.cli import main
from edgevae.errors import RecordError
from edgevae.latents import Latents, read_latents
from edgevae.model import Model
from edgevae.repair import repair
from edgevae.sinks import open_record

SUFFIXES = (".jsonl", ".h5", ".mcap")


def record(model: Model, path: Path, count: int = 40) -> Latents:
    stream.run(MemorySource(count), model, [open_record(path)])
    return read_latents(path)


def record_in_chunks(model: Model, path: Path, count: int = 40) -> Latents:
    """An MCAP record whose chunks hold four rows each."""
    sink = open_record(path)
    write, written = sink.write, [0]

    def write_and_flush(row: object) -> None:
        write(row)  # type: ignore[arg-type]
        written[0] += 1
        if written[0] % 4 == 0:
            sink.flush()

    sink.write = write_and_flush  # type: ignore[method-assign]
    stream.run(MemorySource(count), model, [sink])
    return read_latents(path)


def check_prefix(got: Latents, whole: Latents) -> None:
    rows = len(got)
    np.testing.assert_array_equal(got.latent, whole.latent[:rows])
    np.testing.assert_array_equal(got.timestamp_ns, whole.timestamp_ns[:rows])
    np.testing.assert_array_equal(got.frame, whole.frame[:rows])
    assert got.pose is not None
    assert whole.pose is not None
    np.testing.assert_array_equal(got.pose, whole.pose[:rows])
    assert got.attrs == whole.attrs


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_whole_record_is_left_alone(
    model: Model, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"z{suffix}"
    record(model, path)
    assert main(["repair", str(path)]) == 0
    assert capsys.readouterr().out == f"{path} is whole: 40 rows; nothing to repair\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("suffix", [".jsonl", ".mcap"])
def test_a_record_cut_off(model: Model, tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"z{suffix}"
    whole = record_in_chunks(model, path)
    content = path.read_bytes()
    cut = content[: int(len(content) * keep)]
    path.write_bytes(cut)
    found = repair(path)
    assert found.output == tmp_path / f"z.repaired{suffix}"
    got = read_latents(found.output)
    assert found.rows == len(got) == len(read_latents(path)) >= 5
    check_prefix(got, whole)
    assert path.read_bytes() == cut
    assert repair(found.output).output is None  # it is whole now


def test_a_repaired_mcap_has_its_index(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    record_in_chunks(model, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = repair(path, tmp_path / "new" / "y.mcap")
    assert found.output is not None
    with found.output.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        count = sum(1 for _, channel, _ in reader.iter_messages(topics=["/latent"]))
        assert count == found.rows
        assert [item.name for item in reader.iter_metadata()] == ["edgevae"]


def test_a_damaged_chunk_is_left_out(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    whole = record_in_chunks(model, path)
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    chunk = summary.chunk_indexes[5]
    content = bytearray(path.read_bytes())
    end = chunk.chunk_start_offset + chunk.chunk_length
    content[end - 20 : end - 12] = b"nonsense"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"damaged in 1 of 11 chunks; 'edgevae repair"):
        read_latents(path)
    found = repair(path)
    assert found.lost == "1 of 11 chunks are damaged and left out"
    assert found.output is not None
    got = read_latents(found.output)
    assert len(got) == found.rows == 36
    rows = [int(row) for row in got.frame]
    np.testing.assert_array_equal(got.latent, whole.latent[rows])


def test_damaged_lines_are_left_out(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "z.jsonl"
    record(model, path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = bytes(len(lines[2]) - 1) + b"\n"  # a block that never reached the disk
    path.write_bytes(b"".join(lines)[:-3])
    assert main(["repair", str(path)]) == 0
    output = tmp_path / "z.repaired.jsonl"
    assert (
        capsys.readouterr().out
        == f"recovered 3 rows into {output}\n2 lines are cut off or damaged and left out\n"
    )
    assert read_latents(output).frame.tolist() == [0, 1, 3]


def test_hdf5_of_uneven_lengths(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.h5"
    whole = record(model, path)
    with h5py.File(path, "r+") as file:
        file["frame"].resize(33, axis=0)
    found = repair(path)
    assert (found.rows, found.lost) == (33, "7 incomplete rows are left out")
    assert found.output is not None
    check_prefix(read_latents(found.output), whole)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_replaced(model: Model, tmp_path: Path, suffix: str) -> None:
    path, other = tmp_path / f"z{suffix}", tmp_path / f"z.repaired{suffix}"
    record(model, path)
    path.write_bytes(path.read_bytes()[:-20])
    other.write_bytes(b"precious")
    with pytest.raises(
        RecordError, match=rf"z\.repaired{suffix} exists; choose another name or pass --overwrite"
    ):
        repair(path)
    with pytest.raises(RecordError, match="is read or written by this command already"):
        repair(path, path, overwrite=True)
    assert other.read_bytes() == b"precious"
    with pytest.raises(RecordError, match=rf"must end in {suffix}, too"):
        repair(path, tmp_path / "z.txt")
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("z.mcap", b"", "z.mcap is empty, which is no record"),
        ("z.mcap", b"\x89MCAP0\r\n", "holds no whole message"),
        ("z.mcap", b"\x89MCAP0\r\n" + os.urandom(3000), "holds no whole message"),
        ("z.mcap", b"PK\x03\x04", "begins with b'PK"),
        ("z.h5", b"\x89HDF\r\n\x1a\n" + bytes(500), "is damaged where HDF5 keeps its tables"),
        ("z.jsonl", b"{}\n{}\n", "holds no whole row"),
        ("z.jsonl", b"\x00" * 4096, "holds no whole row"),
        ("z.txt", b"hello", "begins with b'hello'"),
    ],
)
def test_nonsense_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["repair", str(path)]) == 2
    complaint = capsys.readouterr().err
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="does not exist"):
        repair(tmp_path / "nowhere.mcap")
    with pytest.raises(RecordError, match="is a folder"):
        repair(tmp_path)


def test_hdf5_of_something_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["weights"] = np.ones(4)
    with pytest.raises(RecordError, match="not a record of latents"):
        repair(tmp_path / "x.h5")


LOOP = """
import sys, time
from pathlib import Path
import edgevae
from edgevae import stream
from edgevae.frame import Frame
from edgevae.sinks import open_record
from memory_source import MemorySource
path, model = Path(sys.argv[1]), edgevae.load(sys.argv[2], threads=1)
sink = open_record(path, pictures=["color-raw", "depth"] if path.suffix == ".mcap" else ())
write = sink.write
def told(row):
    write(row)
    print(row.index, time.monotonic_ns(), flush=True)
sink.write = told
stream.run(MemorySource(100000, interval_s=0.002), model, [sink])
"""


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill_at_a_random_moment(
    model: Model, tiny_model_path: Path, tmp_path: Path, suffix: str, attempt: int
) -> None:
    """What was taken a second before the end is in the file, and every row is as it was written."""
    path = tmp_path / f"z{suffix}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(path), str(tiny_model_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    told = [process.stdout.readline()]  # the first row is there
    time.sleep(random.uniform(0.0, 2.5))
    process.kill()
    told += process.stdout.read().splitlines()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    rows = [tuple(map(int, line.split())) for line in told if len(line.split()) == 2]
    before = path.read_bytes()
    found = repair(path)
    assert path.read_bytes() == before
    got = read_latents(found.output or path)
    # By its last sign of life: a process that does not get to run cannot flush.
    safe = [index for index, at_ns in rows if at_ns < rows[-1][1] - 1_000_000_000]
    if len(got) <= rows[-1][0]:
        print(f"lost {(rows[-1][1] - dict(rows)[len(got)]) / 1e9:.3f} s")
    assert len(got) >= len(safe)
    assert len(got) == found.rows >= 1
    np.testing.assert_array_equal(got.frame, np.arange(len(got)))
    for i in {0, len(got) // 2, len(got) - 1}:
        frame = MemorySource(i + 1)
        frame._next = i
        picture = frame.read()
        assert picture is not None
        np.testing.assert_array_equal(got.latent[i], model.encode(picture.rgb, picture.depth))
        assert got.timestamp_ns[i] == picture.timestamp_ns
    assert repair(found.output or path).output is None


def test_json_lines_of_a_repair_are_the_same_bytes(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.jsonl"
    record(model, path, 3)
    content = path.read_bytes()
    path.write_bytes(content + b'{"frame": 3, "lat')
    found = repair(path)
    assert found.output is not None
    assert found.output.read_bytes() == content
    assert [json.loads(line)["frame"] for line in content.splitlines()] == [0, 1, 2]
