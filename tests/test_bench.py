"""The bench: fair turns, equal answers, clear sentences. How fast anything is, is not tested here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevae
from edgevae import bench, model_file
from edgevae.errors import EdgevaeError, ModelFileError

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


@needs_torch
@pytest.mark.parametrize("condition_dim", [0, 3])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_all_engines_agree(condition_dim: int, precision: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", condition_dim, precision)
    report = bench.run_bench(path, threads=2, rounds=3, batch=3)
    rows = {(timing.operation, timing.engine): timing for timing in report.timings}
    engines = ("edgevae", "torch", "torchscript")
    assert set(rows) == {(op, name) for op in ("encode", "decode") for name in engines} | {
        ("pack", "edgevae")
    }
    for (operation, engine), timing in rows.items():
        assert 0 < timing.median_ms <= timing.p99_ms
        assert timing.ratio > 0
        if engine == "edgevae":
            assert timing.ratio == 1.0
        if operation == "pack":
            assert timing.error is None
        else:
            assert timing.error is not None
            assert 0 <= timing.error < 1e-5
    assert (report.threads, report.batch, report.rounds, report.note) == (2, 3, 3, "")
    assert json.loads(json.dumps(report.document()))["timings"][0]["engine"] == "edgevae"
    lines = str(report).splitlines()
    assert len(lines) == 2 + len(rows)
    assert "torchscript" in lines[4]


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


def test_engines_take_turns() -> None:
    turns: list[str] = []
    works = {name: lambda name=name: turns.append(name) or np.zeros(1) for name in ("edgevae", "a", "b")}
    timings = bench._time("encode", works, 4, {})
    assert [timing.engine for timing in timings] == ["edgevae", "a", "b"]
    assert turns[: 3 * bench.WARM_UP] == ["edgevae"] * 3 + ["a"] * 3 + ["b"] * 3
    rounds = [set(turns[start : start + 3]) for start in range(3 * bench.WARM_UP, len(turns), 3)]
    assert rounds == [{"edgevae", "a", "b"}] * 4
    assert turns[9:15] == ["edgevae", "a", "b", "a", "b", "edgevae"]


@needs_torch
def test_threads_are_equal_and_given_back(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen = []
    time_all = bench._time
    monkeypatch.setattr(bench, "_time", lambda *a: seen.append(torch.get_num_threads()) or time_all(*a))
    before = torch.get_num_threads()
    bench.run_bench(model, against=["torch"], threads=3, rounds=1)
    assert seen == [3, 3, 3]
    assert torch.get_num_threads() == before


@needs_torch
@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize("wrong", [1.01, np.nan])
def test_a_wrong_answer_stops_the_bench(
    operation: str, wrong: float, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(edgevae.Model, f"{operation}_tensor")
    monkeypatch.setattr(
        edgevae.Model, f"{operation}_tensor", lambda self, x: right(self, x) * np.float32(wrong)
    )
    with pytest.raises(EdgevaeError, match=f"edgevae is off by .* at {operation}"):
        bench.run_bench(model, against=["torch"], rounds=1)


def test_edgevae_alone(model: Path) -> None:
    report = bench.run_bench(model, against=[], threads=1, rounds=2)
    assert [timing.operation for timing in report.timings] == ["encode", "decode", "pack"]
    assert all(timing.error is None for timing in report.timings)
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
    assert "edgevae ran alone" in done.stdout, done.stderr
    assert "torchscript needs PyTorch" in done.stdout
    assert "pip install 'edgevae[bench]'" in done.stdout


def test_arguments_that_make_no_sense(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgevaeError, match="'tflite', wanted torch or torchscript"):
        bench.run_bench(model, against=["tflite"])
    for change in ({"rounds": 0}, {"batch": 0}, {"batch": 4096}):
        with pytest.raises(EdgevaeError, match="wanted rounds from 1"):
            bench.run_bench(model, against=[], **change)
    with pytest.raises(EdgevaeError, match="threads"):
        bench.run_bench(model, against=[], threads=0)
    with pytest.raises(ModelFileError, match="does not exist"):
        bench.run_bench(tmp_path / "absent", against=[])
