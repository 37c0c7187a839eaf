"""MCAP records, read back by the library's own reader and Foxglove's schemas that the file carries."""

from __future__ import annotations

import builtins
import errno
import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from memory_source import MemorySource, make_frame

pytest.importorskip("mcap")

from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory

import edgevae
from edgevae import stream
from edgevae.cli import main
from edgevae.errors import EdgevaeError, RecordError
from edgevae.latents import read_latents
from edgevae.mcap_file import McapScan
from edgevae.model import Model
from edgevae.repair import repair
from edgevae.sinks import Row, RunInfo, open_record
from edgevae.sinks.mcap import McapSink

START_NS = 1_000_000_000


@pytest.fixture
def info(model: Model) -> RunInfo:
    return RunInfo("memory", False, model.spec)


def make_row(model: Model, index: int, **frame: Any) -> Row:
    picture = make_frame(index, **frame)
    latent = model.encode(picture.rgb, picture.depth)
    return Row.of(picture, latent, model.decode(latent))


def contents(path: Path) -> dict[str, list[tuple[Any, Any, Any]]]:
    """Schema, message record and decoded message of every message, by topic."""
    found: dict[str, list[tuple[Any, Any, Any]]] = {}
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            found.setdefault(channel.topic, []).append((schema, message, decoded))
    return found


