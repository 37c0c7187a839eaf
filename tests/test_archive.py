"""``edgevae embed`` over many sources: every row once and in order, whatever dies or cannot be read."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from memory_source import MemorySource, corrupt, make_frame, raising
from tiny_model import tiny_document

import edgevae
from edgevae import model_file
from edgevae.archive import LocalEngine, Plan, Tally, embed
from edgevae.cli import main
from edgevae.errors import EdgevaeError, RecordError, SourceError
from edgevae.latents import Latents, read_latents
from edgevae.model import Model
from edgevae.sources.base import Source
from edgevae.stats import Stats
from edgevae.stream import Stop

SUFFIXES = (".h5", ".jsonl", ".parquet")


@pytest.fixture(params=SUFFIXES)
def suffix(request: pytest.FixtureRequest) -> str:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet archives need pyarrow")
    return str(request.param)


def write_pictures(folder: Path, count: int, seed: int, *, depth: bool) -> Path:
    rng = np.random.default_rng(seed)
    for part in ("color", *(["depth"] if depth else [])):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / "color" / f"{i}.png"), rng.integers(0, 256, (24, 32, 3), np.uint8))
        if depth:
            cv2.imwrite(str(folder / "depth" / f"{i}.png"), rng.integers(500, 5000, (24, 32), np.uint16))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders with and without depth, pictures, a pair, and among them five things that cannot be read."""
    root = tmp_path_factory.mktemp("corpus")
    first = write_pictures(root / "first", 12, 1, depth=True)
    second = write_pictures(root / "second", 90, 2, depth=False)
    third = write_pictures(root / "third", 40, 3, depth=True)
    (second / "color" / "30.png").write_bytes(b"no picture")
    (second / "color" / "89.png").write_bytes(b"")
    (root / "torn.png").write_bytes((first / "color" / "0.png").read_bytes()[:200])
    (root / "empty").mkdir()
    pictures = [str(first / "color" / f"{i}.png") for i in range(8)]
    pair = f"{third / 'color' / '5.png'},{third / 'depth' / '5.png'}"
    return [
        str(root / "nowhere"), str(first), *pictures[:4], str(root / "torn.png"), str(second),
        str(root / "empty"), f"{third}?depth_scale=0.0002", pair, *pictures[4:],
    ]  # fmt: skip


SKIPPED, FAILED = 2, 3


def wanted_rows(corpus: Sequence[str], model: Model) -> list[tuple[str, int, np.ndarray]]:
    """Source, frame and latent of each row, made one after the other."""
    rows = []
    for uri in corpus:
        try:
            source = edgevae.open_source(uri)
        except SourceError:
            continue
        while True:
            try:
                frame = source.read()
            except edgevae.FrameError:
                continue
            except SourceError:
                break
            if frame is None:
                break
            latent = model.encode(frame.rgb, frame.depth, depth_scale=frame.depth_scale)
            rows.append((uri, frame.index, latent))
    return rows


def check_rows(record: Latents, wanted: Sequence[tuple[str, int, np.ndarray]]) -> None:
    """Each row once, in order, from its source, to the last bit."""
    got = [(record.source_of(i), int(record.frame[i])) for i in range(len(record))]
    assert got == [(uri, frame) for uri, frame, _ in wanted]
    np.testing.assert_array_equal(record.latent, np.stack([latent for _, _, latent in wanted]))


