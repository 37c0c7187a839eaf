"""The bench: fair turns, equal answers, clear sentences. How fast anything is, is not tested here."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevae
from edgevae import bench, cli, model_file
from edgevae.bench import inputs, processes
from edgevae.bench.engines import ENGINES, Engine, Job, compiler, convert
from edgevae.bench.layers import run_layers
from edgevae.bench.plot import write_plot
from edgevae.bench.worker import open_engine
from edgevae.errors import EdgevaeError, ModelFileError
from edgevae.preprocess import DepthEncoding, InputSpec, pack
from edgevae.quantize import quantize_file

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def write_model(path: Path, condition_dim: int = 0, precision: str = "fp32") -> Path:
    """A small RGB-D model with every op; with a condition where asked for."""
    generator = np.random.default_rng(0)

    def tensor(*shape: int) -> np.ndarray:
        return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    latent = 6
    tensors = {
        "a.w": tensor(8, 4, 4, 4),
        "a.b": tensor(8),
        "b.w": tensor(2 * latent, 8 * 8 * 4 + condition_dim),
        "b.b": tensor(2 * latent),
        "c.w": tensor(8 * 8 * 4, latent + condition_dim),
        "d.w": tensor(5, 8, 3, 3),
        "d.b": tensor(5),
        "e.w": tensor(5, 4, 4, 4),
    }
    concat = [{"op": "concat_condition", "size": condition_dim}] if condition_dim else []
    window = {"stride": 2, "padding": 1}
    document = {
        "format_version": 1,
        "name": "small",
        "input": {"channels": 4, "height": 32, "width": 16},
        "latent_dim": latent,
        "condition_dim": condition_dim,
        "posterior": {"scale": "logvar", "epsilon": 0.0},
        "color": {"encoding": "fixed"},
        "depth": {"encoding": "inverse", "min_m": 0.5, "max_m": 10.0, "no_reading": -1.0},
        "precision": precision,
        "encoder": [
            {"op": "conv2d", "weight": "a.w", "bias": "a.b", **window, "padding_mode": "replicate"},
            {"op": "activation", "kind": "leaky_relu", "slope": 0.2},
            {"op": "max_pool2d", "kernel": 2, "stride": 2},
            {"op": "reshape", "shape": [8 * 8 * 4]},
            *concat,
            {"op": "linear", "weight": "b.w", "bias": "b.b"},
        ],
        "decoder": [
            *concat,
            {"op": "linear", "weight": "c.w", "bias": None},
            {"op": "activation", "kind": "softplus"},
            {"op": "reshape", "shape": [8, 8, 4]},
            {"op": "upsample_conv2d", "weight": "d.w", "bias": "d.b", "padding_mode": "zeros"},
            {"op": "activation", "kind": "sigmoid"},
            {"op": "conv_transpose2d", "weight": "e.w", "bias": None, **window, "output_padding": 0},
            {"op": "activation", "kind": "tanh"},
        ],
        "provenance": {},
    }
    model_file.write(path, document, tensors)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors")


def installed(precision: str) -> list[str]:
    return [name for name, engine in ENGINES.items() if not engine.missing(precision)]


def check(report: bench.BenchReport, engines: set[str], largest_error: float) -> None:
    """Every engine in every row it belongs to, with sane figures."""
    rows = {(timing.operation, timing.engine): timing for timing in report.timings}
    packs = {f"pack {width}x{height}" for width, height in inputs.CAMERAS}
    networks = {"encode", "posterior", "decode"}
    assert set(rows) == {(operation, name) for operation in networks for name in engines - {"opencv"}} | {
        (operation, name) for operation in packs for name in engines & {"edgevae", "opencv"}
    }
    for (operation, engine), timing in rows.items():
        assert 0 < timing.median_ms <= timing.p99_ms
        assert timing.ratio == 1.0 if engine == "edgevae" else timing.ratio > 0
        if operation in networks:
            # How exact a peer is depends on its kernels for the processor: PyTorch decodes to 2e-7 on one, to
            # 4e-5 on another. The bench itself has refused answers that are wrong.
            limit = largest_error if engine == "edgevae" else 10 * largest_error
            assert 0 <= timing.error < limit
            assert (timing.cosine is None) == (operation == "decode") != (timing.mean_error is None)
    assert {facts.engine for facts in report.engines} == engines - {"opencv"}
    for facts in report.engines:
        assert 0 < facts.startup_s < 300
        assert 5 < facts.peak_mb < 2000
        assert facts.weights_mb > 0
        assert facts.version != "?"


@needs_torch
def test_all_engines_agree(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", condition_dim=3)
    engines = [name for name in installed("fp32") if name != "compile"]  # that one takes half a minute
    report = bench.run_bench(path, against=engines, threads=2, rounds=3, batch=3)
    check(report, {"edgevae", *engines}, 1e-5)
    assert (report.threads, report.batch, report.rounds, report.precision) == (2, 3, 3, "fp32")
    document = json.loads(json.dumps(report.document()))
    assert bench.BenchReport.from_document(document) == report
    lines = str(report).splitlines()
    assert len(lines) == 4 + len(report.timings) + len(report.engines) + bool(report.note)
    assert report.markdown().count("\n| ") == 4 + len(report.timings) + len(report.engines)

    pytest.importorskip("matplotlib")
    for suffix in (".png", ".svg"):
        write_plot([report, report], tmp_path / f"p{suffix}", ["encode", "decode"])
        assert (tmp_path / f"p{suffix}").stat().st_size > 10_000
    with pytest.raises(EdgevaeError, match=r"ends in \.svg or \.png"):
        write_plot([report], tmp_path / "p.gif")


@needs_torch
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_compile(model: Path, tmp_path: Path) -> None:
    # One operation, as each compiles for seconds.
    from edgevae.bench import torch_parts

    native = edgevae.load(model)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 32, 16)).astype(np.float32)
    inputs.save(tmp_path, "encode", x)
    parts, folder = {"encode": torch_parts.load(model)["encode"]}, tmp_path / "compile"
    folder.mkdir()
    convert("compile", Job(model, native.spec.input, "fp32", 2, 1, tmp_path, parts, {}, [], {}), folder)
    with processes.Worker("compile", folder, tmp_path, threads=1, batch=2, precision="fp32") as worker:
        worker.start(["encode"])
        worker.answer("encode", tmp_path / "a.npy", 1)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), native.encode_tensor(x), rtol=0, atol=1e-5)


@needs_torch
def test_fp16_storage(model: Path) -> None:
    report = bench.run_bench(model, against=["all"], precision="fp16", threads=1, rounds=1)
    engines = {name for name in installed("fp16") if ENGINES[name].fp16}
    check(report, {"edgevae", *engines}, 5e-3)
    assert report.note.startswith("Without fp16, so left out: torch")


@needs_torch
def test_int8(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The bench's own part; tests/test_quantize.py has what quantizing does.
    seen: list[int] = []

    def quantize_file(source: Path, target: Path, frames: list[edgevae.Frame]) -> None:
        seen.append(len(frames))
        shutil.copy(source, target)

    module = types.ModuleType("edgevae.quantize")
    module.quantize_file = quantize_file  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgevae.quantize", module)
    monkeypatch.setattr(inputs, "CALIBRATION", 10)
    report = bench.run_bench(model, against=["all"], precision="int8", threads=1, rounds=1, batch=4)
    engines = {name for name in installed("int8") if ENGINES[name].int8 is not None}
    check(report, {"edgevae", *engines}, 1.0)
    assert seen == [10]
    assert "cosine 1.00000" in str(report)
    for timing in report.timings:
        assert timing.cosine is None or timing.cosine > 0.99


@needs_torch
@pytest.mark.parametrize("condition_dim", [0, 3])
def test_the_interpreter_computes_what_the_engine_computes(condition_dim: int, tmp_path: Path) -> None:
    import torch

    from edgevae import torch_model

    path = write_model(tmp_path / "m", condition_dim)
    native, whole, narrow = edgevae.load(path), torch_model.load(path), torch_model.load(path, mean_only=True)
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (2, 4, 32, 16)).astype(np.float32)
    z = generator.standard_normal((2, 6), np.float32)
    condition = [generator.standard_normal((2, condition_dim), np.float32)] if condition_dim else []
    rest = [torch.from_numpy(array) for array in condition]
    heads = whole.encoder(torch.from_numpy(x), *rest)
    assert heads.shape == (2, 12)
    assert narrow.encoder(torch.from_numpy(x), *rest).shape == (2, 6)
    # float32 sums of at most 256 terms of size 1
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(native.encode_heads(x, *condition), heads.numpy(), **close)
    np.testing.assert_allclose(narrow.encode(torch.from_numpy(x), *rest), heads.numpy()[:, :6], **close)
    decoded = whole.decode(torch.from_numpy(z), *rest).numpy()
    np.testing.assert_allclose(native.decode_tensor(z, *condition), decoded, **close)


def test_engines_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    calls = {name: lambda name=name: turns.append(name) or len(name) for name in ("edgevae", "a", "b")}
    timings = bench._time("encode", calls, 4, {"a": {"error": 0.5}})
    assert [timing.engine for timing in timings] == ["edgevae", "a", "b"]
    assert [timing.median_ms for timing in timings] == [7, 1, 1]
    assert timings[1].ratio == 1 / 7
    assert [timing.error for timing in timings] == [None, 0.5, None]
    assert turns[: 3 * bench.WARM_UP] == ["edgevae"] * 3 + ["a"] * 3 + ["b"] * 3
    rounds = [set(turns[start : start + 3]) for start in range(3 * bench.WARM_UP, len(turns), 3)]
    assert rounds == [{"edgevae", "a", "b"}] * 4
    assert turns[9:15] == ["edgevae", "a", "b", "a", "b", "edgevae"]
    assert pauses == [bench.PAUSE_S] * 12


@needs_torch
@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize("wrong", [1.01, np.nan])
def test_a_wrong_answer_stops_the_bench(
    operation: str, wrong: float, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = processes.Worker.answer

    def answer(self: Any, asked: str, path: Path, batches: int) -> None:
        right(self, asked, path, batches)
        if asked == operation:
            np.save(path, np.load(path) * np.float32(wrong))

    monkeypatch.setattr(processes.Worker, "answer", answer)
    with pytest.raises(EdgevaeError, match=f"edgevae is off by .* at {operation}"):
        bench.run_bench(model, against=["torch"], rounds=1)


@needs_torch
def test_of_all_engines_a_wrong_one_is_left_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = processes.Worker.answer

    def answer(self: Any, asked: str, path: Path, batches: int) -> None:
        right(self, asked, path, batches)
        if asked == "decode" and self.engine == "torchscript":
            np.save(path, np.load(path)[:1])

    monkeypatch.setattr(processes.Worker, "answer", answer)
    report = bench.run_bench(model, threads=1, rounds=1)
    assert "Torchscript answers decode with shape (1, 4, 32, 16), wanted (8, " in report.note
    assert report.note.endswith("so it was left out.")
    assert {timing.engine for timing in report.timings} >= {"edgevae", "torch"}
    assert "torchscript" not in str(report.rows())
    assert "torchscript" not in str(report.engine_rows())
    with pytest.raises(EdgevaeError, match=r"torchscript answers .*; its speed means nothing, leave it out"):
        bench.run_bench(model, against=["torchscript"], threads=1, rounds=1)


def test_a_broken_int8_model_is_refused() -> None:
    exact = np.eye(4)
    errors, limit = bench._errors("encode", np.ones((4, 4), np.float32), exact, "int8")
    with pytest.raises(
        EdgevaeError, match=r"x is at cosine 0.500 to a float64 run at encode, wanted at least"
    ):
        bench._refuse("x", "encode", errors, limit, "int8")


@pytest.mark.parametrize("encoding", ["linear", "inverse", "log", None])
def test_opencv_packs_what_edgevae_packs(encoding: str | None, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    depth = None if encoding is None else DepthEncoding(encoding, 0.6, 5.0, -0.5)
    spec = InputSpec(4 if depth else 3, 48, 96, depth=depth)
    job = Job(Path(), spec, "fp32", 1, 1, Path(), {}, {}, [], {})
    convert("opencv", job, tmp_path)
    frame = inputs.camera_frame(320, 200)
    got = open_engine("opencv", tmp_path, 1, "fp32")("pack 320x200")(*frame)
    wanted = pack(*frame, spec)
    np.testing.assert_allclose(got[:3], wanted[:3], rtol=0, atol=bench.PACK_LIMIT)
    assert bench._packing_errors("opencv", got, wanted)["error"] < 2
    with pytest.raises(EdgevaeError, match="opencv packs 100% of a frame otherwise than edgevae"):
        bench._packing_errors("opencv", got * np.nan, wanted)


def test_opencv_is_left_out_where_it_cannot_pack(tmp_path: Path) -> None:
    document, tensors, _ = model_file.read(write_model(tmp_path / "m"))
    document["color"] = {"encoding": "minmax"}
    model_file.write(tmp_path / "n", document, tensors)
    report = bench.run_bench(tmp_path / "n", against=["opencv"], threads=1, rounds=1)
    assert report.note.startswith("Opencv was left out: its way")
    assert {timing.engine for timing in report.timings} == {"edgevae"}


# --- processes ---------------------------------------------------------------------------------


@pytest.fixture
def worker(model: Path, tmp_path: Path) -> Iterator[processes.Worker]:
    """edgevae in a process, started."""
    folder = tmp_path / "edgevae"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(model)
    inputs.save(tmp_path, "encode", np.zeros((2, 4, 32, 16), np.float32))
    with processes.Worker("edgevae", folder, tmp_path, threads=1, batch=1, precision="fp32") as worker:
        worker.start(["encode"])
        yield worker
    assert not alive(worker.pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


def test_a_worker_answers_batch_by_batch(worker: processes.Worker, model: Path, tmp_path: Path) -> None:
    worker.answer("encode", tmp_path / "a.npy", 2)
    wanted = edgevae.load(model).encode_tensor(np.zeros((2, 4, 32, 16), np.float32))
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), wanted, atol=1e-6)
    assert 0 < worker.time_ms("encode") < 1000


def test_a_worker_that_fails(worker: processes.Worker) -> None:
    with pytest.raises(EdgevaeError, match="edgevae failed at decode: KeyError: 'decode'; leave it out"):
        worker.time_ms("decode")
    assert worker.time_ms("encode") > 0


def test_a_worker_that_is_killed(worker: processes.Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EdgevaeError, match="process of edgevae was ended by SIGKILL at encode; leave"):
            worker.time_ms("encode")


def test_a_worker_that_hangs(worker: processes.Worker) -> None:
    worker._timeout_s = 0.2
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(EdgevaeError, match="edgevae gave no answer to encode within 0 s and was ended"):
        worker.time_ms("encode")


def test_a_worker_that_cannot_start(tmp_path: Path) -> None:
    with (
        processes.Worker("edgevae", tmp_path, tmp_path, threads=1, batch=1, precision="fp32") as worker,
        pytest.raises(EdgevaeError, match=r"edgevae failed at start-up: ModelFileError: .* does not exist"),
    ):
        worker.start(["encode"])


def test_last_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.sys, "executable", shutil.which("false"))
    with processes.Worker("x", tmp_path, tmp_path, threads=1, batch=1, precision="fp32") as worker:
        (tmp_path / "worker.log").write_text("one\nno such  instruction\n")
        with pytest.raises(
            EdgevaeError, match="exit code 1 at start-up; its last line was: no such instruction; leave"
        ):
            worker.start(["encode"])


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from edgevae.bench.processes import Worker\n"
        f"w = Worker('edgevae', Path({str(tmp_path)!r}), Path(), threads=1, batch=1, precision='fp32')\n"
        "print(w.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert gone(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(number: int, model: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    command = [sys.executable, "-m", "edgevae", "bench", "--against", "none", "--rounds", "1000000"]
    with subprocess.Popen(
        [*command, "--threads", "1", "--model", str(model)],
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        end = time.monotonic() + 60
        while not (pids := children.read_text().split()) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert said in ("edgevae: interrupted.\n", "edgevae: ended by SIGTERM.\n")
    assert process.returncode == 128 + number
    assert pids
    assert all(gone(int(pid)) for pid in pids)
    assert list(temporary.iterdir()) == []


# --- layers ------------------------------------------------------------------------------------


def test_every_step_is_counted_and_timed(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", condition_dim=3)
    report = run_layers(path, threads=2, rounds=2, batch=3)
    steps = [(s.operation, s.layer, s.op, s.takes, s.gives, s.method) for s in report.steps]
    assert steps == [
        ("encode", 0, "conv2d", (4, 32, 16), (8, 16, 8), "direct"),
        ("encode", 2, "max_pool2d", (8, 16, 8), (8, 8, 4), "max pool"),
        ("encode", 4, "concat_condition", (256,), (259,), "to planes"),
        ("encode", 4, "concat_condition", (256,), (259,), "concat"),
        ("encode", 5, "linear", (259,), (12,), "direct"),
        ("decode", 0, "concat_condition", (6,), (9,), "concat"),
        ("decode", 1, "linear", (9,), (256,), "direct"),
        ("decode", 4, "upsample_conv2d", (8, 8, 4), (5, 16, 8), "nine products"),
        ("decode", 6, "conv_transpose2d", (5, 16, 8), (4, 32, 16), "columns"),
    ]
    assert all(step.median_us > 0 for step in report.steps)
    macs = {(step.operation, step.layer): step.macs for step in report.steps if step.macs}
    assert macs == {
        ("encode", 0): 3 * 16 * 8 * 8 * 4 * 16,
        ("encode", 5): 3 * 259 * 6,  # the means alone
        ("decode", 1): 3 * 9 * 256,
        ("decode", 4): 3 * 32 * 8 * 5 * 36,
        ("decode", 6): 3 * 128 * 5 * 4 * 16,
    }
    upsample = report.steps[7]
    assert upsample.products * 4 == upsample.macs
    assert upsample.weight_bytes >= 9 * 8 * 5 * 4
    document = json.loads(json.dumps(report.document()))
    assert document["steps"][7]["method"] == "nine products"
    assert (document["batch"], document["rounds"], document["threads"]) == (3, 2, 2)
    lines = str(report).splitlines()
    assert len(lines) == 2 + len(steps) + 2
    assert lines[0].startswith("small (")
    assert report.markdown().count("\n| ") == 2 + len(steps) + 2
    assert {len(row) for row in report.rows()} == {10}


@pytest.fixture
def int8(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An int8 file of ``model``, whose random weights lose more than the gate lets through."""
    monkeypatch.setattr("edgevae.quantize.MIN_COSINE", 0.0)
    monkeypatch.setattr("edgevae.quantize.MAX_LOSS_DB", 100.0)
    path = tmp_path / "int8"
    quantize_file(model, path, inputs.calibration_frames()[:8])
    return path