def test_everything_is_there_by_the_librarys_own_reader(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    stream.run(MemorySource(20), model, [open_record(path, pictures=None)])
    found = contents(path)
    schemas = {topic: messages[0][0].name for topic, messages in found.items()}
    assert schemas == {
        "/latent": "edgevae.Latent",
        "/camera/color": "foxglove.CompressedImage",
        "/camera/depth": "foxglove.RawImage",
        "/camera/calibration": "foxglove.CameraCalibration",
        "/camera/pose": "foxglove.FrameTransform",
        "/reconstruction/color": "foxglove.CompressedImage",
        "/reconstruction/depth": "foxglove.RawImage",
        "/reconstruction/calibration": "foxglove.CameraCalibration",
    }
    for i in range(20):
        frame = make_frame(i)
        latent = model.encode(frame.rgb, frame.depth)
        decoded = model.decode(latent)
        rows = {topic: messages[i] for topic, messages in found.items()}
        for topic, (_, message, parsed) in rows.items():
            assert message.log_time == message.publish_time == frame.timestamp_ns
            assert message.sequence == i
            if topic != "/latent":
                assert parsed.timestamp.ToNanoseconds() == frame.timestamp_ns
        color, depth = rows["/camera/color"][2], rows["/camera/depth"][2]
        assert (color.format, color.frame_id) == ("jpeg", "camera")
        _, wanted = cv2.imencode(".jpg", frame.rgb[..., ::-1].copy(), [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert color.data == wanted.tobytes()
        assert (depth.encoding, depth.width, depth.height, depth.step) == ("16UC1", 32, 24, 64)
        np.testing.assert_array_equal(np.frombuffer(depth.data, "<u2").reshape(24, 32), frame.depth)
        camera = rows["/camera/calibration"][2]
        assert list(camera.K) == [30.0, 0, 15.5, 0, 31.0, 11.5, 0, 0, 1]
        assert list(camera.P) == [30.0, 0, 15.5, 0, 0, 31.0, 11.5, 0, 0, 0, 1, 0]
        assert (camera.width, camera.height, list(camera.D)) == (32, 24, [])
        pose = rows["/camera/pose"][2]
        assert (pose.parent_frame_id, pose.child_frame_id) == ("world", "camera")
        assert (pose.translation.z, pose.rotation.w, pose.rotation.x) == (i, 1.0, 0.0)
        small = rows["/reconstruction/depth"][2]
        assert small.encoding == "16UC1"
        assert decoded.depth is not None
        millimetres = np.frombuffer(small.data, "<u2").reshape(32, 32)
        np.testing.assert_allclose(millimetres, np.minimum(decoded.depth * 1000, 65535), atol=0.51)
        assert rows["/reconstruction/calibration"][2].width == 32
        row = rows["/latent"][2]
        np.testing.assert_array_equal(np.array(row.latent, np.float32), latent)
        assert (row.frame, row.timestamp_ns, row.clock) == (i, frame.timestamp_ns, "file")
        assert row.model_sha256 == model.spec.sha256
        assert row.depth_valid == pytest.approx(0.75)
        np.testing.assert_array_equal(np.reshape(row.pose, (4, 4)), frame.pose)


def test_the_runs_facts(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    stream.run(MemorySource(3), model, [open_record(path)])
    with path.open("rb") as file:
        reader = make_reader(file)
        (facts,) = reader.iter_metadata()
        assert reader.get_header().library == f"edgevae {edgevae.__version__}"
    assert facts.name == "edgevae"
    assert facts.metadata["model"] == "tiny"
    assert facts.metadata["model_sha256"] == model.spec.sha256
    assert facts.metadata["source"] == "memory"
    assert facts.metadata["live"] == "false"
    assert json.loads(facts.metadata["depth_encoding"])["encoding"] == "log"
    assert json.loads(facts.metadata["intrinsics"])["fy"] == 31.0
    attrs = read_latents(path).attrs
    assert (attrs["live"], attrs["latent_dim"], attrs["depth_scale"]) == (False, 8, 0.001)


def test_latents_alone_are_small_and_need_no_pictures(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    sink = open_record(path)
    assert sink.needs_pictures is False
    stream.run(MemorySource(50, pose=False), model, [sink])
    assert set(contents(path)) == {"/latent", "/camera/calibration"}
    assert path.stat().st_size < 30_000
    assert open_record(path, pictures=["depth"]).needs_pictures is True


@pytest.mark.parametrize(
    ("pictures", "topics"),
    [
        (["color-raw"], {"/camera/color"}),
        (["depth"], {"/camera/depth"}),
        (["reconstruction"], {f"/reconstruction/{name}" for name in ("color", "depth", "calibration")}),
    ],
)
def test_pictures_on_request(model: Model, tmp_path: Path, pictures: list[str], topics: set[str]) -> None:
    path = tmp_path / "z.mcap"
    stream.run(MemorySource(3), model, [open_record(path, pictures=pictures)])
    found = contents(path)
    assert set(found) == {"/latent", "/camera/calibration", "/camera/pose"} | topics
    if pictures == ["color-raw"]:
        raw = found["/camera/color"][2][2]
        assert raw.encoding == "rgb8"
        np.testing.assert_array_equal(np.frombuffer(raw.data, np.uint8).reshape(24, 32, 3), make_frame(2).rgb)


def test_what_a_frame_lacks_is_not_invented(model: Model, info: RunInfo, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    sink = open_record(path, pictures=None)
    sink.open(info)
    sink.write(make_row(model, 0, depth=False, pose=False))
    sink.close()
    found = contents(path)
    assert "/camera/depth" not in found
    assert "/camera/pose" not in found
    row = found["/latent"][0][2]
    assert list(row.pose) == []
    assert np.isnan(row.depth_valid)
    assert read_latents(path).pose is None


@pytest.mark.parametrize("pictures", [["colour"], ["color", "color-raw"], ["latent"]])
def test_unknown_pictures(tmp_path: Path, pictures: list[str]) -> None:
    with pytest.raises(RecordError, match="wanted some of color, color-raw, depth, reconstruction"):
        open_record(tmp_path / "z.mcap", pictures=pictures)


def test_the_command_line_chooses_pictures(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "z.mcap"
    run = [
        "stream",
        "--camera",
        "synthetic:3?size=64x48",
        "--frames",
        "5",
        "--model",
        str(tiny_model_path),
        "-q",
    ]
    assert main([*run, "--record", str(path), "--record-topics", "depth"]) == 0
    assert {"/camera/depth", "/latent"} <= set(contents(path))
    assert "/camera/color" not in contents(path)
    assert main([*run, "--record", str(path), "--record-topics", "none", "--overwrite"]) == 0
    assert "/camera/depth" not in contents(path)
    assert main([*run, "--record", str(path), "--overwrite"]) == 0
    assert "/reconstruction/color" in contents(path)
    capsys.readouterr()
    assert main([*run, "--record-topics", "depth"]) == 2
    assert "add --record FILE.mcap" in capsys.readouterr().err
    assert main([*run, "--record", str(tmp_path / "z.h5"), "--record-topics", "depth"]) == 2
    assert "z.h5 cannot hold pictures" in capsys.readouterr().err
    assert main(["decode", str(path), "-o", str(tmp_path / "out"), "--model", str(tiny_model_path)]) == 0
    assert len(list((tmp_path / "out" / "color").iterdir())) == 5


def test_every_chunk_ends_with_a_row(model: Model, info: RunInfo, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    sink = open_record(path, pictures=None)
    sink.open(info)
    sink.write(make_row(model, 0))
    assert len(read_latents(path)) == 1  # the first row is there at once
    for i in range(1, 30):
        sink.write(make_row(model, i))
        if i % 7 == 0:
            sink.flush()
            assert len(read_latents(path)) == i + 1
            scan = McapScan(path)
            counts: dict[str, int] = {}
            for record in scan:
                if hasattr(record, "channel_id"):
                    counts[scan.topic(record)] = counts.get(scan.topic(record), 0) + 1
            assert set(counts.values()) == {i + 1}
            assert scan.complete is False
    sink.close()
    sink.close()
    assert len(read_latents(path)) == 30


def test_pictures_do_not_pile_up(
    model: Model, info: RunInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevae.sinks.mcap.FLUSH_SECONDS", 1e9)
    sink = open_record(tmp_path / "z.mcap", pictures=["color-raw"])
    sink.open(info)
    for i in range(40):
        sink.write(make_row(model, i))
        assert sink.rows == len(read_latents(tmp_path / "z.mcap")) > i - 8
    sink.close()


def test_a_lost_source_is_logged(model: Model, info: RunInfo, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    sink = open_record(path)
    sink.open(info)
    rows: dict[int, Row] = {}
    sink.source_changed("no device yet.")
    sink.source_changed("")
    for i, lost in enumerate(("the cable was pulled.", "")):
        rows[i] = make_row(model, i, clock="host")  # stamped as it arrives, as the logs between rows are
        sink.write(rows[i])
        sink.source_changed(lost)
    sink.close()
    logs = [
        (message.log_time, log.level, log.message, log.name) for _, message, log in contents(path)["/log"]
    ]
    assert [(level, text) for _, level, text, _ in logs] == [
        (3, "the source was lost: no device yet."),
        (2, "the source is back"),
        (3, "the source was lost: the cable was pulled."),
        (2, "the source is back"),
    ]
    times = [at for at, _, _, _ in logs]  # on the camera's clock
    assert times[1] <= rows[0].timestamp_ns <= times[2] <= rows[1].timestamp_ns <= times[3]
    assert len(read_latents(path)) == 2


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size``, as the kernel sees to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("pictures", [["color-raw"], []])
def test_a_full_disk_leaves_a_complete_file(
    model: Model, info: RunInfo, tmp_path: Path, pictures: list[str]
) -> None:
    path = tmp_path / "z.mcap"
    sink = open_record(path, pictures=pictures)
    sink.open(info)
    with disk_full_at(60_000):
        with pytest.raises(RecordError, match=r"z\.mcap: File too large; check the disk"):  # noqa: PT012
            for i in range(1000):
                sink.write(make_row(model, i))
                sink.flush()
        sink.close()
        sink.close()
    assert sink.rows == i > 5
    np.testing.assert_array_equal(read_latents(path).frame, np.arange(i))
    assert len(contents(path)["/latent"]) == i  # by its index
    scan = McapScan(path)
    assert sum(1 for _ in scan) > i
    assert scan.complete
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_all_the_same_is_cut_back(
    model: Model, info: RunInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no room can be set aside, or a disk fails that had room."""
    path = tmp_path / "z.mcap"
    sink = open_record(path, pictures=["color-raw"])
    sink.open(info)
    sink.write(make_row(model, 0))
    whole = path.read_bytes()

    def not_supported(*arguments: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr("os.posix_fallocate", not_supported)
    with disk_full_at(len(whole) + 1000):
        sink.write(make_row(model, 1))
        with pytest.raises(RecordError, match="File too large"):
            sink.flush()
    sink.write(make_row(model, 2))
    with pytest.raises(RecordError, match="could not take a chunk before"):
        sink.close()
    assert path.read_bytes() == whole
    assert sink.rows == len(read_latents(path)) == 1
    found = repair(path)
    assert found.rows == 1
    assert found.output is not None
    assert len(contents(found.output)["/latent"]) == 1


def test_a_record_that_cannot_begin_leaves_nothing(model: Model, info: RunInfo, tmp_path: Path) -> None:
    path = tmp_path / "z.mcap"
    sink = open_record(path)
    sink.open(info)
    with disk_full_at(100), pytest.raises(RecordError, match="File too large"):
        sink.write(make_row(model, 0))
    sink.close()
    assert list(tmp_path.iterdir()) == []
    sink.open(info)  # the disk has room again
    sink.write(make_row(model, 1))
    sink.close()
    assert read_latents(path).frame.tolist() == [1]


def test_rotations_of_every_kind_survive() -> None:
    from edgevae.sinks.mcap_messages import quaternion
    from edgevae.trajectory import pose_matrix

    rng = np.random.default_rng(2)
    turns = [np.eye(4)[i] for i in range(4)] + list(rng.standard_normal((200, 4)))
    for turn in turns:
        wanted = pose_matrix(np.zeros(3), turn / np.linalg.norm(turn))
        got = np.array(quaternion(wanted[:3, :3]))
        assert got[3] >= 0
        np.testing.assert_allclose(pose_matrix(np.zeros(3), got), wanted, rtol=0, atol=1e-14)


def test_a_distortion_of_eight_numbers_plays_back(model: Model, tmp_path: Path) -> None:
    from edgevae.frame import Intrinsics

    numbers = tuple(0.01 * i for i in range(1, 9))

    def frame() -> Any:
        picture = make_frame(0)
        picture.intrinsics = Intrinsics(30.0, 31.0, 15.5, 11.5, 32, 24, numbers)
        return picture

    path = tmp_path / "z.mcap"
    stream.run(MemorySource(1, actions={0: frame}), model, [open_record(path, pictures=["color"])])
    (played,) = edgevae.open_source(str(path))
    assert played.intrinsics.distortion == numbers


def test_without_the_library_one_sentence(
    info: RunInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("mcap"):
            raise ModuleNotFoundError(f"No module named '{name}'", name="mcap")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(
        EdgevaeError, match=r'need mcap, which is not installed; pip install "edgevae\[mcap\]"'
    ):
        McapSink(tmp_path / "z.mcap").open(info)


def test_the_documented_schema_is_the_one_in_the_file(model: Model, tmp_path: Path) -> None:
    document = (Path(__file__).parents[1] / "docs" / "records.md").read_text()
    declared = document[document.index("message Latent {") : document.index("```\n\nAny MCAP library")]
    fields = re.findall(r"^  ((?:repeated )?\w+) (\w+) = (\d+);", declared, re.MULTILINE)
    path = tmp_path / "run.mcap"
    stream.run(MemorySource(2), model, [open_record(path)])
    _, _, row = contents(path)["/latent"][0]
    kinds = {1: "double", 2: "float", 6: "fixed64", 9: "string", 16: "sfixed64"}
    held = [
        (f"{'repeated ' if field.is_repeated else ''}{kinds[field.type]}", field.name, str(field.number))
        for field in row.DESCRIPTOR.fields
    ]
    assert fields == held
    for topic in contents(path):
        assert f"`{topic}`" in document


def test_the_documented_example_runs(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (Path(__file__).parents[1] / "docs" / "records.md").read_text()
    code = document.split("<!-- reading example -->\n```python\n")[1].split("```")[0]
    stream.run(MemorySource(3), model, [open_record(tmp_path / "run.mcap")])
    monkeypatch.chdir(tmp_path)
    exec(code)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown] == [
        [str(i), str(START_NS + i * 33_000_000)] for i in range(3)
    ]