def problems_of(path: Path) -> list[dict[str, object]]:
    listed = path.with_name(f"{path.name}.problems.jsonl")
    return [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []


def check_problems(path: Path) -> None:
    problems = problems_of(path)
    assert [problem["failed"] for problem in problems] == [True, True, False, False, True]
    assert [problem["after_frame"] for problem in problems] == [-1, -1, 29, 88, -1]
    assert "torn.png" in str(problems[1]["reason"])


def run(*arguments: object) -> int:
    return main(["embed", *map(str, arguments)])


def test_every_row_once_in_order(
    corpus: list[str],
    model: Model,
    tiny_model_path: Path,
    tmp_path: Path,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, report = tmp_path / f"z{suffix}", tmp_path / "s.json"
    options = ["--model", tiny_model_path, "--workers", 3, "--stats", report]
    assert run(*corpus, "-o", path, *options) == 2
    captured = capsys.readouterr()
    wanted = wanted_rows(corpus, model)
    assert len(wanted) == 12 + 4 + 88 + 40 + 1 + 4
    check_rows(read_latents(path), wanted)
    check_problems(path)
    complaints = captured.err.splitlines()
    assert len(complaints) == FAILED + 1
    assert complaints[-1].startswith(f"edgevae: {FAILED} of {len(corpus)} sources could not be read")
    assert "nowhere" in complaints[0]
    stats = json.loads(report.read_text())
    assert stats["frames"]["in"] == len(wanted) + SKIPPED
    assert stats["frames"]["encoded"] == len(wanted)
    assert stats["sources"] == {"given": len(corpus), "finished": len(corpus), "failed": FAILED}
    assert f"wrote {path} ({len(wanted)} frames)" in captured.out
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(
        [path.name, f"{path.name}.problems.jsonl", "s.json"]
    )


HANGING = """
import sys, threading, time
import edgevae.archive.encode as encode
from edgevae.cli import main
left = int(sys.argv[2])
lock = threading.Lock()
open_source = encode.open_source
def open_hanging(uri, **options):
    source = open_source(uri, **options)
    read = source.read
    def read_or_hang():
        global left
        with lock:
            left -= 1
        while left < 0:
            time.sleep(0.05)
        return read()
    source.read = read_or_hang
    return source
encode.open_source = open_hanging
if sys.argv[1].endswith(".parquet"):
    import edgevae.archive.parquet as parquet
    parquet.PART_SECONDS, parquet.PART_ROWS = 0.1, 25
sys.exit(main(["embed", *sys.argv[3:], "-o", sys.argv[1]]))
"""


def start(
    path: Path, reads: int, corpus: Sequence[str], *options: object, workers: int = 2
) -> subprocess.Popen[str]:
    """Embed in a process whose sources hang after so many frames, so that it is interrupted in the middle."""
    arguments = [str(path), str(reads), *corpus, *map(str, options), "--quiet", "--workers", str(workers)]
    return subprocess.Popen(
        [sys.executable, "-c", HANGING, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def rows_of(path: Path) -> int:
    return len(read_latents(path)) if path.exists() else 0


def wait_for_more_rows(path: Path, rows: int, process: subprocess.Popen[str], limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while process.poll() is None and rows_of(path) <= rows and time.monotonic() < deadline_s:
        time.sleep(0.01)


def test_kills_lose_no_row_and_double_none(
    corpus: list[str], model: Model, tiny_model_path: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"z{suffix}"
    wanted = wanted_rows(corpus, model)
    rng = np.random.default_rng(5)
    kills = 0
    for attempt in range(6):
        reads = int(rng.integers(15, 60)) if attempt < 5 else 100_000
        process = start(path, reads, corpus, "--model", tiny_model_path, "--resume")
        if attempt < 5:
            wait_for_more_rows(path, rows_of(path), process, limit_s=3.0)
            time.sleep(rng.uniform(0, 0.6))  # before, during and after the next flush
            process.kill()
        _, complaint = process.communicate(timeout=60)
        if process.returncode != -signal.SIGKILL:
            break
        kills += 1
        if path.exists():  # killed between two rows, the archive is still one
            rows = rows_of(path)
            check_rows(read_latents(path), wanted[:rows])
    assert kills >= 2  # two times 60 frames are less than all
    assert process.returncode == 2, complaint
    check_rows(read_latents(path), wanted)
    check_problems(path)


def test_an_interrupted_run_says_so_and_goes_on(
    corpus: list[str], model: Model, tiny_model_path: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"z{suffix}"
    good = [uri for uri in corpus if "nowhere" not in uri and "torn" not in uri and "empty" not in uri]
    # one worker: of two, the first could hang before it has handed on anything
    process = start(path, 40, good, "--model", tiny_model_path, workers=1)
    wait_for_more_rows(path, 0, process)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on" in complaint
    assert complaint.count("\n") == 1
    rows = rows_of(path)
    wanted = wanted_rows(good, model)
    assert 0 < rows < len(wanted)
    assert run(*good, "-o", path, "--model", tiny_model_path, "--resume", "-q") == 0
    check_rows(read_latents(path), wanted)
    assert run(*good, "-o", path, "--model", tiny_model_path, "--resume", "-q") == 0  # nothing is left to do
    check_rows(read_latents(path), wanted)


def test_resuming_a_whole_archive_repeats_its_problems(
    corpus: list[str], model: Model, tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "z.h5"
    options = ["-o", path, "--model", tiny_model_path, "-q"]
    assert run(*corpus, *options) == 2
    before = capsys.readouterr().err
    assert run(*corpus, *options, "--resume") == 2
    assert capsys.readouterr().err == before
    check_problems(path)
    check_rows(read_latents(path), wanted_rows(corpus, model))


def test_a_torn_line_is_cut_off(
    corpus: list[str], model: Model, tiny_model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "z.jsonl"
    options = [*corpus[1:4], "-o", path, "--model", tiny_model_path, "-q"]
    assert run(*options) == 0
    path.write_bytes(path.read_bytes()[:-30])
    assert run(*options, "--resume") == 0
    check_rows(read_latents(path), wanted_rows(corpus[1:4], model))
    path.write_bytes(path.read_bytes()[:30])  # not even one whole line
    assert run(*options, "--resume") == 0
    check_rows(read_latents(path), wanted_rows(corpus[1:4], model))


def test_resume_wants_the_same_sources_and_model(
    corpus: list[str], tiny_model_path: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"z{suffix}"
    document, tensors = tiny_document()
    tensors["encoder.head.bias"] += 0.5
    model_file.write(tmp_path / "other.safetensors", document, tensors)
    good = corpus[1:5]
    same = ["-o", path, "-q", "--resume"]
    assert run(*good, *same, "--model", tiny_model_path) == 0
    before = rows_of(path)
    for sources, options, word in [
        (good, ["--model", tmp_path / "other.safetensors"], "was made with the model"),
        (good[:-1], ["--model", tiny_model_path], "was made from other sources"),
        ([*good, corpus[-1]], ["--model", tiny_model_path], "was made from other sources"),
        (good[::-1], ["--model", tiny_model_path], "was made from other sources"),
        (good, ["--model", tiny_model_path, "--depth", "none"], "another --depth"),
        (good, ["--model", tiny_model_path, "--overwrite"], "leave out one of them"),
    ]:
        assert run(*sources, *same, *options) == 2
        captured = capsys.readouterr()
        assert word in captured.err
        assert captured.err.count("\n") == 1
        assert rows_of(path) == before
    assert run(*good, "-o", path, "-q", "--model", tiny_model_path) == 2
    assert "exists; choose another name or pass --overwrite" in capsys.readouterr().err
    assert run(*good[:2], "-o", path, "-q", "--model", tiny_model_path, "--overwrite") == 0
    assert rows_of(path) == 13
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["other.safetensors", path.name]


def test_what_is_no_archive_is_not_resumed(
    corpus: list[str], tiny_model_path: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"z{suffix}"
    path.write_bytes(b"precious\n")
    for options in ([], ["--resume"]):
        assert run(*corpus[1:3], "-o", path, "--model", tiny_model_path, *options) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert path.read_bytes() == b"precious\n"
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".parquet":
        return
    path.unlink()
    camera = ["--camera", "synthetic", "--frames", "3", "--model", str(tiny_model_path)]
    assert main(["stream", *camera, "--record", str(path)]) == 0
    capsys.readouterr()
    assert run("synthetic", "-o", path, "--model", tiny_model_path, "--resume") == 2
    assert "was not written by 'edgevae embed'" in capsys.readouterr().err
    assert rows_of(path) == 3


def test_strict_ends_at_the_first_problem(
    corpus: list[str], tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "z.h5"
    assert run(*corpus[1:], "-o", path, "--model", tiny_model_path, "--strict", "-q") == 2
    complaint = capsys.readouterr().err
    assert "torn.png" in complaint
    assert complaint.count("\n") == 1
    assert rows_of(path) == 16  # what came before


def test_a_list_of_sources(
    corpus: list[str],
    model: Model,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "\n".join(["# the second half", "", f"  {corpus[2]}  ", corpus[3]])
    (tmp_path / "list.txt").write_text(text)
    options = ["--model", tiny_model_path, "-q"]
    assert run(corpus[1], "--from-list", tmp_path / "list.txt", "-o", tmp_path / "z.h5", *options) == 0
    check_rows(read_latents(tmp_path / "z.h5"), wanted_rows(corpus[1:4], model))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert run("--from-list", "-", "-o", tmp_path / "y.h5", *options) == 0
    check_rows(read_latents(tmp_path / "y.h5"), wanted_rows(corpus[2:4], model))
    capsys.readouterr()
    for arguments, word in [
        ([], "no source to embed"),
        (["--from-list", tmp_path / "none.txt"], "cannot read the list"),
        (["--from-list", corpus[2]], "cannot read the list"),
        ([corpus[1], corpus[2], corpus[1]], "is named twice"),
        ([corpus[1], "--engine", "abacus"], "wanted local or ray"),
        ([corpus[1], "--ray-address", "here:1"], "wanted --engine ray"),
        ([corpus[1], "--workers", "0"], "workers"),
    ]:
        assert run(*arguments, "-o", tmp_path / "x.h5", *options) == 2
        captured = capsys.readouterr()
        assert word in captured.err
        assert captured.err.count("\n") == 1
    assert not (tmp_path / "x.h5").exists()


def test_nothing_is_left_when_no_source_can_be_read(
    tiny_model_path: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [tmp_path / "a", tmp_path / "b", "-o", tmp_path / f"z{suffix}", "--model", tiny_model_path]
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 3
    assert list(tmp_path.iterdir()) == []


def from_memory(
    monkeypatch: pytest.MonkeyPatch, sources: dict[str, Callable[[], Source]]
) -> Callable[[str], Source]:
    """Sources by name; an error instead of one is raised when it is opened."""

    def open_source(uri: str, **options: object) -> Source:
        return sources[uri]()

    monkeypatch.setattr("edgevae.archive.encode.open_source", open_source)
    return open_source


def embed_names(
    names: Sequence[str], path: Path, model: Model, path_of_model: Path, **options: object
) -> tuple[Tally, Stats]:
    stats = Stats()
    engine = LocalEngine(lambda threads: edgevae.load(path_of_model, threads=1), workers=3)
    tally = embed(Plan(tuple(names)), path, engine, model.spec, stats=stats, **options)  # type: ignore[arg-type]
    return tally, stats


def broken() -> Source:
    raise ZeroDivisionError("a fault of\nsome SDK")


def test_errors_that_nobody_foresaw_cost_one_source(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "z.h5"
    from_memory(
        monkeypatch,
        {
            "broken": broken,
            "midway": lambda: MemorySource(9, actions={4: raising(RuntimeError("the driver died"))}),
            "corrupt": lambda: MemorySource(40, actions=corrupt(*range(3, 40))),
            "unusable": lambda: MemorySource(4, actions=corrupt(0, 1, 2, 3)),
            "live": lambda: MemorySource(4, live=True),
            "good": lambda: MemorySource(6, actions=corrupt(2)),
        },
    )
    names = ["broken", "midway", "corrupt", "unusable", "live", "good"]
    tally, stats = embed_names(names, path, model, tiny_model_path)
    record = read_latents(path)
    assert [record.source_of(i) for i in range(len(record))] == ["midway"] * 4 + ["corrupt"] * 3 + [
        "good"
    ] * 5
    assert record.frame.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 3, 4, 5]
    assert (tally.failed, tally.finished, tally.rows) == (5, 6, 12)
    assert (stats.encoded, stats.skipped) == (12, 30 + 4 + 1)
    reasons = [str(problem["reason"]) for problem in problems_of(path) if problem["failed"]]
    assert reasons == [
        "broken: ZeroDivisionError: a fault of some SDK",
        "midway: RuntimeError: the driver died",
        "30 frames in a row of corrupt were unusable; the last: frame 32 is corrupt.",
        "none of the 4 frames of unusable was usable; the last: frame 3 is corrupt.",
        "live is live: it has no end, and its frames cannot be read again; embed it alone.",
    ]


def test_a_source_without_end_is_no_part_of_an_archive(
    model: Model, tiny_model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "z.jsonl"
    names = ["synthetic:1?size=32x32", "synthetic:1?size=32x32&frames=3"]
    tally, _ = embed_names(names, path, model, tiny_model_path)
    assert (tally.failed, tally.rows) == (1, 3)
    assert [problem["reason"] for problem in problems_of(path) if problem["failed"]] == [
        "synthetic:1?size=32x32 has no end; give it one, as in synthetic:7?frames=300."
    ]


def test_one_source_alone_raises_what_is_wrong(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "z.h5"
    from_memory(
        monkeypatch,
        {
            "midway": lambda: MemorySource(9, actions={4: raising(SourceError("the cable is out."))}),
            "live": lambda: MemorySource(4, live=True, interval_s=0.01),
        },
    )
    with pytest.raises(SourceError, match=r"^the cable is out\.$"):
        embed_names(["midway"], path, model, tiny_model_path)
    assert rows_of(path) == 4
    tally, _ = embed_names(["live"], tmp_path / "live.h5", model, tiny_model_path)
    assert tally.rows == 4
    with pytest.raises(SourceError, match="live is live"):
        embed_names(["live"], tmp_path / "live.h5", model, tiny_model_path, resume=True)


def test_frames_that_count_backwards_are_refused(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_memory(monkeypatch, {"a": lambda: MemorySource(9, actions={5: lambda: make_frame(2)})})
    with pytest.raises(RecordError, match="frame 2 of a came after frame 4 of a"):
        embed_names(["a"], tmp_path / "z.h5", model, tiny_model_path)


def test_a_slow_first_source_holds_its_place(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevae.archive.local.AHEAD_ROWS", 10)
    counts = {f"s{i}": 1 + i % 7 for i in range(40)}
    opened: list[str] = []
    lock = threading.Lock()

    def opener(name: str) -> Callable[[], Source]:
        def make() -> Source:
            with lock:
                opened.append(name)
            return MemorySource(counts[name], interval_s=0.05 if name == "s0" else 0.0)

        return make

    counts["s0"] = 12
    from_memory(monkeypatch, {name: opener(name) for name in counts})
    embed_names(list(counts), tmp_path / "z.h5", model, tiny_model_path)
    record = read_latents(tmp_path / "z.h5")
    wanted = [(name, i) for name, count in counts.items() for i in range(count)]
    assert [(record.source_of(i), int(record.frame[i])) for i in range(len(record))] == wanted
    for row, (_, index) in enumerate(wanted):
        frame = make_frame(index)
        np.testing.assert_array_equal(record.latent[row], model.encode(frame.rgb, frame.depth))
    assert record.pose is not None
    np.testing.assert_array_equal(record.pose[:, 2, 3], [index for _, index in wanted])


def test_a_stop_from_outside_keeps_what_is_whole(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()

    def last() -> None:
        stop.request("test")

    def seventh() -> edgevae.Frame:
        last()
        return make_frame(7)

    from_memory(
        monkeypatch,
        {"a": lambda: MemorySource(5), "b": lambda: MemorySource(100_000, actions={7: seventh})},
    )
    before = threading.active_count()
    tally, stats = embed_names(["a", "b"], tmp_path / "z.h5", model, tiny_model_path, stop=stop)
    assert stats.stopped_by == "test"
    assert rows_of(tmp_path / "z.h5") == tally.rows == stats.encoded < 2000
    assert threading.active_count() == before


def test_a_password_in_a_url_is_not_recorded() -> None:
    plan = Plan(("rtsp://me:secret@host/stream", "a.png"))
    assert plan.names == ("rtsp://host/stream", "a.png")


def test_hdf5_says_source_and_camera_of_each_row(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    from_memory(
        monkeypatch,
        {
            "ä": lambda: MemorySource(3),
            "none": lambda: MemorySource(0),
            "b": lambda: MemorySource(2, depth=False),
        },
    )
    embed_names(["ä", "none", "b"], tmp_path / "z.h5", model, tiny_model_path)
    with h5py.File(tmp_path / "z.h5") as file:
        assert [uri.decode() for uri in file["sources"]] == ["ä", "none", "b"]
        assert file["source"][:].tolist() == [0, 0, 0, 2, 2]
        assert file["camera"][:].tolist() == [0] * 5
        camera = json.loads(file["cameras"][0])
        assert camera["clock"] == "file"
        assert camera["depth_scale"] == 0.001
        assert camera["intrinsics"]["fx"] == 30.0
        assert "intrinsics" not in file.attrs
        assert file.attrs["source"] == "3 sources"
    embed_names(["b"], tmp_path / "y.h5", model, tiny_model_path)
    with h5py.File(tmp_path / "y.h5") as file:  # as 'edgevae stream' writes it
        assert json.loads(file.attrs["intrinsics"])["fx"] == 30.0
        assert file.attrs["source"] == "b"


def test_parquet_rows_that_found_no_room_are_not_called_written(
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyarrow")

    def full(table: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "in").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), np.full((48, 64, 3), 40 * i, np.uint8))
    monkeypatch.setattr("edgevae.archive.parquet.write_part", full)
    arguments = ["embed", str(tmp_path / "in"), "-o", str(tmp_path / "z.parquet"), "-q"]
    assert main([*arguments, "--model", str(tiny_model_path)]) == 2
    said = capsys.readouterr()
    assert "3 encoded" in said.out
    assert "wrote" not in said.out
    assert "No space left on device" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_parquet_as_others_read_it(
    corpus: list[str], model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.dataset
    import pyarrow.parquet as pq

    path = tmp_path / "z.parquet"
    monkeypatch.setattr("edgevae.archive.parquet.PART_ROWS", 50)
    assert run(*corpus, "-o", path, "--model", tiny_model_path, "-q") == 2
    wanted = wanted_rows(corpus, model)
    assert sorted(part.name for part in path.iterdir()) == [f"part-{i:06d}.parquet" for i in range(3)]
    assert [pq.read_metadata(part).num_rows for part in sorted(path.iterdir())] == [50, 50, len(wanted) - 100]
    table = pq.read_table(path)
    assert table.schema.field("latent").type == pa.list_(pa.field("item", pa.float32(), nullable=False), 8)
    np.testing.assert_array_equal(
        np.array(table["latent"].to_pylist(), np.float32), [z for _, _, z in wanted]
    )
    assert table["source"].to_pylist() == [uri for uri, _, _ in wanted]
    assert table["frame"].to_pylist() == [frame for _, frame, _ in wanted]
    assert table["depth_valid"].null_count == 8 + 88
    assert table["pose"].null_count == len(wanted)
    assert table["intrinsics"].null_count == len(wanted)
    assert set(table["depth_scale"].to_pylist()) == {0.001, 0.0002}
    assert pyarrow.dataset.dataset(path).count_rows() == len(wanted)
    about = pq.read_schema(path / "part-000001.parquet").metadata
    assert about[b"model_sha256"].decode() == model.spec.sha256
    part = path / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(RecordError, match="is not a readable Parquet archive"):
        read_latents(path)
    assert run(*corpus, "-o", path, "--model", tiny_model_path, "-q", "--resume") == 2


def test_parquet_poses_and_cameras(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    from_memory(monkeypatch, {"a": lambda: MemorySource(3), "b": lambda: MemorySource(2, pose=False)})
    embed_names(["a", "b"], tmp_path / "z.parquet", model, tiny_model_path)
    record = read_latents(tmp_path / "z.parquet")
    assert record.pose is not None
    np.testing.assert_array_equal(record.pose[:3, 2, 3], [0, 1, 2])
    assert np.isnan(record.pose[3:]).all()
    assert record.attrs["model"] == "tiny"
    table = pq.read_table(tmp_path / "z.parquet")
    assert json.loads(table["intrinsics"][4].as_py())["fy"] == 31.0


def test_a_folder_that_is_no_archive_is_not_replaced(
    corpus: list[str], tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "z.parquet"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    for option in ("--overwrite", "--resume", "-q"):
        assert run(corpus[1], "-o", folder, "--model", tiny_model_path, option) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert (folder / "thesis.tex").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [folder]


PEAK = """
import resource, sys
from edgevae.cli import main
code = main(["embed", *sys.argv[1:]])
peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak_kb)
sys.exit(code)
"""


def test_thousands_of_files_in_one_go(tiny_model_path: Path, tmp_path: Path) -> None:
    _, content = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    (tmp_path / "pictures").mkdir()
    names = [tmp_path / "pictures" / f"{i}.png" for i in range(3000)]
    for name in names:
        name.write_bytes(content.tobytes())
    peaks_mb = []
    for count in (300, 3000):
        path, listed = tmp_path / f"{count}.h5", tmp_path / f"{count}.txt"
        listed.write_text("".join(f"{name}\n" for name in names[:count]))
        arguments = ["--from-list", listed, "-o", path, "--model", tiny_model_path, "-q"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, arguments)], capture_output=True, text=True, timeout=300
        )
        assert (done.returncode, done.stderr) == (0, "")
        peaks_mb.append(int(done.stdout.splitlines()[-1]) / 1024)
        record = read_latents(path)
        assert [record.source_of(i) for i in range(count)] == [str(name) for name in names[:count]]
    assert peaks_mb[1] - peaks_mb[0] < 25


def test_a_model_with_a_condition_is_refused(
    model: Model, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    engine = LocalEngine(lambda threads: model)
    with pytest.raises(EdgevaeError, match="wants a condition of 3 numbers"):
        embed(Plan(("synthetic",)), tmp_path / "z.h5", engine, replace(model.spec, condition_dim=3))


def test_mcap_holds_one_source(
    corpus: list[str], model: Model, tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcap")
    path = tmp_path / "z.mcap"
    options = ["-o", path, "--model", tiny_model_path, "-q"]
    assert run(corpus[1], *options) == 0
    record = read_latents(path)
    np.testing.assert_array_equal(record.latent, [latent for _, _, latent in wanted_rows(corpus[1:2], model)])
    capsys.readouterr()
    for sources, word in (
        (corpus[1:3], "holds one source, got 2 sources"),
        ([corpus[1], "--resume"], "resumed"),
    ):
        assert run(*sources, *options) == 2
        assert word in capsys.readouterr().err


def test_parquet_parts_are_on_the_disk_before_they_have_a_name(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves no named part that is empty."""
    pytest.importorskip("pyarrow")
    done: list[str] = []
    real_fsync, real_rename, real_replace = os.fsync, os.rename, os.replace

    def fsync(descriptor: int) -> None:
        done.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync part")
        real_fsync(descriptor)

    def name(real: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def named(old: Path, new: Path) -> None:
            done.append("name")
            real(old, new)

        return named

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", name(real_rename))
    monkeypatch.setattr(os, "replace", name(real_replace))
    monkeypatch.setattr("edgevae.archive.parquet.PART_ROWS", 4)
    uri, path = "synthetic:2?size=32x32&frames=8", tmp_path / "z.parquet"
    assert main(["embed", uri, "-o", str(path), "--model", str(tiny_model_path), "-q"]) == 0
    assert len(list(path.iterdir())) == 2
    first, second = ["sync part", "sync folder", "name", "sync folder"], ["sync part", "name", "sync folder"]
    assert done == first + second