def test_steps_in_other_precisions(model: Path, int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def arithmetic(path: Path, precision: str) -> set[str]:
        report = run_layers(path, precision=precision, threads=1, rounds=1)
        assert report.path == str(path)
        return {step.arithmetic for step in report.steps if step.macs}

    assert arithmetic(model, "fp32") == {"fp32"}
    assert arithmetic(model, "fp16") == {"fp16"}
    monkeypatch.setattr(inputs, "CALIBRATION", 8)
    assert arithmetic(model, "int8") == {"fp32", "int8 weights", "int8"}
    report = run_layers(int8, threads=1, rounds=1)
    assert report.precision == "int8"
    for precision in ("fp16", "int8"):
        with pytest.raises(EdgevaeError, match="is an int8 file, wanted the float model"):
            run_layers(int8, precision=precision)


def test_an_int8_file_runs_alone(int8: Path) -> None:
    report = bench.run_bench(int8, threads=1, rounds=1)
    assert report.precision == "int8"
    assert "An int8 file is edgevae's own, so it ran alone." in report.note
    networks = [timing for timing in report.timings if not timing.operation.startswith("pack")]
    assert {timing.engine for timing in networks} == {"edgevae"}
    assert {timing.operation for timing in networks} >= {"encode", "decode"}
    assert report.engines[0].weights_mb == int8.stat().st_size / 1e6
    assert bench.run_bench(int8, against=[], threads=1, rounds=1).note == ""
    for precision in ("fp16", "int8"):
        with pytest.raises(EdgevaeError, match=f"is an int8 file, wanted .* for --precision {precision}"):
            bench.run_bench(int8, precision=precision)


@needs_torch
def test_an_int8_file_beside_others_is_refused(int8: Path) -> None:
    for against in (["torch"], ["all"]):
        with pytest.raises(EdgevaeError, match=r"is an int8 file, which torch.* cannot run; leave out"):
            bench.run_bench(int8, against=against, threads=1, rounds=1)


def test_wrong_arguments_of_layers(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, says in (
        ({"rounds": 0}, "wanted rounds from 1"),
        ({"batch": 1025}, "wanted rounds from 1"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"threads": 0}, "threads is 0"),
    ):
        with pytest.raises(EdgevaeError, match=says):
            run_layers(model, **change)
    with pytest.raises(ModelFileError, match="does not exist"):
        run_layers(tmp_path / "absent")
    for more in (["--against", "torch"], ["--against", "all"], ["--plot", str(tmp_path / "p.png")]):
        assert cli.main(["bench", "--layers", "--model", str(model), *more]) == 2
        assert "leave out --against and --plot" in capsys.readouterr().err


# --- the README --------------------------------------------------------------------------------


def fabricated(precision: str, threads: int, batch: int) -> bench.BenchReport:
    timings = []
    for operation in ("encode", "posterior", "decode", "pack 640x480"):
        timings.append(bench.Timing(operation, "edgevae", 1.5, 2.0, 1.0, 1e-6, None, 0.99987))
        timings.append(bench.Timing(operation, "openvino", 4.5, 5.0, 3.0, 2e-6, None, 0.99991))
        timings.append(bench.Timing(operation, "ncnn", 6.0, 7.0, 4.0, 3e-6, None, 0.5))
    return bench.BenchReport(
        model="m",
        path="p",
        sha256="0",
        processor="P",
        isa="avx2",
        precision=precision,
        threads=threads,
        batch=batch,
        rounds=7,
        note="",
        timings=tuple(timings),
        engines=(bench.EngineFacts("edgevae", "1", 0.3, 90.0, 15.0),),
    )


def test_the_readme_is_written_from_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    script = Path(__file__).parents[1] / "benches" / "write_readme.py"
    spec = importlib.util.spec_from_file_location("write_readme", script)
    assert spec is not None
    assert spec.loader is not None
    write_readme = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "write_readme", write_readme)
    spec.loader.exec_module(write_readme)
    text = (script.parents[1] / "README.md").read_text()
    assert text.count(write_readme.BEGIN) == text.count(write_readme.END) == 1

    readme, reports = tmp_path / "README.md", tmp_path / "reports"
    (tmp_path / "docs" / "images").mkdir(parents=True)
    reports.mkdir()
    monkeypatch.setattr(write_readme, "ROOT", tmp_path)
    monkeypatch.setattr(write_readme, "README", readme)
    monkeypatch.setattr(sys, "argv", ["write_readme.py", "--from", str(reports)])
    readme.write_text(text)
    assert write_readme.main() == 2
    assert "there is no full-fp32-threads1-batch1.json" in capsys.readouterr().err
    assert readme.read_text() == text

    for run in write_readme.RUNS:
        report = fabricated(run.precision, run.threads, run.batch)
        (reports / run.name).write_text(json.dumps(report.document()))
    assert write_readme.main() == 0
    once = readme.read_text()
    head, block = once.split(write_readme.BEGIN)
    block, tail = block.split(write_readme.END)
    assert (head, tail) == (text.split(write_readme.BEGIN)[0], text.split(write_readme.END)[1])
    assert "| width 64 | encode | 1.5 ms | 3.0× | 4.0× | 3e-06 |" in block
    assert "|  | int8 | 2 | 16 | 1.5 ms, openvino 3.0× (cosine 0.9999 and 0.9999) | 1.5 ms, " in block
    assert "640×480 1.5 ms (openvino 3.0×, ncnn 4.0×)" in block
    assert (tmp_path / "docs" / "images" / "bench.png").stat().st_size > 10_000
    assert write_readme.main() == 0
    assert readme.read_text() == once

    (reports / write_readme.RUNS[3].name).write_text("{}")
    assert write_readme.main() == 2
    assert "delete it" in capsys.readouterr().err


