"""Reading records: whole ones are covered with the sinks; here, damaged, foreign and mixed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edgevae.errors import RecordError
from edgevae.frame import Intrinsics
from edgevae.latents import read_latents


def line(number: int, size: int = 4, **changes: Any) -> str:
    row = {"frame": number, "timestamp_ns": number * 10, "latent": [float(number)] * size, **changes}
    return json.dumps(row) + "\n"


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "z.jsonl"
    path.write_text(line(0) + line(1) + line(2)[:-5])
    record = read_latents(path)
    np.testing.assert_array_equal(record.frame, [0, 1])
    assert record.latent.shape == (2, 4)
    assert record.pose is None
    assert record.attrs == {}


def test_poses_of_some_frames(tmp_path: Path) -> None:
    path = tmp_path / "z.jsonl"
    path.write_text(line(0, pose=np.eye(4).tolist()) + line(1, pose=None))
    pose = read_latents(path).pose
    assert pose is not None
    np.testing.assert_array_equal(pose[0], np.eye(4))
    assert np.isnan(pose[1]).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no complete row"),
        (line(0)[:-1], "holds no complete row"),
        ("not json\n", "line 1, is not a row"),
        (line(0) + "{}\n", "line 2, is not a row of a record: it has no 'frame'"),
        ("[1, 2]\n", "it is a list, wanted an object"),
        (line(0, size=0), r"its latent has shape \(0,\)"),
        (line(0, latent=[[1.0]]), r"its latent has shape \(1, 1\)"),
        (line(0, latent=["a"]), "is not a row"),
        (line(0, latent=None), "is not a row"),
        (line(0, frame=None), "is not a row"),
        (line(0, pose=[1, 2]), r"its pose has shape \(2,\)"),
        (line(0) + line(1, size=5), r"mixes latents of lengths \[4, 5\]"),
        ("\xff\xfe\n", "is not a row"),
    ],
)
def test_wrong_jsonl(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "z.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match=sentence):
        read_latents(path)


def make_hdf5(path: Path, **changes: Any) -> None:
    data: dict[str, Any] = {
        "latent": np.ones((5, 3), np.float32),
        "timestamp_ns": np.arange(5),
        "frame": np.arange(5),
        "pose": np.full((5, 4, 4), np.nan),
        **changes,
    }
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in data.items():
            if values is not None:
                file[name] = values


def test_the_shortest_length_counts(tmp_path: Path) -> None:
    make_hdf5(tmp_path / "z.h5", frame=np.arange(3), latent=np.ones((4, 3), np.float32))
    record = read_latents(tmp_path / "z.h5")
    assert record.latent.shape == (3, 3)
    assert len(record.timestamp_ns) == len(record.frame) == 3
    assert record.pose is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latent": None}, "has no data set 'latent'"),
        ({"pose": np.zeros((5, 3))}, r"'pose' has shape \(5, 3\), wanted \(N, 4, 4\)"),
        ({"latent": np.zeros(5)}, r"'latent' has shape \(5,\), wanted \(N, D\)"),
        ({"frame": np.int64(3)}, r"'frame' has shape \(\)"),
        ({"latent": np.array([[b"a"]] * 5)}, "does not hold numbers"),
    ],
)
def test_hdf5_that_is_no_record(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    make_hdf5(tmp_path / "z.h5", **changes)
    with pytest.raises(RecordError, match=sentence):
        read_latents(tmp_path / "z.h5")


def test_an_older_layout_of_hdf5_is_read_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "z.h5", "w", libver="earliest") as file:  # cannot be opened for SWMR
        file["latent"], file["timestamp_ns"] = np.ones((2, 3), np.float32), np.arange(2)
        file["frame"], file["pose"] = np.arange(2), np.full((2, 4, 4), np.nan)
    assert len(read_latents(tmp_path / "z.h5")) == 2


@pytest.mark.parametrize(
    "content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(500)]
)
def test_a_foreign_or_torn_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "z.h5").write_bytes(content)
    with pytest.raises(RecordError, match=r"z\.h5 is not a readable HDF5 record"):
        read_latents(tmp_path / "z.h5")


def test_a_torn_record(tmp_path: Path) -> None:
    make_hdf5(tmp_path / "z.h5")
    content = (tmp_path / "z.h5").read_bytes()
    (tmp_path / "z.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(RecordError, match="is not a readable HDF5 record"):
        read_latents(tmp_path / "z.h5")


@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_a_torn_copy_of_a_record_whose_writer_was_killed(tmp_path: Path, part: float) -> None:
    make_hdf5(tmp_path / "z.h5")
    with h5py.File(tmp_path / "z.h5", "r+", libver="latest") as file:
        file.swmr_mode = True
        file.flush()
        content = (tmp_path / "z.h5").read_bytes()  # as it would be left: marked as being written
    (tmp_path / "killed.h5").write_bytes(content)
    assert len(read_latents(tmp_path / "killed.h5")) == 5
    (tmp_path / "torn.h5").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(RecordError, match="it is cut off"):
        read_latents(tmp_path / "torn.h5")


def test_missing_folder_and_suffix(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"z\.h5 does not exist, wanted a record .*parquet"):
        read_latents(tmp_path / "z.h5")
    with pytest.raises(RecordError, match="is a folder"):
        read_latents(tmp_path)
    (tmp_path / "z.npy").touch()
    with pytest.raises(RecordError, match=r"suffix '\.npy'"):
        read_latents(tmp_path / "z.npy")


CAMERA = {"fx": 30.0, "fy": 31.0, "cx": 15.5, "cy": 11.5, "width": 32, "height": 24, "distortion": [0.1, 0.0]}


def test_intrinsics_come_back(tmp_path: Path) -> None:
    path = tmp_path / "z.jsonl"
    path.write_text(line(0, intrinsics=CAMERA) + line(1, intrinsics=CAMERA))
    assert read_latents(path).intrinsics == Intrinsics(30.0, 31.0, 15.5, 11.5, 32, 24, (0.1, 0.0))
    path.write_text(line(0))
    assert read_latents(path).intrinsics is None


@pytest.mark.parametrize(
    ("camera", "sentence"),
    [
        ([1, 2], "its intrinsics are a list"),
        ({"fx": 1.0}, "its intrinsics lack 'fy'"),
        ({**CAMERA, "fx": 0.0}, "no camera's"),
        ({**CAMERA, "cx": None}, "is not a row"),
        ({**CAMERA, "cy": float("nan")}, "no camera's"),
        ({**CAMERA, "width": 0}, "0x24 pixels"),
        ({**CAMERA, "distortion": "abc"}, "is not a row"),
    ],
)
def test_intrinsics_that_are_none(tmp_path: Path, camera: Any, sentence: str) -> None:
    path = tmp_path / "z.jsonl"
    path.write_text(line(0, intrinsics=camera))
    with pytest.raises(RecordError, match=sentence):
        read_latents(path)
    with h5py.File(tmp_path / "z.h5", "w") as file:
        for name, shape in {"latent": (1, 4), "timestamp_ns": (1,), "frame": (1,), "pose": (1, 4, 4)}.items():
            file[name] = np.zeros(shape)
        file.attrs["intrinsics"] = json.dumps(camera)
    with pytest.raises(RecordError, match="is not a readable HDF5 record"):
        read_latents(tmp_path / "z.h5")
