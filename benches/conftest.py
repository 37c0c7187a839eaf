"""What the benches share: a model file at full size, engines at equal threads, one way to time.

    pytest benches --benchmark-columns=median,iqr,min,max,rounds
    pytest benches -k "not batch16 and not threads2" --benchmark-json bench.json

The JSON holds each p99 and error under ``extra_info``. pytest-benchmark runs one engine after the other; on
a busy machine trust ``edgevae bench``, where they take turns.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevae
from edgevae.bench import inputs
from edgevae.bench.engines import ENGINES, Job, convert
from edgevae.bench.random_model import write_random_model
from edgevae.bench.worker import open_engine

# torch.compile takes its half minute for each combination, and OpenCV runs no networks.
PEERS = [name for name in ENGINES if name not in ("compile", "opencv")]
BATCHES = (1, 16)
THREADS = sorted({1, min(8, len(os.sched_getaffinity(0)))})

Arrays = Callable[[np.ndarray], np.ndarray]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    values: Sequence[str | int]
    for name, values in (("engine", ("edgevae", *PEERS)), ("batch", BATCHES), ("threads", THREADS)):
        if name in metafunc.fixturenames:
            ids = [value if isinstance(value, str) else f"{name}{value}" for value in values]
            metafunc.parametrize(name, values, ids=ids, scope="session")


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of the RGB-D VAE at width 64, latent 400, 128x128, with random weights.

    The environment variable EDGEVAE_BENCH_MODEL names another model file.
    """
    if "EDGEVAE_BENCH_MODEL" in os.environ:
        return Path(os.environ["EDGEVAE_BENCH_MODEL"])
    path = tmp_path_factory.mktemp("model") / "rgbd-vae.safetensors"
    write_random_model(path, 64)
    return path


@pytest.fixture(scope="session")
def examples(model_path: Path) -> Callable[[int], dict[str, np.ndarray]]:
    """For a batch: an input of "encode", and one of "decode"."""
    model = edgevae.load(model_path)

    @functools.cache
    def make(batch: int) -> dict[str, np.ndarray]:
        x = inputs.packed(inputs.checked_frames(batch)[:batch], model.spec.input)
        return {"encode": x, "decode": model.encode_tensor(x)}

    return make


@pytest.fixture(scope="session")
def truth(
    model_path: Path, examples: Callable[[int], dict[str, np.ndarray]]
) -> Callable[[str, int], tuple[np.ndarray, np.ndarray]]:
    """For "encode" or "decode" and a batch: an input, and what PyTorch makes of it in float64."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from edgevae.bench import torch_parts

    parts = torch_parts.load(model_path)

    @functools.cache
    def answer(operation: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
        x = examples(batch)[operation]
        return x, torch_parts.exact(parts[operation], x)

    return answer


@pytest.fixture(scope="session")
def calls(
    model_path: Path,
    examples: Callable[[int], dict[str, np.ndarray]],
    engine: str,
    batch: int,
    threads: int,
) -> Iterator[dict[str, Arrays]]:
    """``encode`` (to the mean) and ``decode`` of an engine, numpy in and out."""
    parts = {}
    if engine != "edgevae":
        missing = ENGINES[engine].missing("fp32")
        if missing:
            pytest.skip(f"{' and '.join(missing)} not installed")
        from edgevae.bench import torch_parts

        parts = torch_parts.load(model_path)
        parts.pop("posterior", None)
    arrays = {name: [array] for name, array in examples(batch).items()}
    spec = edgevae.load(model_path).spec.input
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(model_path, spec, "fp32", batch, threads, folder, parts, arrays, [], {})
        convert(engine, job, folder)
        ready = open_engine(engine, folder, threads, "fp32")
        yield {operation: ready(operation) for operation in arrays}


@pytest.fixture
def timed(benchmark: Any) -> Callable[..., np.ndarray]:
    """Time one call in a group with its baselines; p99 goes beside pytest-benchmark's own columns."""

    def run(group: str, call: Arrays, argument: Any) -> np.ndarray:
        benchmark.group = group
        for _ in range(3):  # TorchScript compiles in its first calls, and memory is planned
            call(argument)
        answer = benchmark(call, argument)
        if benchmark.stats is not None:  # None with --benchmark-disable
            benchmark.extra_info["p99_ms"] = float(np.percentile(benchmark.stats.stats.data, 99) * 1e3)
        return answer

    def finish(
        group: str, call: Arrays, argument: Any, *, error: Callable[[np.ndarray], float], limit: float
    ) -> None:
        found = error(run(group, call, argument))
        benchmark.extra_info["error"] = found
        assert found <= limit, f"{group}: off by {found:.1e}, its speed means nothing"

    return finish