# --- what users get wrong ----------------------------------------------------------------------


def test_edgevae_alone(model: Path) -> None:
    report = bench.run_bench(model, against=[], threads=1, rounds=2)
    packs = [f"pack {width}x{height}" for width, height in inputs.CAMERAS]
    assert [timing.operation for timing in report.timings] == ["encode", "posterior", "decode", *packs]
    assert all(timing.error is None for timing in report.timings)
    assert [facts.engine for facts in report.engines] == ["edgevae"]
    assert report.note == ""


def test_without_torch(model: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgevae.bench import run_bench\n"
        f"print(run_bench({str(model)!r}, threads=1, rounds=2))\n"
        f"try: run_bench({str(model)!r}, against=['torchscript'])\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "PyTorch is not installed; pip install 'edgevae[bench]'" in done.stdout, done.stderr
    assert 'torchscript needs torch, not installed here; run "pip install torch"' in done.stdout


def test_a_missing_compiler(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "compiler", lambda: None)
    if "compile" in installed("fp32"):
        with pytest.raises(EdgevaeError, match="run 'apt install g"):
            bench.run_bench(model, against=["compile"])
        assert "compile" not in bench._choose(["all"], "fp32")[0]


@needs_torch
def test_a_tool_that_refuses(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(job: Job, folder: Path) -> None:
        print("noise")
        raise RuntimeError("no such\noperator")

    monkeypatch.setitem(ENGINES, "torch", Engine({}, refuse))
    with pytest.raises(
        EdgevaeError, match=r"torch cannot take this model \(RuntimeError: no such operator\)"
    ):
        bench.run_bench(model, against=["torch"], rounds=1)


def test_arguments_that_make_no_sense(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgevaeError, match="'tflite', wanted torch, torchscript"):
        bench.run_bench(model, against=["tflite"])
    with pytest.raises(EdgevaeError, match="'tflite', wanted torch, torchscript"):
        bench.run_bench(model, against=["all", "tflite"])
    for change in ({"rounds": 0}, {"batch": 0}, {"batch": 4096}):
        with pytest.raises(EdgevaeError, match="wanted rounds from 1"):
            bench.run_bench(model, against=[], **change)
    with pytest.raises(EdgevaeError, match="precision is 'int4', wanted fp32, fp16, int8"):
        bench.run_bench(model, against=[], precision="int4")
    with pytest.raises(EdgevaeError, match="threads"):
        bench.run_bench(model, against=[], threads=0)
    with pytest.raises(ModelFileError, match="does not exist"):
        bench.run_bench(tmp_path / "absent", against=[])
    for name in ("random:", "random:0", "random:9999", "random:x", "random:-3", "random:²"):
        with pytest.raises(EdgevaeError, match="wanted random:WIDTH with a width from 1 to 256"):
            bench.run_bench(name, against=[])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["bench", "--model", "random:1", "--against", "none", "--rounds", "1", "--threads", "1"]
    assert cli.main([*base, "--json", str(tmp_path / "j"), "--markdown", str(tmp_path / "a" / "m")]) == 0
    assert json.loads((tmp_path / "j").read_text())["path"] == "random:1"
    assert (tmp_path / "a" / "m").read_text().startswith("rgbd-vae, width 1, random weights (random:1)")
    layers = [*base, "--layers", "--json", str(tmp_path / "l"), "--markdown", str(tmp_path / "lm")]
    assert cli.main(layers) == 0
    assert len(json.loads((tmp_path / "l").read_text())["steps"]) == 12
    assert "| decode[10] upsample_conv2d |" in (tmp_path / "lm").read_text()
    capsys.readouterr()
    for option, value, said in (
        ("--plot", "p.gif", "ends in .svg or .png"),
        ("--json", ".", "is a folder"),
        ("--json", "j/x", "cannot write"),
    ):
        assert cli.main([*base, option, str(tmp_path / value)]) == 2
        assert said in capsys.readouterr().err
