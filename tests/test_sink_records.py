"""Records: read back as written, never overwritten; a kill or a full disk costs no more than the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from memory_source import MemorySource, make_frame

import edgevae
from edgevae import stream
from edgevae.errors import RecordError
from edgevae.latents import read_latents
from edgevae.model import Model
from edgevae.sinks import Row, RunInfo, open_record

SUFFIXES = (".jsonl", ".h5")


@pytest.fixture(scope="module")
def model(tiny_model_path: Path) -> Model:
    return edgevae.load(tiny_model_path, threads=1)


@pytest.fixture
def info(model: Model) -> RunInfo:
    return RunInfo("memory", False, model.spec)


def make_row(model: Model, index: int, **frame: bool) -> Row:
    picture = make_frame(index, **frame)
    return Row.of(picture, model.encode(picture.rgb, picture.depth))


@pytest.mark.parametrize("name", ["z.jsonl", "z.h5", "z.hdf5", "Z.H5", "new/folder/z.h5"])
def test_round_trip(model: Model, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sink = open_record(path)
    stream.run(MemorySource(70), model, [sink])
    assert sink.rows == 70
    record = read_latents(path)
    assert len(record) == 70
    for i in range(70):
        frame = make_frame(i)
        np.testing.assert_array_equal(
            record.latent[i], model.encode(frame.rgb, frame.depth)
        )  # to the last bit
        assert record.timestamp_ns[i] == frame.timestamp_ns
    np.testing.assert_array_equal(record.frame, np.arange(70))
    assert record.pose is not None
    np.testing.assert_array_equal(record.pose[:, 2, 3], np.arange(70))
    assert (record.latent.dtype, record.timestamp_ns.dtype) == (np.float32, np.int64)
    assert record.attrs["model_sha256"] == model.spec.sha256
    assert record.attrs["source"] == "memory"
    assert record.attrs["clock"] == "file"
    assert sorted(path.parent.iterdir()) == [path]  # no temporary file stays


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_without_pose_or_depth(model: Model, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"z{suffix}"
    stream.run(MemorySource(3, pose=False, depth=False), model, [open_record(path)])
    record = read_latents(path)
    assert record.pose is None
    assert len(record) == 3


def test_hdf5_attributes_and_data_sets(model: Model, info: RunInfo, tmp_path: Path) -> None:
    sink = open_record(tmp_path / "z.h5")
    sink.open(info)
    sink.write(make_row(model, 4))
    sink.write(make_row(model, 5, depth=False))
    sink.close()
    with h5py.File(tmp_path / "z.h5") as file:
        attrs = dict(file.attrs)
        assert attrs["format_version"] == 1
        assert attrs["live"] == np.False_
        assert attrs["model"] == "tiny"
        assert attrs["latent_dim"] == 8
        assert json.loads(attrs["depth_encoding"]) == {
            "encoding": "log",
            "min_m": 0.25,
            "max_m": 80.0,
            "no_reading": -1.0,
        }
        assert json.loads(attrs["intrinsics"])["fy"] == 31.0
        shapes = {name: (data.shape, data.dtype) for name, data in file.items()}
        assert shapes == {
            "latent": ((2, 8), np.float32),
            "timestamp_ns": ((2,), np.int64),
            "arrival_ns": ((2,), np.int64),
            "frame": ((2,), np.int64),
            "pose": ((2, 4, 4), np.float64),
            "depth_valid": ((2,), np.float32),
        }
        np.testing.assert_array_equal(file["depth_valid"], np.array([0.75, np.nan], np.float32))


def test_jsonl_line_stands_on_its_own(model: Model, info: RunInfo, tmp_path: Path) -> None:
    sink = open_record(tmp_path / "z.jsonl")
    sink.open(info)
    row = make_row(model, 4)
    sink.write(row)
    # No flush, no close: a line is in the file as soon as it is written.
    line = json.loads((tmp_path / "z.jsonl").read_text())
    assert line["frame"] == 4
    assert line["clock"] == "file"
    assert line["depth_valid"] == 0.75
    np.testing.assert_array_equal(np.array(line["latent"], np.float32), row.latent)
    assert line["pose"][2][3] == 4
    sink.close()


def test_jsonl_refuses_numbers_that_json_does_not_know(model: Model, info: RunInfo, tmp_path: Path) -> None:
    sink = open_record(tmp_path / "z.jsonl")
    sink.open(info)
    row = make_row(model, 0)
    row.latent[3] = np.nan
    with pytest.raises(RecordError, match="frame 0 has NaN"):
        sink.write(row)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_appears_before_the_first_row(info: RunInfo, tmp_path: Path, suffix: str) -> None:
    sink = open_record(tmp_path / f"z{suffix}")
    sink.open(info)
    sink.flush()
    sink.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_record_is_never_touched(model: Model, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"z{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(RecordError, match=rf"z{suffix} exists; choose another name or pass --overwrite\.$"):
        stream.run(MemorySource(3), model, [open_record(path)])
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_made_after_opening_is_not_touched_either(
    model: Model, info: RunInfo, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"z{suffix}"
    sink = open_record(path)
    sink.open(info)
    path.write_bytes(b"precious")
    with pytest.raises(RecordError, match="exists"):
        sink.write(make_row(model, 0))
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_overwrite_replaces_only_once_the_new_record_has_started(
    model: Model, info: RunInfo, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"z{suffix}"
    path.write_bytes(b"old")
    sink = open_record(path, overwrite=True)
    sink.open(info)
    assert path.read_bytes() == b"old"
    sink.write(make_row(model, 0))
    sink.close()
    assert len(read_latents(path)) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["z.txt", "z", "z.h5.gz", "z.mcap"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match=r"wanted \.jsonl \(text\) or \.h5"):
        open_record(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_that_cannot_be_made(info: RunInfo, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        open_record(tmp_path / "file" / f"z{suffix}").open(info)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_in_place_of_the_record(info: RunInfo, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"z{suffix}").mkdir()
    with pytest.raises(RecordError, match="is a folder"):
        open_record(tmp_path / f"z{suffix}", overwrite=True).open(info)


def test_a_growing_hdf5_record_is_readable(model: Model, info: RunInfo, tmp_path: Path) -> None:
    path = tmp_path / "z.h5"
    sink = open_record(path)
    sink.open(info)
    for i in range(100):
        sink.write(make_row(model, i))
        if i in (0, 40, 80):
            sink.flush()
            assert len(read_latents(path)) == i + 1
    sink.close()


def test_hdf5_rows_wait_no_longer_than_the_flush_interval(
    model: Model, info: RunInfo, tmp_path: Path
) -> None:
    path = tmp_path / "z.h5"
    sink = open_record(path)
    sink.open(info)
    for i in range(31):
        sink.write(make_row(model, i))
    assert len(read_latents(path)) == 31  # the first alone, then a block of 30
    sink.write(make_row(model, 31))
    time.sleep(0.55)
    sink.write(make_row(model, 32))
    assert len(read_latents(path)) == 33
    sink.close()


def test_the_file_is_no_larger_than_its_rows(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.h5"
    stream.run(MemorySource(10), model, [open_record(path)])
    assert path.stat().st_size < 200_000  # the megabyte claimed ahead is given back


RUN = """
import sys
from edgevae.cli import main
sys.exit(main(sys.argv[1:]))
"""

FULL_DISK = """
import resource, sys
from edgevae.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill_leaves_a_readable_record(tiny_model_path: Path, tmp_path: Path, suffix: str) -> None:
    path, full = tmp_path / f"killed{suffix}", tmp_path / f"full{suffix}"
    process = start(
        RUN, "stream", "--camera", "synthetic:3", "--model", tiny_model_path, "--record", path, "--quiet"
    )
    deadline_s = time.monotonic() + 30
    rows = 0
    while rows < 35 and time.monotonic() < deadline_s:
        time.sleep(0.05)
        rows = len(read_latents(path)) if path.exists() else 0
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = read_latents(path)
    assert len(killed) >= rows >= 35
    rows = len(killed)
    with start(
        RUN, "embed", "synthetic:3", "--model", tiny_model_path, "-o", full, "--quiet"
    ) as process:  # a run that ends well
        while not (full.exists() and len(read_latents(full)) > rows):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0
    whole = read_latents(full)
    np.testing.assert_array_equal(killed.latent, whole.latent[:rows])
    np.testing.assert_array_equal(killed.timestamp_ns, whole.timestamp_ns[:rows])
    np.testing.assert_array_equal(killed.frame, np.arange(rows))
    assert killed.pose is not None
    assert whole.pose is not None
    np.testing.assert_array_equal(killed.pose, whole.pose[:rows])


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files by the POSIX call")
@pytest.mark.parametrize(("suffix", "limit"), [(".jsonl", 30_000), (".h5", 1_140_000)])
def test_a_full_disk_ends_in_one_sentence_and_a_readable_record(
    tiny_model_path: Path, tmp_path: Path, suffix: str, limit: int
) -> None:
    # 30 KB are some 50 lines; 1.14 MB are the megabyte that HDF5's record claims, and a few blocks.
    path = tmp_path / f"z{suffix}"
    process = start(FULL_DISK, limit, "embed", "synthetic", "--model", tiny_model_path, "-o", path, "--quiet")
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        complaint == f"edgevae: cannot write {path}: File too large; check the disk or choose another path.\n"
    )
    record = read_latents(path)
    assert len(record) >= 20
    np.testing.assert_array_equal(record.frame, np.arange(len(record)))
    assert np.abs(record.latent).min() > 0
