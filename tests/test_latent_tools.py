"""Latent-space tools against slow, obvious ones; on a recorded sequence near frames are nearer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

import edgevae
from edgevae.cli import main
from edgevae.errors import LatentError, RecordError
from edgevae.latent_tools import KINDS, distances, keyframes, nearest, novelty
from edgevae.latents import read_latents
from edgevae.select_rows import select_rows


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def obvious_distance(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if kind == "euclidean":
        return float(np.linalg.norm(a - b))
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_distances(rng: np.random.Generator, kind: str) -> None:
    a, b = rng.standard_normal((7, 20)), rng.standard_normal((5, 20)) + 1
    got = distances(a, b, kind=kind)
    assert (got.shape, got.dtype) == ((7, 5), np.float32)
    for i in range(7):
        for j in range(5):
            # float32: 20 products of about 1, each rounded to 6e-8
            assert got[i, j] == pytest.approx(obvious_distance(a[i], b[j], kind), abs=2e-6)
    same = distances(30 * a, 30 * a, kind=kind)
    assert np.abs(np.diag(same)).max() < 1e-5  # no cancellation near 0
    assert distances(np.zeros((1, 3)), np.ones((1, 3)))[0, 0] == 1.0


def test_nearest(rng: np.random.Generator, kind: str) -> None:
    z = rng.standard_normal((50, 8)).astype(np.float32)
    query = z[20]
    far = [obvious_distance(row, query, kind) for row in z]
    wanted = [row for row in np.argsort(far) if row not in range(18, 23)][:6]
    found = nearest(z, query, count=6, kind=kind, leave_out=range(18, 23))
    assert [match.row for match in found] == wanted
    assert [match.distance for match in found] == pytest.approx([far[row] for row in wanted], abs=1e-5)
    assert nearest(z, query, count=1, kind=kind)[0].row == 20
    assert len(nearest(z, query, count=500, kind=kind)) == 50
    twins = np.ones((4, 3), np.float32)
    assert [match.row for match in nearest(twins, twins[0], count=3)] == [0, 1, 2]


@pytest.mark.parametrize("gap", [0, 1, 7, 30])
def test_novelty(rng: np.random.Generator, kind: str, gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevae.latent_tools._BLOCK_ROWS", 4)
    z = rng.standard_normal((23, 6)).astype(np.float32)
    got = novelty(z, gap=gap, kind=kind)
    for i in range(23):
        before = [obvious_distance(z[i], z[j], kind) for j in range(i - gap)]
        if before:
            assert got[i] == pytest.approx(min(before), abs=2e-6)
        else:
            assert np.isnan(got[i])


def test_keyframes_are_the_farthest_points(rng: np.random.Generator, kind: str) -> None:
    z = rng.standard_normal((40, 6)).astype(np.float32)
    chosen = [0]
    for _ in range(9):
        away = [min(obvious_distance(row, z[c], kind) for c in chosen) for row in z]
        chosen.append(int(np.argmax(away)))
    np.testing.assert_array_equal(keyframes(z, count=10, kind=kind), sorted(chosen))
    threshold = 0.4 if kind == "cosine" else 2.5
    rows = keyframes(z, threshold=threshold, kind=kind)
    assert 1 < len(rows) < 40
    away = [min(obvious_distance(row, z[c], kind) for c in rows) for row in z]
    assert max(away) <= threshold + 1e-6
    assert len(keyframes(z, count=500, kind=kind)) == 40
    assert keyframes(np.ones((9, 4)), count=5).tolist() == [0]  # there is only one scene
    assert keyframes(z[:1], count=1).tolist() == [0]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda z: distances(z, z[:, :3]), "have 6 and 3 numbers"),
        (lambda z: distances(z[0], z), r"latents are \(6,\), wanted \(N, D\)"),
        (lambda z: distances(z[:0], z), "at least one row"),
        (lambda z: distances(z, z, kind="manhattan"), "wanted cosine or euclidean"),
        (lambda z: distances(np.where(z == z[2], np.nan, z), z), "row 2 holds NaN"),
        (lambda z: novelty(z, gap=-1), "gap is -1"),
        (lambda z: keyframes(z), "either a count"),
        (lambda z: keyframes(z, count=2, threshold=0.1), "either a count"),
        (lambda z: keyframes(z, count=0), "count is 0"),
        (lambda z: keyframes(z, threshold=float("nan")), "threshold is nan"),
    ],
)
def test_senseless_arguments(rng: np.random.Generator, call: Any, sentence: str) -> None:
    with pytest.raises(LatentError, match=sentence):
        call(rng.standard_normal((5, 6)).astype(np.float32))


@pytest.fixture(scope="module")
def sequence(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TUM fr1/rpy, 100 frames, embedded by the shipped model."""
    path = tmp_path_factory.mktemp("latents") / "tum.h5"
    assert main(["embed", f"tum:{data_dir / 'tum_fr1_rpy_100'}", "-o", str(path), "-q"]) == 0
    return path


