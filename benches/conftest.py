"""What the benches share: a model file at full size, engines at equal threads, one way to time.

    pytest benches --benchmark-columns=median,iqr,min,max,rounds
    pytest benches -k "not batch16 and not threads2" --benchmark-json bench.json

The JSON holds each p99 and error under ``extra_info``. pytest-benchmark runs one engine after the other; on
a busy machine trust ``edgevae bench``, where they take turns.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevae
from edgevae import model_file

ENGINES = ("edgevae", "torch", "torchscript")
BATCHES = (1, 16)
THREADS = sorted({1, min(8, len(os.sched_getaffinity(0)))})

Arrays = Callable[[np.ndarray], np.ndarray]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, values in (("engine", ENGINES), ("batch", BATCHES), ("threads", THREADS)):
        if name in metafunc.fixturenames:
            ids = values if name == "engine" else [f"{name}{value}" for value in values]
            metafunc.parametrize(name, values, ids=ids, scope="session")


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of the RGB-D VAE at width 64, latent 400, 128x128, with random weights.

    The environment variable EDGEVAE_BENCH_MODEL names another model file.
    """
    if "EDGEVAE_BENCH_MODEL" in os.environ:
        return Path(os.environ["EDGEVAE_BENCH_MODEL"])
    generator = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def layer(op: str, name: str, *shape: int, **fields: Any) -> dict[str, Any]:
        # variance 2 / inputs keeps the size of activations through ReLU-like layers
        scale = np.sqrt(2 / np.prod(shape[1:]))
        tensors[f"{name}.w"] = (scale * generator.standard_normal(shape)).astype(np.float32)
        tensors[f"{name}.b"] = 0.1 * generator.standard_normal(shape[0], np.float32)
        return {"op": op, "weight": f"{name}.w", "bias": f"{name}.b", **fields}

    leaky = {"op": "activation", "kind": "leaky_relu", "slope": 0.2}
    window = {"stride": 2, "padding": 1, "padding_mode": "zeros"}
    encoder: list[dict[str, Any]] = []
    widths = (4, 64, 128, 256, 512, 512)
    for index, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        encoder += [layer("conv2d", f"e{index}", n_out, n_in, 4, 4, **window), leaky]
    encoder += [{"op": "reshape", "shape": [512 * 4 * 4]}, layer("linear", "head", 800, 512 * 4 * 4)]

    decoder = [layer("linear", "start", 512 * 4 * 4, 400), {"op": "reshape", "shape": [512, 4, 4]}]
    widths = (512, 512, 256, 128, 64, 4)
    for index, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        decoder += [layer("upsample_conv2d", f"d{index}", n_out, n_in, 3, 3, padding_mode="replicate"), leaky]
    decoder[-1] = {"op": "activation", "kind": "tanh"}

    path = tmp_path_factory.mktemp("model") / "rgbd-vae.safetensors"
    document = {
        "format_version": 1,
        "name": "rgbd-vae",
        "input": {"channels": 4, "height": 128, "width": 128},
        "latent_dim": 400,
        "condition_dim": 0,
        "posterior": {"scale": "softplus", "epsilon": 1e-5},
        "color": {"encoding": "fixed"},
        "depth": {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0},
        "precision": "fp32",
        "encoder": encoder,
        "decoder": decoder,
        "provenance": {},
    }
    model_file.write(path, document, tensors)
    return path


@pytest.fixture(scope="session")
def truth(model_path: Path) -> Callable[[str, int], tuple[np.ndarray, np.ndarray]]:
    """For "encode" or "decode" and a batch: an input, and what PyTorch makes of it in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from edgevae import torch_model

    exact = torch_model.load(model_path).double()
    size = exact.document["input"]
    shapes = {"encode": (size["channels"], size["height"], size["width"]), "decode": (exact.latent_dim,)}

    @functools.cache
    def answer(operation: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.random.default_rng(0).uniform(-1, 1, (batch, *shapes[operation])).astype(np.float32)
        return x, getattr(exact, operation)(torch.from_numpy(x).double()).numpy()

    return answer


@pytest.fixture(scope="session")
def calls(model_path: Path, engine: str, threads: int) -> Iterator[dict[str, Arrays]]:
    """``encode`` (to the mean) and ``decode`` of an engine, numpy in and out."""
    if engine == "edgevae":
        model = edgevae.load(model_path, threads=threads)
        yield {"encode": model.encode_tensor, "decode": model.decode_tensor}
        return
    import torch

    from edgevae import export, torch_model

    model = torch_model.load(model_path, mean_only=True)
    if engine == "torchscript":
        size = model.document["input"]
        example = torch.zeros(1, size["channels"], size["height"], size["width"])
        model = export.torchscript(model, example)

    def calling(method: Any) -> Arrays:
        def call(x: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return method(torch.from_numpy(x)).numpy()

        return call

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield {"encode": calling(model.encode), "decode": calling(model.decode)}
    torch.set_num_threads(before)


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
