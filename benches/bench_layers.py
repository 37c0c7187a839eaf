"""Single layers of the architectures a VAE is made of, the engine against OpenVINO; one thread each.

    pytest benches/bench_layers.py --benchmark-columns=median,iqr,rounds

Each case is one PyTorch layer with its activation. Both engines take and give numpy arrays (N, C, h, w), so
each pays for the change to its own memory layout, which inside a network it would not.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgevae import _core

Call = Callable[[], np.ndarray]

# Float32 sums of up to 8192 products in another order, against float64: 4 sqrt(8192) 2^-24 = 2e-5 of the sum
# of magnitudes; the nine-product form of upsampling four times as much. A wrong layer is off by 1e-1.
LIMIT = 1e-4


def cases() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Name to (layers, input shape). Needs PyTorch, which also defines what the right answer is."""
    from torch import nn

    def conv(n_in: int, n_out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> list[Any]:
        return [nn.Conv2d(n_in, n_out, kernel, stride, padding), nn.ReLU()]

    def up(n_in: int, n_out: int, mode: str = "replicate") -> list[Any]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(n_in, n_out, 3, 1, 1, padding_mode=mode), nn.ReLU()]

    def transposed(n_in: int, n_out: int, kernel: int = 4, padding: int = 1, extra: int = 0) -> list[Any]:
        return [nn.ConvTranspose2d(n_in, n_out, kernel, 2, padding, extra), nn.ReLU()]

    def linear(n_in: int, n_out: int) -> list[Any]:
        return [nn.Linear(n_in, n_out), nn.ReLU()]

    found: dict[str, tuple[list[Any], tuple[int, ...]]] = {
        # A: the RGB-D VAE
        "conv 4x4/2 4-64 128x128": (conv(4, 64, 4, 2), (1, 4, 128, 128)),
        "conv 4x4/2 64-128 64x64": (conv(64, 128, 4, 2), (1, 64, 64, 64)),
        "conv 4x4/2 512-512 8x8": (conv(512, 512, 4, 2), (1, 512, 8, 8)),
        "upsample 512-512 4x4": (up(512, 512), (1, 512, 4, 4)),
        "upsample 128-64 32x32": (up(128, 64), (1, 128, 32, 32)),
        "upsample 64-4 64x64": (up(64, 4), (1, 64, 64, 64)),
        # B: grey images up to 1024x1024
        "conv 3x3/2 1-32 1024x1024": (conv(1, 32, 3, 2), (1, 1, 1024, 1024)),
        "conv 4x4/2 1-16 1024x1024": (conv(1, 16, 4, 2), (1, 1, 1024, 1024)),
        "transposed 4x4/2 64-32 128x128": (transposed(64, 32), (1, 64, 128, 128)),
        "transposed 4x4/2 16-1 512x512": (transposed(16, 1), (1, 16, 512, 512)),
        # C: 100x100 colour images, narrow layers
        "conv 3x3 3-12 100x100": (conv(3, 12), (1, 3, 100, 100)),
        "conv 3x3 12-24 100x100": (conv(12, 24), (1, 12, 100, 100)),
        "conv 3x3 24-6 100x100": (conv(24, 6), (1, 24, 100, 100)),
        "conv 3x3/2 3-12 100x100": (conv(3, 12, 3, 2), (1, 3, 100, 100)),
        "conv 3x3/2 12-24 50x50": (conv(12, 24, 3, 2), (1, 12, 50, 50)),
        "conv 3x3/2 24-6 25x25": (conv(24, 6, 3, 2), (1, 24, 25, 25)),
        "conv 3x3/2 3-12 100x100 batch 64": (conv(3, 12, 3, 2), (64, 3, 100, 100)),
        "transposed 4x4/2 6-24 25x25": (transposed(6, 24), (1, 6, 25, 25)),
        "transposed 4x4/2 24-12 25x25": (transposed(24, 12), (1, 24, 25, 25)),
        "transposed 4x4/2 12-3 50x50": (transposed(12, 3), (1, 12, 50, 50)),
        # D: faces, 28x20
        "conv 3x3 1-32 28x20": (conv(1, 32), (1, 1, 28, 20)),
        "conv 3x3 32-64 14x10": (conv(32, 64), (1, 32, 14, 10)),
        "conv 3x3 64-128 7x5": (conv(64, 128), (1, 64, 7, 5)),
        "conv 3x3 32-64 14x10 batch 64": (conv(32, 64), (64, 32, 14, 10)),
        "max pool 2 32 channels 28x20": ([nn.MaxPool2d(2)], (1, 32, 28, 20)),
        "max pool 2 64 channels 128x128": ([nn.MaxPool2d(2)], (1, 64, 128, 128)),
        "transposed 3x3/2 128-64 3x2": (transposed(128, 64, 3), (1, 128, 3, 2)),
        "transposed 3x3/2 768-128 1x1": (transposed(768, 128, 3, 0), (1, 768, 1, 1)),
        "transposed 4x4/2 64-32 7x5": (transposed(64, 32), (1, 64, 7, 5)),
        "transposed 4x4/2 32-1 14x10": (transposed(32, 1), (1, 32, 14, 10)),
        # VGG blocks
        "conv 3x3 3-64 128x128": (conv(3, 64), (1, 3, 128, 128)),
        "conv 3x3 64-64 64x64": (conv(64, 64), (1, 64, 64, 64)),
        "conv 3x3 128-128 32x32": (conv(128, 128), (1, 128, 32, 32)),
        "conv 3x3 256-256 16x16": (conv(256, 256), (1, 256, 16, 16)),
        "conv 3x3 512-512 8x8": (conv(512, 512), (1, 512, 8, 8)),
        "conv 3x3 softplus 64-64 64x64": ([*conv(64, 64)[:1], nn.Softplus()], (1, 64, 64, 64)),
        "transposed 4x4/2 256-128 16x16": (transposed(256, 128), (1, 256, 16, 16)),
        # E and the fully connected ones
        "linear 784-400": (linear(784, 400), (1, 784)),
        "linear 784-400 batch 64": (linear(784, 400), (64, 784)),
        "linear 784-100": (linear(784, 100), (1, 784)),
        "linear 784-100 batch 64": (linear(784, 100), (64, 784)),
        "linear 512-256": (linear(512, 256), (1, 512)),
        "linear 20-400": (linear(20, 400), (1, 20)),
        "linear 400-784 sigmoid batch 64": ([nn.Linear(400, 784), nn.Sigmoid()], (64, 400)),
        "linear 8192-400": (linear(8192, 400), (1, 8192)),
        "linear 8192-400 batch 16": (linear(8192, 400), (16, 8192)),
        # activations on their own
        "tanh 4x128x128": ([nn.Tanh()], (1, 4, 128, 128)),
        "softplus 64x64x64": ([nn.Softplus()], (1, 64, 64, 64)),
        "sigmoid 784 batch 64": ([nn.Sigmoid()], (64, 784)),
    }
    return {name: (nn.Sequential(*layers).eval(), shape) for name, (layers, shape) in found.items()}