def test_near_frames_are_nearer_than_far_ones(sequence: Path, kind: str) -> None:
    record = read_latents(sequence)
    assert record.pose is not None
    rotation = record.pose[:, :3, :3]
    turned = np.einsum("aij,bij->ab", rotation, rotation)
    degrees = np.degrees(np.arccos(np.clip((turned - 1) / 2, -1, 1)))
    apart = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    d = distances(record.latent, record.latent, kind=kind)
    steps = [float(d[apart == gap].mean()) for gap in (1, 5, 20, 50)]
    assert steps == sorted(steps)
    near, far = d[(apart > 0) & (degrees < 3)], d[degrees > 15]
    assert (near[:, None] < far[None]).mean() > 0.999
    for row in range(0, 100, 7):
        assert (
            abs(
                nearest(record.latent, record.latent[row], count=1, leave_out=range(row, row + 1))[0].row
                - row
            )
            < 30
        )


def test_the_tools_on_a_recorded_sequence(
    sequence: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"tum:{data_dir / 'tum_fr1_rpy_100'}"
    assert main(["similar", str(sequence), "--to", f"{source}#40", "-n", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["row"], found["frame"], found["source"]) == (40, 40, source)
    assert found["distance"] < 1e-5
    sheet = tmp_path / "similar.png"
    assert main(["similar", str(sequence), "--to", "40", "-n", "3", "-o", str(sheet)]) == 0
    assert cv2.imread(str(sheet)) is not None
    assert "\n" in capsys.readouterr().out
    outputs = [tmp_path / f"n{suffix}" for suffix in (".png", ".csv", ".json")]
    assert main(["novelty", str(sequence), *(f"-o{path}" for path in outputs)]) == 0
    assert "100 rows" in capsys.readouterr().out
    assert main(["keyframes", str(sequence), "-o", str(tmp_path / "k.h5"), "-n", "8", "--json"]) == 0
    rows = [row["row"] for row in json.loads(capsys.readouterr().out)]
    whole, chosen = read_latents(sequence), read_latents(tmp_path / "k.h5")
    np.testing.assert_array_equal(chosen.latent, whole.latent[rows])
    assert chosen.pose is not None
    assert whole.pose is not None
    np.testing.assert_array_equal(chosen.pose, whole.pose[rows])


def write_record(path: Path, count: int = 30) -> None:
    """A walk around a circle, once and a half: it comes back to where it was."""
    angles = 3 * np.pi * np.arange(count) / count
    with path.open("w") as file:
        for i, angle in enumerate(angles):
            latent = [float(np.cos(angle)), float(np.sin(angle)), 1.0]
            source = "first" if i < 10 else "second"
            row = {"frame": i * 2, "timestamp_ns": i * 100, "latent": latent, "source": source}
            file.write(json.dumps(row) + "\n")


def test_a_plot_has_no_line_where_nothing_came_before(tmp_path: Path) -> None:
    write_record(tmp_path / "z.jsonl")
    arguments = ["novelty", str(tmp_path / "z.jsonl"), "--gap", "9", "-o", str(tmp_path / "n.png")]
    assert main(arguments) == 0
    plot = cv2.imread(str(tmp_path / "n.png"))
    assert plot is not None
    blue, _, red = np.moveaxis(plot.astype(int), 2, 0)
    columns = np.flatnonzero((blue - red > 60).any(axis=0))
    left, right = 64, plot.shape[1] - 20
    assert columns.min() >= left + (right - left) * 9 // 29
    assert columns.max() >= right - 1


def test_commands_on_a_made_up_walk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "z.jsonl"
    write_record(path)
    assert main(["similar", str(path), "--to", "25", "-n", "2", "--gap", "3", "--json"]) == 0
    rows = [row["row"] for row in json.loads(capsys.readouterr().out)]
    assert rows in ([5, 4], [5, 6])  # twenty rows before
    assert main(["similar", str(path), "--to", "25", "-n", "2"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["distance", "row", "frame", "timestamp", "ns", "source"]
    assert table[1].split()[1:] == ["5", "10", "500", "first"]
    assert (
        main(
            [
                "novelty",
                str(path),
                "--gap",
                "4",
                "-o",
                str(tmp_path / "n.csv"),
                "-o",
                str(tmp_path / "n.json"),
            ]
        )
        == 0
    )
    assert "30 rows, cosine distance" in capsys.readouterr().out
    with (tmp_path / "n.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 30
    assert lines[4]["novelty"] == ""
    assert float(lines[12]["novelty"]) > 0.1  # not been here
    assert float(lines[25]["novelty"]) < 1e-5  # been here before
    rows = json.loads((tmp_path / "n.json").read_text())["rows"]
    assert rows[4]["novelty"] is None
    assert rows[12]["source"] == "second"
    assert main(["keyframes", str(path), "-o", str(tmp_path / "k.jsonl"), "--threshold", "0.2"]) == 0
    kept = (tmp_path / "k.jsonl").read_text().splitlines()
    assert 3 <= len(kept) < 12
    assert set(kept) <= set(path.read_text().splitlines())
    assert read_latents(tmp_path / "k.jsonl").sources == ("first", "second")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["similar", "{z}", "--to", "30"], "no row 30; its rows are 0 to 29"),
        (["similar", "{z}", "--to", "-1"], "wants 400"),
        (["similar", "{z}", "--to", "nothing.png"], "wants 400"),
        (["similar", "{z}", "--to", "{z}#3"], "--model"),  # three numbers are no model's
        (["similar", "{z}", "--to", "2", "--distance", "taxi"], "wanted cosine or euclidean"),
        (["similar", "{z}", "--to", "2", "-o", "{tmp}/x.gif"], "wanted .png"),
        (["similar", "{z}", "--to", "2", "-n", "0"], "-n"),
        (["similar", "{tmp}/none.h5", "--to", "2"], "does not exist"),
        (["similar", "{z}", "--to", "2", "--gap", "100"], "none is left to compare with"),
        (["novelty", "{z}", "--gap", "100"], "none has another before it"),
        (["novelty", "{z}", "-o", "{tmp}/n.pdf"], "wanted .png, .csv or .json"),
        (["novelty", "{z}", "-o", "{tmp}/there.csv"], "there.csv exists"),
        (["novelty", "{tmp}/there.csv"], "suffix"),
        (["keyframes", "{z}", "-o", "{tmp}/k.jsonl"], "either -n N"),
        (["keyframes", "{z}", "-o", "{tmp}/k.jsonl", "-n", "2", "--threshold", "1"], "either -n N"),
        (["keyframes", "{z}", "-o", "{tmp}/k.h5", "-n", "2"], "wanted '.jsonl'"),
        (
            ["keyframes", "{z}", "-o", "{z}", "-n", "2", "--overwrite"],
            "is read or written by this command already",
        ),
        (["keyframes", "{z}", "-o", "{tmp}/there.csv/k.jsonl", "-n", "2"], "cannot write"),
        (["keyframes", "{z}", "-o", "{tmp}/k.jsonl", "--threshold", "0"], "threshold is 0"),
    ],
)
def test_nonsense_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    path = tmp_path / "z.jsonl"
    write_record(path)
    (tmp_path / "there.csv").write_text("precious")
    before = sorted(tmp_path.iterdir())
    words = [a.replace("{z}", str(path)).replace("{tmp}", str(tmp_path)) for a in arguments]
    assert main(words) == 2
    complaint = capsys.readouterr().err
    assert word in complaint
    assert complaint.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_selected_rows_keep_every_column(tiny_model_path: Path, tmp_path: Path) -> None:
    arguments = ["stream", "--camera", "synthetic", "--frames", "9", "--model", str(tiny_model_path), "-q"]
    assert main([*arguments, "--record", str(tmp_path / "z.h5")]) == 0
    select_rows(tmp_path / "z.h5", [1, 4, 8], tmp_path / "new" / "k.h5")
    with h5py.File(tmp_path / "z.h5") as old, h5py.File(tmp_path / "new" / "k.h5") as new:
        assert dict(new.attrs) == dict(old.attrs)
        assert set(new) == set(old)
        for name in old:
            np.testing.assert_array_equal(new[name][:], old[name][:][[1, 4, 8]])
    with pytest.raises(RecordError, match="exists"):
        select_rows(tmp_path / "z.h5", [1], tmp_path / "new" / "k.h5")
    with pytest.raises(RecordError, match="has the rows 0 to 8"):
        select_rows(tmp_path / "z.h5", [1, 9], tmp_path / "k.h5")
    assert (
        main(
            [
                "decode",
                str(tmp_path / "new" / "k.h5"),
                "-o",
                str(tmp_path / "out"),
                "-q",
                "--model",
                str(tiny_model_path),
            ]
        )
        == 0
    )
    assert len(list((tmp_path / "out" / "color").iterdir())) == 3


def test_selected_rows_of_an_archive_keep_their_sources(tiny_model_path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [str(tmp_path / f"{i}.png") for i in range(6)]
    for name in names:
        cv2.imwrite(name, rng.integers(0, 256, (24, 32, 3), np.uint8))
    options = ["--model", str(tiny_model_path), "-q"]
    assert main(["embed", *names, "-o", str(tmp_path / "z.h5"), *options]) == 0
    select_rows(tmp_path / "z.h5", [2, 5], tmp_path / "k.h5")
    record = read_latents(tmp_path / "k.h5")
    assert [record.source_of(i) for i in range(2)] == [names[2], names[5]]
    model = edgevae.load(tiny_model_path)
    rgb = np.ascontiguousarray(cv2.imread(names[5])[..., ::-1])
    np.testing.assert_array_equal(record.latent[1], model.encode(rgb))


@pytest.mark.parametrize("suffix", [".mcap", ".parquet", ".jsonl", ".h5"])
def test_key_frames_of_every_kind_of_record(tiny_model_path: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip({".mcap": "mcap", ".parquet": "pyarrow"}.get(suffix, "json"))
    old, new = tmp_path / f"z{suffix}", tmp_path / "new" / f"k{suffix}"
    uri = "synthetic:2?size=32x32&frames=12"
    assert main(["embed", uri, "-o", str(old), "--model", str(tiny_model_path), "-q"]) == 0
    command = ["keyframes", str(old), "-o", str(new)]
    assert main([*command, "-n", "5"]) == 0
    rows, chosen = read_latents(old), read_latents(new)
    at = np.searchsorted(rows.frame, chosen.frame)
    assert len(at) == 5
    for column in ("latent", "timestamp_ns", "frame", "pose"):
        np.testing.assert_array_equal(getattr(chosen, column), getattr(rows, column)[at])
    assert chosen.intrinsics == rows.intrinsics
    for name in ("source", "model_sha256", "clock"):
        assert chosen.attrs.get(name) == rows.attrs.get(name)
    assert main([*command, "-n", "2"]) == 2  # it exists
    assert len(read_latents(new)) == 5
    assert main([*command, "-n", "2", "--overwrite"]) == 0
    assert len(read_latents(new)) == 2
    assert main(["keyframes", str(old), "-o", str(old), "-n", "2", "--overwrite"]) == 2
    assert len(read_latents(old)) == 12
    assert sorted(path.name for path in new.parent.iterdir()) == [new.name]


def test_key_frames_of_an_mcap_keep_their_pictures(tiny_model_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    old, new = tmp_path / "z.mcap", tmp_path / "k.mcap"
    options = ["--model", str(tiny_model_path), "-q", "--record-topics", "color-raw,depth"]
    uri = "synthetic:2?size=32x32&frames=9"
    assert main(["stream", "--camera", uri, "--record", str(old), *options]) == 0
    select_rows(old, [1, 4, 8], new)
    with edgevae.open_source(str(old)) as source:
        wanted = [frame for i, frame in enumerate(source) if i in (1, 4, 8)]
    with edgevae.open_source(str(new)) as source:
        for frame, like in zip(source, wanted, strict=True):
            np.testing.assert_array_equal(frame.rgb, like.rgb)
            np.testing.assert_array_equal(frame.depth, like.depth)
            np.testing.assert_array_equal(frame.pose, like.pose)
            assert frame.timestamp_ns == like.timestamp_ns
