"""Every instruction set against the reference, without torch: what runs on a machine of another architecture.

test_layers.py holds the reference itself to PyTorch; here the fast kernels are held to the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edgevae
from edgevae import _core

EPSILON = 2.0**-24  # of float32, whose sums of k products are off by about sqrt(k) of it (test_layers.py)

CONVS = [  # n, ic, oc, h, w, kernel, stride, padding, mode
    (1, 4, 64, 12, 12, 4, 2, 1, "zeros"),
    (2, 20, 37, 6, 10, 4, 2, 1, "zeros"),
    (1, 1, 1, 1, 1, 1, 1, 0, "zeros"),
    (1, 5, 7, 11, 3, 5, 3, 2, "replicate"),
    (3, 17, 33, 5, 4, 3, 2, 1, "replicate"),
    (1, 16, 65, 1, 40, 1, 2, 0, "zeros"),
]


def check(
    isa: str,
    layers: list[dict[str, Any]],
    tensors: dict[str, np.ndarray],
    x: np.ndarray,
    products: int,
    precision: str = "exact",
    slack: float = 4,
) -> None:
    """The layers on `isa`, one thread and three, against the reference; an output sums up `products`."""

    def run(isa: str, threads: int, tensors: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        network = _core.Network(layers, tensors, x.shape[1:], 0, _core.Pool(threads), isa, precision)
        return network.run(x)

    wanted = run("reference", 1, tensors, x)
    magnitude = run("reference", 1, {name: abs(t) for name, t in tensors.items()}, abs(x))
    for threads in (1, 3):
        got = run(isa, threads, tensors, x)
        bound = slack * np.sqrt(products) * EPSILON * magnitude + 1e-30
        worst = np.max(np.abs(got - wanted) / bound)
        assert worst <= 1, f"{isa}, {threads} threads: error is {worst:.2f} times its bound"


@pytest.mark.parametrize("precision", ["exact", "fp16"])
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv2d(isa: str, case: tuple[Any, ...], precision: str, rng: np.random.Generator) -> None:
    n, ic, oc, h, w, k, stride, padding, mode = case
    x = rng.standard_normal((n, ic, h, w)).astype(np.float32)
    weight = rng.standard_normal((oc, ic, k, k)).astype(np.float32)
    weight.flat[::5] *= 1e-6  # subnormal halves
    if precision == "fp16":  # rounded here, because the reference keeps float32
        weight = weight.astype(np.float16).astype(np.float32)
    conv = {"op": "conv2d", "weight": "w", "bias": "b", "stride": stride, "padding": padding}
    tensors = {"w": weight, "b": rng.standard_normal(oc).astype(np.float32)}
    check(isa, [{**conv, "padding_mode": mode}], tensors, x, ic * k * k + 1, precision)


def test_every_half_is_read_as_it_is(isa: str) -> None:
    """A 1x1 convolution of 1 with each finite half, subnormal ones and both zeros among them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    weight = halves[np.isfinite(halves)].astype(np.float32).reshape(-1, 1, 1, 1)
    conv = {"op": "conv2d", "weight": "w", "bias": None, "stride": 1, "padding": 0, "padding_mode": "zeros"}
    network = _core.Network([conv], {"w": weight}, (1, 1, 1), 0, _core.Pool(1), isa)
    np.testing.assert_array_equal(network.run(np.ones((1, 1, 1, 1), np.float32)).ravel(), weight.ravel())


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize(("ic", "oc", "h", "w"), [(1, 1, 1, 1), (5, 4, 3, 7), (33, 37, 5, 4), (64, 16, 6, 6)])
def test_upsample_conv2d(
    isa: str, mode: str, ic: int, oc: int, h: int, w: int, rng: np.random.Generator
) -> None:
    layer = {"op": "upsample_conv2d", "weight": "w", "bias": "b", "padding_mode": mode}
    tensors = {
        "w": rng.standard_normal((oc, ic, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(oc).astype(np.float32),
    }
    x = rng.standard_normal((2, ic, h, w)).astype(np.float32)
    check(isa, [layer], tensors, x, ic * 9 + 1, slack=16)  # differences and sums come before the products


@pytest.mark.parametrize(
    ("k", "stride", "padding", "output_padding"), [(4, 2, 1, 0), (3, 2, 1, 1), (2, 3, 0, 0)]
)
def test_conv_transpose2d(
    isa: str, k: int, stride: int, padding: int, output_padding: int, rng: np.random.Generator
) -> None:
    layer = {
        "op": "conv_transpose2d", "weight": "w", "bias": None, "stride": stride, "padding": padding,
        "output_padding": output_padding,
    }  # fmt: skip
    weight = rng.standard_normal((9, 6, k, k)).astype(np.float32)
    check(isa, [layer], {"w": weight}, rng.standard_normal((2, 9, 5, 4)).astype(np.float32), 9 * k * k)


@pytest.mark.parametrize(("n", "inputs", "outputs"), [(1, 1, 1), (1, 2048, 17), (5, 33, 130)])
def test_linear(isa: str, n: int, inputs: int, outputs: int, rng: np.random.Generator) -> None:
    tensors = {
        "w": rng.standard_normal((outputs, inputs)).astype(np.float32),
        "b": rng.standard_normal(outputs).astype(np.float32),
    }
    x = rng.standard_normal((n, inputs)).astype(np.float32)
    check(isa, [{"op": "linear", "weight": "w", "bias": "b"}], tensors, x, inputs + 1)


INT8 = [  # op, weight, input
    ("conv2d", (9, 6, 3, 3), (2, 6, 5, 4)),
    ("conv2d", (37, 20, 3, 3), (1, 20, 4, 7)),
    ("upsample_conv2d", (4, 21, 10, 2, 2), (2, 10, 3, 4)),
    ("upsample_conv2d", (4, 3, 17, 2, 2), (1, 17, 4, 3)),  # columns
]


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize(("op", "shape", "size"), INT8)
def test_int8(
    isa: str, op: str, shape: tuple[int, ...], size: tuple[int, ...], mode: str, rng: np.random.Generator
) -> None:
    """Sums of integers are exact, and scales are powers of two: the reference's very bits, alone and where a
    second layer takes them as uint8."""
    window = {"stride": 1, "padding": 1} if op == "conv2d" else {}
    outputs, inputs = shape[-4], shape[-3]
    scales = (outputs,) if op == "conv2d" else (4, outputs)
    first = {"op": op, "weight": "w", "weight_scale": "s", "input_scale": "i", "input_zero": 131, "bias": "b"}
    second = {"op": "conv2d", "weight": "w2", "weight_scale": "s2", "input_scale": "i2", "input_zero": 60}
    layers = [
        {**first, **window, "padding_mode": mode},
        {"op": "activation", "kind": "leaky_relu", "slope": 0.25},
        {**second, "stride": 1, "padding": 1, "padding_mode": mode, "bias": None},
    ]
    tensors = {
        "w": rng.integers(-127, 128, shape).astype(np.int8),
        "s": np.exp2(rng.integers(-10, -7, scales)).astype(np.float32),
        "i": np.full(inputs, 2.0**-5, np.float32),
        "b": rng.integers(-4, 5, outputs).astype(np.float32),
        "w2": rng.integers(-127, 128, (5, outputs, 3, 3)).astype(np.int8),
        "s2": np.ones(5, np.float32),
        "i2": np.full(outputs, 0.5, np.float32),
    }
    x = 2 * rng.standard_normal(size).astype(np.float32)
    x.flat[:4] = [np.nan, np.inf, -1e30, 4.0]
    for chain in (layers[:1], layers):
        wanted = _core.Network(chain, tensors, x.shape[1:], 0, _core.Pool(1), "reference").run(x)
        for threads in (1, 3):
            got = _core.Network(chain, tensors, x.shape[1:], 0, _core.Pool(threads), isa).run(x)
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("channels", [1, 16, 19])
def test_max_pool2d(isa: str, channels: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, channels, 7, 7)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    layer = {"op": "max_pool2d", "kernel": 3, "stride": 2}
    got, wanted = (
        _core.Network([layer], {}, x.shape[1:], 0, _core.Pool(1), name).run(x) for name in (isa, "reference")
    )
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "tanh", "sigmoid", "softplus"])
def test_activation(isa: str, kind: str) -> None:
    edges = [0.0, -0.0, 1e-8, -1e-8, 1e30, -1e30, np.nan]
    x = np.concatenate([np.linspace(-100, 100, 1001), edges]).astype(np.float32)[None]
    layer = {"op": "activation", "kind": kind, "slope": 0.2}
    got, wanted = (
        _core.Network([layer], {}, x.shape[1:], 0, _core.Pool(1), name).run(x) for name in (isa, "reference")
    )
    # The vector exponential is good to a few ulp: 4e-7 of the value, or of one for the bounded functions.
    np.testing.assert_allclose(got, wanted, rtol=4e-7, atol=4e-7)


@pytest.fixture(scope="module")
def street() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rendered frame as the shipped model sees it; its heads and its picture by the reference."""
    model = edgevae.load(isa="reference", threads=1)
    with edgevae.open_source("synthetic:3?size=160x120") as source:
        frame = next(iter(source))
    x = model.pack(frame.rgb, frame.depth, depth_scale=frame.depth_scale)[None]
    heads = model.encode_heads(x)
    return x, heads, model.decode_tensor(heads[:, : model.spec.latent_dim])


def test_shipped_model(isa: str, street: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, heads, picture = street
    model = edgevae.load(isa=isa)
    assert model.isa == isa
    latent = model.spec.latent_dim
    got = model.encode_heads(x)
    for part in (slice(0, latent), slice(latent, None)):
        assert np.linalg.norm(got[:, part] - heads[:, part]) <= 1e-5 * np.linalg.norm(heads[:, part])
    np.testing.assert_allclose(model.decode_tensor(heads[:, :latent]), picture, rtol=0, atol=1e-4)
