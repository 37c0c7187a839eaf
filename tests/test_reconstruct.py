"""``edgevae reconstruct`` and ``stream --map``: poses of every kind, whole files, one sentence a mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from memory_source import MemorySource, make_frame
from test_mapping import read_ply

import edgevae
from edgevae import stream
from edgevae.cli import main
from edgevae.errors import LatentError, RecordError
from edgevae.frame import Frame, Intrinsics
from edgevae.latents import read_latents
from edgevae.mapping.builder import MapSettings, check_decodes_metres
from edgevae.model import Model
from edgevae.preprocess import DepthEncoding
from edgevae.reconstruct import reconstruct
from edgevae.sinks.map import MapSink

pytest.importorskip("open3d")

FRAMES = 12
STREET = ("--voxel", "0.25", "--max-depth", "30")
SETTINGS = MapSettings(voxel_m=0.25, max_depth_m=30.0)


@pytest.fixture(scope="module")
def model() -> Model:
    """The shipped one: what it decodes to has surfaces, which random weights do not."""
    return edgevae.load(threads=1)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "z.h5"
    stream_arguments = ["stream", "--camera", "synthetic:3", "--frames", str(FRAMES), "--record", str(path)]
    assert main([*stream_arguments, "--quiet"]) == 0
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def points_of(path: Path) -> np.ndarray:
    _, vertices, _ = read_ply(path)
    return np.stack([vertices[name] for name in "xyz"], axis=1)


def trajectory(record: Path, path: Path, *, shift_s: float = 0.0, every: int = 1) -> Path:
    """The record's poses as a TUM trajectory."""
    latents = read_latents(record)
    assert latents.pose is not None
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for stamp_ns, pose in list(zip(latents.timestamp_ns, latents.pose, strict=True))[::every]:
        axis = cv2.Rodrigues(pose[:3, :3])[0].ravel()
        angle = np.linalg.norm(axis)
        vector = np.sin(angle / 2) * axis / max(angle, 1e-12)
        numbers = [*pose[:3, 3], *vector, np.cos(angle / 2)]
        lines.append(f"{stamp_ns / 1e9 + shift_s:.4f} " + " ".join(f"{number:.9f}" for number in numbers))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_poses_of_the_record_and_of_a_file_give_one_map(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reconstruct", record, "-o", tmp_path / "a.ply", *STREET) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"from {FRAMES} frames, voxels of 0.25 m" in said.out
    poses = trajectory(record, tmp_path / "poses.txt")
    assert run("reconstruct", record, "-o", tmp_path / "b.ply", "--poses", poses, *STREET) == 0
    sparse = trajectory(record, tmp_path / "sparse.txt", every=2)  # every second is between two poses
    assert run("reconstruct", record, "-o", tmp_path / "c.ply", "--poses", sparse, *STREET) == 0
    assert "1 frame without a pose" in capsys.readouterr().err  # the last
    a, b, c = (points_of(tmp_path / f"{name}.ply") for name in "abc")
    assert len(a) > 1000
    from edgevae.mapping.map_error import nearest_m

    # Stamps in tenths of a millisecond move a camera at 8 m/s by less than a millimetre.
    assert np.percentile(nearest_m(b, a), 99) < 0.01
    assert np.median(nearest_m(c, a)) < 0.02
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.ply", "b.ply", "c.ply", "poses.txt", "sparse.txt",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".mcap"])
def test_every_kind_of_record_gives_the_same_map(record: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".mcap":
        pytest.importorskip("mcap_protobuf")
    other = tmp_path / f"z{suffix}"
    arguments = ("--frames", FRAMES, "--record", other, "--quiet")
    assert run("stream", "--camera", "synthetic:3", *arguments) == 0
    assert read_latents(other).intrinsics == read_latents(record).intrinsics
    for path, name in ((record, "a.ply"), (other, "b.ply")):
        assert run("reconstruct", path, "-o", tmp_path / name, *STREET) == 0
    np.testing.assert_array_equal(points_of(tmp_path / "a.ply"), points_of(tmp_path / "b.ply"))


def test_against_the_frames_it_was_made_from(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = tmp_path / "a.ply", tmp_path / "a.json"
    arguments = ("--reference", "synthetic:3", "--json", report, "--mesh", *STREET)
    assert run("reconstruct", record, "-o", path, *arguments) == 0
    assert "against the camera's own frames: median 0." in capsys.readouterr().out
    document = json.loads(report.read_text())
    error = document["error"]
    assert 0.01 < error["median_m"] < error["p95_m"]
    assert error["median_m"] < 2.0  # the street's walls, not just anything
    assert 0.1 < error["completeness"] <= 1.0
    assert error["within_m"] == 0.25
    assert error["reference_points"] > 1000
    assert document["frames"] == {
        "fused": FRAMES, "without_pose": 0, "without_depth": 0, "lost": 0, "beyond_limit": 0,
    }  # fmt: skip
    _, vertices, faces = read_ply(path)
    assert faces is not None
    assert (len(vertices), len(faces)) == (document["points"], document["faces"])


def test_without_poses_odometry_warns(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One picture over and over: odometry stands still, and the map is that of one view."""
    frame = edgevae.open_source("synthetic:3").read()
    assert frame is not None
    still = Frame(frame.rgb, frame.depth, intrinsics=frame.intrinsics)
    source = MemorySource(6, actions={i: lambda: still for i in range(6)})
    from edgevae.sinks import open_record

    stream.run(source, model, [open_record(tmp_path / "z.jsonl")])
    assert run("reconstruct", tmp_path / "z.jsonl", "-o", tmp_path / "a.ply", *STREET) == 0
    assert "warning: poses come from odometry" in capsys.readouterr().err
    assert np.abs(points_of(tmp_path / "a.ply")).max() < 40


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no pose"),
        ("# only a comment\n", "holds no pose"),
        ("hello\n", "line 1 is 'hello', wanted 'stamp tx ty tz qx qy qz qw'"),
        ("0.0 0 0 0 0 0 0 0\n", "has no rotation"),
        ("0.0 0 0 x 0 0 0 1\n", "wanted numbers"),
        ("0.0 0 0 nan 0 0 0 1\n", "not finite"),
        ("now 0 0 0 0 0 0 1\n", "time stamp 'now'"),
        ("1e40 0 0 0 0 0 0 1\n", "time stamp '1e40'"),
        ("inf 0 0 0 0 0 0 1\n", "time stamp 'inf'"),
        ("99.0 0 0 0 0 0 0 1\n", "its stamps are 99.000 to 99.000 s, the record's 0.000 to 0.367 s"),
        ("\x00\udcff\n", "cannot read"),
        (None, "cannot read"),
    ],
)
def test_nonsense_poses(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "poses.txt").write_bytes(text.encode(errors="surrogateescape"))
    assert run("reconstruct", record, "-o", tmp_path / "a.ply", "--poses", tmp_path / "poses.txt") == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "a.ply").exists()


def without(record: Path, path: Path, *keys: str) -> Path:
    """The record as JSON lines, without some of their fields."""
    latents = read_latents(record)
    assert latents.pose is not None
    with path.open("w") as file:
        for i in range(len(latents)):
            row = {
                "frame": i,
                "timestamp_ns": int(latents.timestamp_ns[i]),
                "latent": latents.latent[i].tolist(),
                "pose": latents.pose[i].tolist(),
                "model_sha256": latents.attrs["model_sha256"],
            }
            file.write(json.dumps({key: value for key, value in row.items() if key not in keys}) + "\n")
    return path


def test_a_record_without_a_camera(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = without(record, tmp_path / "z.jsonl")
    assert run("reconstruct", bare, "-o", tmp_path / "a.ply", *STREET) == 2
    said = capsys.readouterr().err
    assert "no intrinsics); give them with --intrinsics camera.json" in said
    assert said.count("\n") == 1
    camera = read_latents(record).intrinsics
    assert camera is not None
    names = ("width", "height", "fx", "fy", "cx", "cy")
    (tmp_path / "camera.json").write_text(json.dumps({name: getattr(camera, name) for name in names}))
    arguments = ("--intrinsics", tmp_path / "camera.json", *STREET)
    assert run("reconstruct", bare, "-o", tmp_path / "a.ply", *arguments) == 0
    assert run("reconstruct", record, "-o", tmp_path / "b.ply", *STREET) == 0
    np.testing.assert_array_equal(points_of(tmp_path / "a.ply"), points_of(tmp_path / "b.ply"))
    assert run("reconstruct", bare, "-o", tmp_path / "c.ply", "--intrinsics", tmp_path / "no.json") == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-o", "{}/a.obj"], "wanted .ply"),
        (["-o", "{}/old.ply"], "exists; choose another name or pass --overwrite"),
        (["-o", "{}/folder.ply"], "is a folder"),
        (["-o", "{}/a.ply", "--voxel", "0"], "voxels of 0 m"),
        (["-o", "{}/a.ply", "--voxel", "nan"], "voxels of nan m"),
        (["-o", "{}/a.ply", "--max-depth", "-1"], "wanted a positive number"),
        (["-o", "{}/a.ply", "--max-depth", "0.3"], "no depth to trust within 0.3 m"),
        (["-o", "{}/a.ply", "--memory", "0"], "wanted a positive number"),
        (["-o", "{}/a.ply", "--truncation", "0.001"], "a truncation of 0.001 m"),
        (["-o", "{}/a.ply", "--truncation", "0"], "a truncation of 0 m"),
        (["-o", "{}/a.ply", "--json", "{}/folder.ply"], "folder.ply is a folder, wanted the name of a file"),
        (["-o", "{}/a.ply", "--reference", "{}/pictures"], "no frame with depth at a time of the record"),
        (["-o", "{}/a.ply", "--reference", "tum:nowhere"], "no folder nowhere"),
        (["-o", "{}/old.ply/a.ply"], "cannot write"),
    ],
)
def test_mistakes(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    (tmp_path / "old.ply").write_text("precious")
    (tmp_path / "folder.ply").mkdir()
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), np.zeros((24, 32, 3), np.uint8))
    assert run("reconstruct", record, *(text.format(tmp_path) for text in arguments)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert (tmp_path / "old.ply").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.ply", "old.ply", "pictures"]


def test_several_sources_are_no_scene(model: Model, record: Path, tmp_path: Path) -> None:
    latents = replace(read_latents(record), sources=("tum:a", "tum:b"))
    with pytest.raises(RecordError, match="holds 2 sources, tum:a among them; a map is of one scene"):
        reconstruct(latents, model, tmp_path / "a.ply", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_models_that_decode_to_no_metres(model: Model) -> None:
    for depth in (None, DepthEncoding("minmax")):
        with pytest.raises(LatentError, match="wants a model that decodes to metres"):
            check_decodes_metres(replace(model.spec, input=replace(model.spec.input, depth=depth)))


KILLED_AT_THE_LAST_STEP = """
import os, signal, sys
from edgevae.cli import main
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""

FULL_DISK = """
import resource, sys
from edgevae.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(sys.argv[1:]))
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_kill_leaves_the_old_map(record: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_text("precious")
    done = child(KILLED_AT_THE_LAST_STEP, "reconstruct", record, "-o", path, "--overwrite", *STREET)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "precious"
    (left,) = [name for name in tmp_path.iterdir() if name != path]
    assert left.name.startswith(".a.ply.")  # hidden, and whole, as it happens
    read_ply(left)


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files by the POSIX call")
def test_a_full_disk_ends_in_one_sentence(record: Path, tmp_path: Path) -> None:
    done = child(FULL_DISK, "reconstruct", record, "-o", tmp_path / "a.ply", *STREET)
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_stream_gives_the_map_of_its_record(record: Path, tmp_path: Path) -> None:
    path, stats = tmp_path / "new" / "a.ply", tmp_path / "s.json"
    arguments = ("--map-voxel", 0.25, "--map-max-depth", 30, "--map-error", "--stats", stats, "--quiet")
    assert run("stream", "--camera", "synthetic:3", "--frames", FRAMES, "--map", path, *arguments) == 0
    assert run("reconstruct", record, "-o", tmp_path / "b.ply", *STREET) == 0
    np.testing.assert_allclose(points_of(path), points_of(tmp_path / "b.ply"), atol=1e-4)
    report = json.loads(stats.read_text())["map"]
    assert report["frames"]["fused"] == FRAMES
    assert report["poses"] == "given"
    assert report["error"]["completeness"] > 0.1


def test_an_interrupted_stream_writes_the_map_whole(tmp_path: Path) -> None:
    path, record = tmp_path / "a.ply", tmp_path / "z.jsonl"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "edgevae", "stream", "--camera", "synthetic:3", "--quiet"),
            *("--map", str(path), "--map-voxel", "0.25", "--map-max-depth", "30", "--record", str(record)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 120
    while not (record.exists() and len(read_latents(record)) >= 10) and time.monotonic() < deadline_s:
        assert process.poll() is None, process.communicate()
        assert not path.exists()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=120)
    assert (process.returncode, complaint) == (0, "")
    assert f"wrote {path}" in said
    assert len(points_of(path)) > 1000
    assert sorted(tmp_path.iterdir()) == [path, record]


def posed(index: int, *, pose: bool) -> Frame:
    frame = edgevae.open_source("synthetic:3").frame(index)  # type: ignore[attr-defined]
    return Frame(
        frame.rgb, frame.depth, timestamp_ns=frame.timestamp_ns, clock="file", index=index,
        intrinsics=frame.intrinsics, pose=frame.pose if pose else None,
    )  # fmt: skip


def test_without_poses_a_stream_follows_the_cameras_own_frames(model: Model, tmp_path: Path) -> None:
    def sink(name: str) -> MapSink:
        return MapSink(tmp_path / f"{name}.ply", SETTINGS)

    free, given = sink("free"), sink("given")
    count = 10
    for each, pose in ((free, False), (given, True)):
        actions = {i: (lambda i=i, pose=pose: posed(i, pose=pose)) for i in range(count)}
        stream.run(MemorySource(count, actions=actions), model, [each])
    assert free.report is not None
    assert free.report["poses"] == "odometry"
    assert free.report["frames"]["fused"] == count
    assert "poses come from odometry" in free.warnings[0]
    assert given.warnings == []
    # The same map in another frame: that of the first camera.
    first = posed(0, pose=True).pose
    assert first is not None
    there = points_of(tmp_path / "free.ply") @ first[:3, :3].T.astype(np.float32) + first[:3, 3]
    from edgevae.mapping.map_error import nearest_m

    # The camera went 2.5 m. Points of one surface on two grids that stand askew lie up to half a voxel apart.
    off_m = nearest_m(there.astype(np.float32), points_of(tmp_path / "given.ply"))
    assert np.median(off_m) < 0.125


def test_poses_that_come_late_begin_the_map_anew(model: Model, tmp_path: Path) -> None:
    late = MapSink(tmp_path / "late.ply", SETTINGS)
    actions = {i: (lambda i=i: posed(i, pose=i >= 4)) for i in range(12)}
    actions[8] = lambda: posed(8, pose=False)
    stream.run(MemorySource(12, actions=actions), model, [late])
    assert late.report is not None
    assert late.report["poses"] == "given"
    assert late.report["frames"]["fused"] == 7
    assert late.report["frames"]["without_pose"] == 1
    assert any("1 frame without a pose" in text for text in late.warnings)


def test_a_camera_that_is_not_known(model: Model, tmp_path: Path) -> None:
    def unknown() -> Frame:
        frame = make_frame(0)
        frame.intrinsics = None
        return frame

    sink = MapSink(tmp_path / "a.ply", SETTINGS)
    with pytest.raises(RecordError, match="does not say which camera it is"):
        stream.run(MemorySource(3, actions={0: unknown}), model, [sink])
    assert list(tmp_path.iterdir()) == []


def test_a_stream_without_open3d_says_so_before_its_first_frame(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(RecordError, match=r'cannot map memory: .*pip install "edgevae\[map\]"'):
        stream.run(MemorySource(3), model, [MapSink(tmp_path / "a.ply", SETTINGS)])


def test_a_map_goes_on_after_close_and_open(model: Model, tmp_path: Path) -> None:
    sink, path = MapSink(tmp_path / "a.ply", SETTINGS), tmp_path / "a.ply"
    for begin in (0, 5):
        actions = {i: (lambda i=i + begin: posed(i, pose=True)) for i in range(5)}
        stream.run(MemorySource(5, actions=actions), model, [sink])  # its own file is no reason to refuse
        assert sink.rows == begin + 5
        assert sink.report is not None
        assert sink.report["frames"]["fused"] == begin + 5
        assert f"{sink.report['points']} points from {begin + 5} frames" in sink.wrote()
    written_ns = path.stat().st_mtime_ns
    sink.close()
    assert path.stat().st_mtime_ns == written_ns


def test_a_map_that_could_not_be_written_is_kept(model: Model, tmp_path: Path) -> None:
    sink = MapSink(tmp_path / "a.ply", SETTINGS)
    actions = {i: (lambda i=i: posed(i, pose=True)) for i in range(5)}

    def in_the_way() -> Frame:
        (tmp_path / "a.ply").mkdir()
        return posed(4, pose=True)

    actions[4] = in_the_way
    with pytest.raises(RecordError, match="is a folder"):
        stream.run(MemorySource(5, actions=actions), model, [sink])
    (tmp_path / "a.ply").rmdir()
    sink.close()  # the disk is well again
    assert len(points_of(tmp_path / "a.ply")) > 500


def test_a_file_made_in_the_meantime_is_kept(model: Model, tmp_path: Path) -> None:
    def in_the_way() -> Frame:
        (tmp_path / "a.ply").write_text("precious")
        return posed(2, pose=True)

    actions = {i: (lambda i=i: posed(i, pose=True)) for i in range(3)}
    actions[2] = in_the_way
    with pytest.raises(RecordError, match=r"a\.ply exists"):
        stream.run(MemorySource(3, actions=actions), model, [MapSink(tmp_path / "a.ply", SETTINGS)])
    assert (tmp_path / "a.ply").read_text() == "precious"


def test_a_map_that_fails_does_not_stop_the_record(model: Model, tmp_path: Path) -> None:
    """No intrinsics, so no map; the record beside it is whole."""

    def unknown(index: int) -> Frame:
        frame = make_frame(index)
        frame.intrinsics = None
        return frame

    from edgevae.sinks import open_record

    source = MemorySource(20, actions={i: (lambda i=i: unknown(i)) for i in range(20)})
    with pytest.raises(RecordError, match="does not say which camera it is"):
        stream.run(source, model, [open_record(tmp_path / "z.jsonl"), MapSink(tmp_path / "a.ply", SETTINGS)])
    assert len(read_latents(tmp_path / "z.jsonl")) == 20
    assert not (tmp_path / "a.ply").exists()


def test_the_real_sequence(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures of docs/reconstruction.md, with room for other processors' rounding."""
    sequence = f"tum:{data_dir / 'tum_fr1_rpy_100'}"
    assert run("stream", "--camera", sequence, "--record", tmp_path / "z.h5", "-q") == 0
    camera = read_latents(tmp_path / "z.h5").intrinsics
    assert camera == Intrinsics(
        517.3, 516.5, 318.6, 255.3, 640, 480, (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    )
    shutil.copy(data_dir / "tum_fr1_rpy_100" / "groundtruth.txt", tmp_path / "poses.txt")
    for name, more in (("own", ()), ("file", ("--poses", tmp_path / "poses.txt"))):
        arguments = ("--reference", sequence, "--json", tmp_path / f"{name}.json", "-q", *more)
        assert run("reconstruct", tmp_path / "z.h5", "-o", tmp_path / f"{name}.ply", *arguments) == 0
        error = json.loads((tmp_path / f"{name}.json").read_text())["error"]
        assert error["median_m"] == pytest.approx(0.081, abs=0.008)
        assert error["p95_m"] == pytest.approx(0.341, abs=0.03)
        assert error["completeness"] == pytest.approx(0.470, abs=0.03)