def engine_call(module: Any, x: np.ndarray) -> Call:
    import torch

    from edgevae.torch_layers import walk

    layers, tensors = walk("layer", module, torch.from_numpy(x[:1]))
    network = _core.Network(layers, tensors, x.shape[1:], 0, _core.Pool(1))
    return lambda: network.run(x)


def openvino_call(module: Any, x: np.ndarray) -> Call:
    """At its best setting for one caller: compiled for this shape, no copies at either end."""
    import openvino
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it goes by way of torch.jit.trace
        graph = openvino.convert_model(module, example_input=torch.from_numpy(x), input=x.shape)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(graph, "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    answer = request.get_output_tensor().data

    def call() -> np.ndarray:
        request.infer()
        return answer

    return call


ENGINES = {"edgevae": engine_call, "openvino": openvino_call}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    metafunc.parametrize("case", cases().items(), ids=lambda case: case[0])


@pytest.mark.parametrize("on", ENGINES)
def test_layer(timed: Any, case: tuple[str, tuple[Any, tuple[int, ...]]], on: str) -> None:
    torch = pytest.importorskip("torch")
    if on == "openvino":
        pytest.importorskip("openvino")
    name, (module, shape) = case
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    with torch.inference_mode():
        call = ENGINES[on](module, x)
        wanted = copy.deepcopy(module).double()(torch.from_numpy(x).double()).numpy()

    def absolute(y: np.ndarray) -> float:
        return float(np.abs(y - wanted).max())

    timed(name, lambda _: call(), x, error=absolute, limit=LIMIT)
