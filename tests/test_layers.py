"""Each layer of the native engine against its PyTorch definition in float64, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from int8_oracle import run as run_int8

from edgevae import _core

# A float32 sum of k products in any order is off by at most about k * 2^-24 of the sum of magnitudes, and by
# about sqrt(k) of that on random data. 4 sqrt(k) * 2^-24 holds with room; the nine-product form adds
# differences and sums of up to nine weights before it multiplies, for which it gets four times as much.
EPSILON = 2.0**-24


def run(
    isa: str,
    layers: list[dict[str, Any]],
    tensors: dict[str, np.ndarray],
    x: np.ndarray,
    threads: int = 1,
    condition: np.ndarray | None = None,
    precision: str = "exact",
) -> np.ndarray:
    size = 0 if condition is None else condition.shape[1]
    network = _core.Network(layers, tensors, x.shape[1:], size, _core.Pool(threads), isa, precision)
    first = network.run(x, condition)
    np.testing.assert_array_equal(first, network.run(x, condition), err_msg="second run differs")
    return first


def check(
    got: np.ndarray, wanted: torch.Tensor, magnitude: torch.Tensor, products: int, slack: float
) -> None:
    """`magnitude` is the layer applied to absolute values: the scale of its rounding errors."""
    assert got.shape == tuple(wanted.shape)
    bound = slack * np.sqrt(products) * EPSILON * magnitude.numpy() + 1e-30
    worst = np.max(np.abs(got - wanted.numpy()) / bound)
    assert worst <= 1, f"error is {worst:.2f} times its bound"


CONVS = [  # n, ic, oc, h, w, kernel, stride, padding, mode
    (1, 4, 64, 16, 16, 4, 2, 1, "zeros"),
    (1, 64, 128, 8, 8, 4, 2, 1, "zeros"),
    (2, 64, 37, 6, 10, 4, 2, 1, "zeros"),
    (2, 3, 5, 7, 9, 3, 1, 1, "replicate"),
    (1, 1, 1, 1, 1, 1, 1, 0, "zeros"),
    (1, 1, 3, 1, 1, 3, 1, 1, "zeros"),
    (1, 2, 3, 1, 1, 3, 1, 1, "replicate"),
    (3, 17, 33, 5, 4, 3, 2, 1, "replicate"),
    (1, 130, 16, 6, 6, 3, 1, 0, "zeros"),
    (1, 5, 7, 11, 3, 5, 3, 2, "replicate"),
    (1, 16, 65, 1, 40, 1, 2, 0, "zeros"),
    (1, 24, 40, 16, 16, 4, 2, 1, "zeros"),  # nine products whose parts end within a row
    (2, 140, 50, 16, 16, 4, 2, 1, "replicate"),
    (1, 200, 33, 16, 16, 4, 2, 1, "zeros"),  # parts longer than a chunk
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv2d(isa: str, case: tuple[Any, ...], threads: int, rng: np.random.Generator) -> None:
    n, ic, oc, h, w, k, stride, padding, mode = case
    x, weight, bias = (
        rng.standard_normal(s).astype(np.float32) for s in [(n, ic, h, w), (oc, ic, k, k), (oc,)]
    )
    layer = {
        "op": "conv2d",
        "weight": "w",
        "bias": "b",
        "stride": stride,
        "padding": padding,
        "padding_mode": mode,
    }
    got = run(isa, [layer], {"w": weight, "b": bias}, x, threads)

    def conv(image: torch.Tensor, kernel: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        if padding:
            image = F.pad(image, (padding,) * 4, mode="replicate" if mode == "replicate" else "constant")
        return F.conv2d(image, kernel, offset, stride)

    args = [torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias)]
    check(got, conv(*args), conv(*(a.abs() for a in args)), ic * k * k + 1, slack=4)


@pytest.mark.parametrize("case", CONVS[1:4], ids=str)
def test_weights_in_half_precision(isa: str, case: tuple[Any, ...], rng: np.random.Generator) -> None:
    """fp16 is float32 with rounded weights; weights that are halves already stay so without being asked."""
    n, ic, oc, h, w, k, stride, padding, mode = case
    x = rng.standard_normal((n, ic, h, w)).astype(np.float32)
    weight = rng.standard_normal((oc, ic, k, k)).astype(np.float32)
    weight.flat[::5] *= 1e-6  # subnormal halves
    halves = weight.astype(np.float16).astype(np.float32)
    layer = {
        "op": "conv2d",
        "weight": "w",
        "bias": None,
        "stride": stride,
        "padding": padding,
        "padding_mode": mode,
    }
    rounded = run(isa, [layer], {"w": halves}, x, precision="fp32")
    for weights, precision in ((weight, "fp16"), (halves, "fp16"), (halves, "exact")):
        np.testing.assert_array_equal(run(isa, [layer], {"w": weights}, x, precision=precision), rounded)
    assert not np.array_equal(run(isa, [layer], {"w": weight}, x), rounded)
    if isa != "reference":
        sizes = [
            _core.Network([layer], {"w": weights}, x.shape[1:], 0, _core.Pool(1), isa).properties()[
                "weight_bytes"
            ]
            for weights in (halves, weight)
        ]
        assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("oc", [4, 37])
def test_upsample_weights_in_half_precision(isa: str, oc: int, rng: np.random.Generator) -> None:
    """Sums of weights are rounded, so not even halves are exact: asked for only by precision fp16."""
    x = rng.standard_normal((1, 40, 5, 6)).astype(np.float32)
    weight = rng.standard_normal((oc, 40, 3, 3)).astype(np.float16).astype(np.float32)
    layer = {"op": "upsample_conv2d", "weight": "w", "bias": None, "padding_mode": "replicate"}
    exact = run(isa, [layer], {"w": weight}, x, precision="fp32")
    np.testing.assert_array_equal(run(isa, [layer], {"w": weight}, x), exact)
    got = run(isa, [layer], {"w": weight}, x, precision="fp16")
    # A half is rounded by at most 2^-11 of itself; sums of up to nine weights and two differences each.
    bound = 4 * 2.0**-11 * run(isa, [layer], {"w": abs(weight)}, abs(x), precision="fp32")
    assert (np.abs(got - exact) <= bound).all()


def test_weights_beyond_half_precision_are_refused() -> None:
    linear = [{"op": "linear", "weight": "w", "bias": None}]
    weight = np.array([[1.0, 1e5]], np.float32)
    with pytest.raises(ValueError, match="beyond the range of fp16"):
        _core.Network(linear, {"w": weight}, [2], 0, _core.Pool(1), "", "fp16")
    assert run("", linear, {"w": weight}, np.ones((1, 2), np.float32)) == 100001


UPSAMPLES = [  # n, ic, oc, h, w, mode
    (1, 64, 4, 8, 8, "replicate"),
    (1, 64, 4, 8, 8, "zeros"),
    (1, 128, 64, 8, 8, "replicate"),
    (1, 512, 40, 4, 4, "replicate"),
    (2, 5, 7, 1, 1, "replicate"),
    (2, 5, 7, 1, 1, "zeros"),
    (1, 33, 50, 3, 5, "zeros"),
    (2, 16, 1, 4, 3, "replicate"),
    (1, 20, 3, 4, 3, "zeros"),
    (3, 17, 33, 1, 6, "replicate"),
    (1, 24, 40, 8, 8, "replicate"),
    (1, 40, 20, 16, 16, "replicate"),
    (1, 203, 9, 4, 4, "replicate"),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", UPSAMPLES, ids=str)
def test_upsample_conv2d(isa: str, case: tuple[Any, ...], threads: int, rng: np.random.Generator) -> None:
    n, ic, oc, h, w, mode = case
    x, weight, bias = (
        rng.standard_normal(s).astype(np.float32) for s in [(n, ic, h, w), (oc, ic, 3, 3), (oc,)]
    )
    layer = {"op": "upsample_conv2d", "weight": "w", "bias": "b", "padding_mode": mode}
    got = run(isa, [layer], {"w": weight, "b": bias}, x, threads)

    def upsample_conv(image: torch.Tensor, kernel: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        up = F.interpolate(image, scale_factor=2)
        up = F.pad(up, (1, 1, 1, 1), mode="replicate" if mode == "replicate" else "constant")
        return F.conv2d(up, kernel, offset)

    args = [torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias)]
    check(got, upsample_conv(*args), upsample_conv(*(a.abs() for a in args)), ic * 9 + 1, slack=16)


@pytest.mark.parametrize(
    ("ic", "oc", "h", "w", "k", "stride", "padding", "output_padding"),
    [
        (8, 6, 5, 5, 4, 2, 1, 0),
        (3, 5, 4, 3, 3, 2, 1, 1),
        (16, 32, 7, 7, 2, 2, 0, 0),  # patches beside each other
        (9, 4, 5, 3, 4, 4, 0, 0),
        (3, 1, 2, 4, 3, 3, 0, 0),
        (20, 5, 3, 4, 4, 4, 0, 0),  # their rows are no whole vectors, and fill several panels
        (6, 5, 4, 3, 2, 2, 0, 1),  # a row and a column beyond the patches
        (5, 4, 3, 3, 5, 3, 2, 1),
        (4, 4, 3, 3, 2, 3, 0, 0),  # phases that no tap reaches
        (4, 3, 1, 1, 4, 1, 0, 0),
    ],
)
def test_conv_transpose2d(
    isa: str,
    ic: int,
    oc: int,
    h: int,
    w: int,
    k: int,
    stride: int,
    padding: int,
    output_padding: int,
    rng: np.random.Generator,
) -> None:
    x, weight, bias = (
        rng.standard_normal(s).astype(np.float32) for s in [(2, ic, h, w), (ic, oc, k, k), (oc,)]
    )
    layer = {
        "op": "conv_transpose2d", "weight": "w", "bias": "b", "stride": stride, "padding": padding,
        "output_padding": output_padding,
    }  # fmt: skip
    got = run(isa, [layer], {"w": weight, "b": bias}, x, threads=2)
    args = [torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias)]
    wanted = F.conv_transpose2d(*args, stride, padding, output_padding)
    check(
        got,
        wanted,
        F.conv_transpose2d(*(a.abs() for a in args), stride, padding, output_padding),
        ic * k * k,
        4,
    )


@pytest.mark.parametrize(("n", "inputs", "outputs"), [(1, 1, 1), (1, 8192, 17), (5, 33, 800), (16, 400, 64)])
def test_linear(isa: str, n: int, inputs: int, outputs: int, rng: np.random.Generator) -> None:
    x, weight, bias = (
        rng.standard_normal(s).astype(np.float32) for s in [(n, inputs), (outputs, inputs), (outputs,)]
    )
    got = run(isa, [{"op": "linear", "weight": "w", "bias": "b"}], {"w": weight, "b": bias}, x, threads=2)
    args = [torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias)]
    check(got, F.linear(*args), F.linear(*(a.abs() for a in args)), inputs + 1, slack=4)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(2, 2, 8), (3, 2, 7), (1, 1, 1), (3, 1, 5)])
@pytest.mark.parametrize("channels", [1, 16, 19])
def test_max_pool2d(
    isa: str, kernel: int, stride: int, size: int, channels: int, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, channels, size, size)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    got = run(isa, [{"op": "max_pool2d", "kernel": kernel, "stride": stride}], {}, x, threads=2)
    np.testing.assert_array_equal(got, F.max_pool2d(torch.tensor(x), kernel, stride).numpy())


ACTIVATIONS = {
    "relu": torch.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("fused", [True, False])
def test_activation(isa: str, kind: str, fused: bool) -> None:
    values = np.concatenate([np.linspace(-100, 100, 4001), [0.0, -0.0, 1e-8, -1e-8, 1e30, -1e30]])
    x = values.astype(np.float32)[None]
    n = x.shape[1]
    activation = {"op": "activation", "kind": kind, **({"slope": 0.2} if kind == "leaky_relu" else {})}
    if fused:  # behind an identity, so that it runs inside a layer
        x = x.reshape(1, 1, 1, n)
        conv = {
            "op": "conv2d",
            "weight": "w",
            "bias": None,
            "stride": 1,
            "padding": 0,
            "padding_mode": "zeros",
        }
        got = run(isa, [conv, activation], {"w": np.ones((1, 1, 1, 1), np.float32)}, x).ravel()
    else:
        got = run(isa, [activation], {}, x).ravel()
    wanted = ACTIVATIONS[kind](torch.tensor(x.ravel(), dtype=torch.float64)).numpy()
    # The vector exponential is good to a few ulp: 4e-7 of the value, or of one for the bounded functions.
    np.testing.assert_allclose(got, wanted, rtol=4e-7, atol=4e-7)


def test_nan_reaches_only_what_it_touches(isa: str, rng: np.random.Generator) -> None:
    """A NaN spreads to the outputs under its taps and to no other, and through every activation."""
    x = rng.standard_normal((1, 3, 9, 9)).astype(np.float32)
    x[0, 1, 4, 4] = np.nan
    weight = rng.standard_normal((6, 3, 3, 3)).astype(np.float32)
    conv = {"op": "conv2d", "weight": "w", "bias": None, "stride": 1, "padding": 1, "padding_mode": "zeros"}
    for kind in ACTIVATIONS:
        activation = {"op": "activation", "kind": kind, "slope": 0.2}
        y = run(isa, [conv, activation], {"w": weight}, x)
        touched = np.zeros((9, 9), bool)
        touched[3:6, 3:6] = True
        np.testing.assert_array_equal(np.isnan(y[0]).all(0), touched, err_msg=kind)
        np.testing.assert_array_equal(np.isnan(y[0]).any(0), touched, err_msg=kind)


def test_everything_in_one_chain(isa: str, rng: np.random.Generator) -> None:
    """Reshapes folded into weights, a condition, standing-alone activations, an image at both ends."""
    first = (0.1 * rng.standard_normal((12, 96))).astype(np.float32)
    second = rng.standard_normal((30, 15)).astype(np.float32)
    layers = [
        {"op": "max_pool2d", "kernel": 3, "stride": 2},
        {"op": "activation", "kind": "sigmoid"},
        {"op": "reshape", "shape": [96]},
        {"op": "linear", "weight": "first", "bias": None},
        {"op": "concat_condition", "size": 3},
        {"op": "linear", "weight": "second", "bias": None},
        {"op": "activation", "kind": "softplus"},
        {"op": "reshape", "shape": [5, 3, 2]},
    ]
    x, c = (
        rng.standard_normal((2, 6, 9, 9)).astype(np.float32),
        rng.standard_normal((2, 3)).astype(np.float32),
    )
    got = run(isa, layers, {"first": first, "second": second}, x, 2, c)
    t = torch.sigmoid(F.max_pool2d(torch.tensor(x, dtype=torch.float64), 3, 2)).flatten(1)
    t = t @ torch.tensor(first, dtype=torch.float64).T
    t = torch.cat([t, torch.tensor(c, dtype=torch.float64)], 1) @ torch.tensor(second, dtype=torch.float64).T
    np.testing.assert_allclose(got, F.softplus(t).reshape(2, 5, 3, 2).numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", [[4, 3, 5], [60], [5, 12, 1]])
def test_reshapes_that_no_linear_layer_takes_up(isa: str, shape: list[int], rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 4, 3, 5)).astype(np.float32)
    layers = [
        {"op": "reshape", "shape": [60]},
        {"op": "activation", "kind": "relu"},
        {"op": "reshape", "shape": [5, 4, 3]},
        {"op": "reshape", "shape": shape},
    ]
    got = run(isa, layers, {}, x)
    np.testing.assert_array_equal(got, np.maximum(x, 0).reshape(2, *shape))


def test_input_of_any_strides(isa: str, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    conv = {"op": "conv2d", "weight": "w", "bias": None, "stride": 1, "padding": 1, "padding_mode": "zeros"}
    base = rng.standard_normal((2, 14, 12, 3))
    view = base[:, ::2, ::-1].transpose(0, 3, 1, 2)  # float64, strided, reversed
    plain = np.ascontiguousarray(view, np.float32)
    network = _core.Network([conv], {"w": weight}, (3, 7, 12), 0, _core.Pool(1), isa)
    np.testing.assert_array_equal(network.run(view), network.run(plain))


def test_batches_agree_with_single_images(isa: str, rng: np.random.Generator) -> None:
    """Batch sizes come and go in any order; memory of an earlier, larger batch leaves no trace."""
    weight = rng.standard_normal((20, 6, 3, 3)).astype(np.float32)
    layers = [{"op": "upsample_conv2d", "weight": "w", "bias": None, "padding_mode": "replicate"}]
    network = _core.Network(layers, {"w": weight}, (6, 5, 3), 0, _core.Pool(2), isa)
    x = rng.standard_normal((9, 6, 5, 3)).astype(np.float32)
    singles = np.concatenate([network.run(x[i : i + 1]) for i in range(9)])
    for n in (9, 2, 1, 7):
        np.testing.assert_allclose(network.run(x[:n]), singles[:n], rtol=0, atol=1e-5)
    assert network.run(x[:0]).shape == (0, 20, 10, 6)


def test_fewer_outputs_are_the_first_ones(isa: str, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((34, 48)).astype(np.float32)
    network = _core.Network(
        [{"op": "linear", "weight": "w", "bias": None}], {"w": weight}, [48], 0, _core.Pool(1), isa
    )
    x = rng.standard_normal((3, 48)).astype(np.float32)
    for outputs in (1, 17, 33, 34):
        np.testing.assert_array_equal(network.run(x, None, outputs), network.run(x)[:, :outputs])


def test_an_image_of_one_channel_is_a_vector_as_it_lies(isa: str, rng: np.random.Generator) -> None:
    """No step reorders it, so the convolution comes last: it still has one output channel, not h * w."""
    weight = rng.standard_normal((1, 3, 3, 3)).astype(np.float32)
    conv = {"op": "conv2d", "weight": "w", "bias": None, "stride": 1, "padding": 1, "padding_mode": "zeros"}
    up = {"op": "conv_transpose2d", "weight": "v", "bias": None, "stride": 2, "padding": 1}
    tensors = {"w": weight, "v": weight.reshape(3, 1, 3, 3)}
    x = rng.standard_normal((2, 3, 9, 7)).astype(np.float32)
    for layer in (conv, up):
        image = run(isa, [layer], tensors, x, 2)
        count = image[0].size
        np.testing.assert_array_equal(
            run(isa, [layer, {"op": "reshape", "shape": [count]}], tensors, x, 2), image.reshape(2, count)
        )


# --- int8 ---------------------------------------------------------------------------------------

# Sums of integers are exact. So is all the rest where scales are powers of two, biases whole steps of them,
# and sums below 2^24: then every instruction set gives the very bits of int8_oracle.py.

DOUBLE = {"stride": 2, "padding": 1}
PATCHES: dict[str, Any] = {"stride": 4, "padding": 0}
INT8: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {  # fields, weight, input
    "conv2d 4x4": ({"stride": 2, "padding": 1, "padding_mode": "zeros"}, (128, 64, 4, 4), (1, 64, 8, 8)),
    "conv2d 4x4 large": (
        {"stride": 2, "padding": 1, "padding_mode": "zeros"},
        (37, 24, 4, 4),
        (2, 24, 16, 20),
    ),
    "conv2d 3x3": ({"stride": 1, "padding": 1, "padding_mode": "replicate"}, (7, 5, 3, 3), (2, 5, 9, 6)),
    "conv2d 3x3 stride 2": (
        {"stride": 2, "padding": 1, "padding_mode": "zeros"},
        (33, 18, 3, 3),
        (3, 18, 5, 4),
    ),
    "conv2d valid": ({"stride": 1, "padding": 0, "padding_mode": "zeros"}, (33, 130, 3, 3), (1, 130, 4, 4)),
    "conv2d 1x1": ({"stride": 1, "padding": 0, "padding_mode": "zeros"}, (1, 1, 1, 1), (1, 1, 1, 1)),
    "upsample_conv2d": ({"padding_mode": "replicate"}, (4, 32, 64, 2, 2), (1, 64, 4, 4)),
    "upsample_conv2d zeros": ({"padding_mode": "zeros"}, (4, 9, 21, 2, 2), (2, 21, 3, 5)),
    "upsample_conv2d columns": ({"padding_mode": "replicate"}, (4, 4, 64, 2, 2), (1, 64, 8, 8)),
    "upsample_conv2d columns zeros": ({"padding_mode": "zeros"}, (4, 3, 7, 2, 2), (2, 7, 9, 5)),
    "upsample_conv2d one pixel": ({"padding_mode": "zeros"}, (4, 5, 6, 2, 2), (1, 6, 1, 1)),
    "conv_transpose2d phases": ({**DOUBLE, "output_padding": 0}, (20, 18, 4, 4), (2, 20, 5, 3)),
    "conv_transpose2d columns": ({**DOUBLE, "output_padding": 1}, (6, 3, 3, 3), (2, 6, 4, 3)),
    "conv_transpose2d direct": ({**DOUBLE, "output_padding": 1}, (6, 17, 3, 3), (2, 6, 4, 3)),
    "conv_transpose2d no tap": ({"stride": 3, "padding": 0, "output_padding": 0}, (5, 6, 2, 2), (1, 5, 3, 3)),
    "conv_transpose2d patches": ({**PATCHES, "output_padding": 0}, (7, 4, 4, 4), (2, 7, 3, 5)),
    "conv_transpose2d patches across vectors": (
        {**PATCHES, "output_padding": 0},
        (20, 5, 4, 4),
        (2, 20, 3, 5),
    ),
    "upsample_conv2d few quads": ({"padding_mode": "replicate"}, (4, 40, 24, 2, 2), (1, 24, 8, 8)),
    "linear": ({}, (37, 130), (5, 130)),
    "linear one": ({}, (1, 1), (1, 1)),
}  # fmt: skip


def int8_layer(
    name: str, fields: dict[str, Any], shape: tuple[int, ...], rng: np.random.Generator, tag: str = ""
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A layer and its tensors, every number of it exact in float32."""
    op = name.split()[0]
    outputs = shape[0 if op in ("conv2d", "linear") else 1]
    inputs = shape[{"conv2d": 1, "linear": 1, "upsample_conv2d": 2, "conv_transpose2d": 0}[op]]
    scales = (4, outputs) if op == "upsample_conv2d" else (outputs,)
    weight_scale = np.exp2(rng.integers(-11, -8, scales)).astype(np.float32)
    tensors = {
        f"w{tag}": rng.integers(-127, 128, shape).astype(np.int8),
        f"s{tag}": weight_scale,
        f"i{tag}": np.exp2(rng.integers(-7, -4, inputs)).astype(np.float32),
        f"b{tag}": (rng.integers(-500, 500, outputs) * 2.0**-9).astype(np.float32),
    }
    names = {"weight": f"w{tag}", "weight_scale": f"s{tag}", "input_scale": f"i{tag}", "bias": f"b{tag}"}
    return {"op": op, **fields, **names, "input_zero": int(rng.integers(0, 256))}, tensors


LEAKY = {"op": "activation", "kind": "leaky_relu", "slope": 0.25}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", INT8)
def test_int8(isa: str, name: str, threads: int, rng: np.random.Generator) -> None:
    fields, shape, size = INT8[name]
    layer, tensors = int8_layer(name, fields, shape, rng)
    x = rng.standard_normal(size).astype(np.float32)
    wanted = run_int8([layer, LEAKY], tensors, x)
    np.testing.assert_array_equal(run(isa, [layer, LEAKY], tensors, x, threads), wanted)
    assert len(np.unique(wanted)) > min(wanted.size, 3) // 2  # not all saturated
    layer["bias"] = None
    np.testing.assert_array_equal(run(isa, [layer], tensors, x, threads), run_int8([layer], tensors, x))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "name", [name for name in INT8 if not name.startswith(("linear", "conv_transpose2d patches"))]
)
def test_int8_layers_pass_bytes_on(isa: str, name: str, threads: int, rng: np.random.Generator) -> None:
    """The first layer gives the uint8 numbers that the second takes: no float image lies between them."""
    fields, shape, size = INT8[name]
    first, tensors = int8_layer(name, fields, shape, rng)
    channels = len(tensors["b"])
    pointwise = {"stride": 1, "padding": 0, "padding_mode": "zeros"}
    second, more = int8_layer("conv2d", pointwise, (6, channels, 1, 1), rng, tag="2")
    more["i2"] = np.exp2(rng.integers(-3, 2, channels)).astype(np.float32)
    layers, tensors = [first, LEAKY, second], tensors | more
    x = rng.standard_normal(size).astype(np.float32)
    np.testing.assert_array_equal(run(isa, layers, tensors, x, threads), run_int8(layers, tensors, x))
    network = _core.Network(layers, tensors, x.shape[1:], 0, _core.Pool(1), isa)
    steps = network.profile(x)
    assert [step["method"] for step in steps if not step["macs"]] == ["quantize"]  # of the picture alone
    assert {step["arithmetic"] for step in steps if step["macs"]} == {"int8"}


def test_an_int8_linear_layer_between_images(isa: str, rng: np.random.Generator) -> None:
    """Its columns and their scales follow a flattened image's order in memory, its rows the next image's."""
    layer, tensors = int8_layer("linear", {}, (5 * 2 * 3, 6 * 4 * 3), rng)
    layers = [{"op": "reshape", "shape": [72]}, layer, LEAKY, {"op": "reshape", "shape": [5, 2, 3]}]
    x = rng.standard_normal((2, 6, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(isa, layers, tensors, x, 2), run_int8(layers, tensors, x))


@pytest.mark.parametrize("name", ["conv2d 4x4", "upsample_conv2d", "conv_transpose2d phases", "linear"])
def test_int8_with_any_scales(isa: str, name: str, rng: np.random.Generator) -> None:
    """The sum is still exact: three float32 roundings are left, of the sum, the product, and the result."""
    fields, shape, size = INT8[name]
    layer, tensors = int8_layer(name, fields, shape, rng)
    for key, low, high in (("s", 1e-4, 1e-3), ("i", 0.01, 0.03), ("b", -1, 1)):
        tensors[key] = rng.uniform(low, high, tensors[key].shape).astype(np.float32)
    x = rng.standard_normal(size).astype(np.float32)
    wanted = run_int8([layer], tensors, x)
    np.testing.assert_allclose(run(isa, [layer], tensors, x, 2), wanted, rtol=2.0**-22, atol=2.0**-22)


@pytest.mark.parametrize(("n", "inputs", "outputs"), [(1, 1, 1), (1, 4099, 17), (5, 33, 130), (16, 400, 64)])
def test_linear_with_int8_weights(
    isa: str, n: int, inputs: int, outputs: int, rng: np.random.Generator
) -> None:
    layer, tensors = int8_layer("linear", {}, (outputs, inputs), rng)
    del layer["input_scale"], layer["input_zero"]
    x = rng.standard_normal((n, inputs)).astype(np.float32)
    got = run(isa, [layer], tensors, x, threads=3)
    weight = torch.tensor(tensors["w"] * tensors["s"][:, None], dtype=torch.float64)
    args = [torch.tensor(x, dtype=torch.float64), weight, torch.tensor(tensors["b"], dtype=torch.float64)]
    check(got, F.linear(*args), F.linear(*(a.abs() for a in args)), inputs + 1, slack=4)


@pytest.mark.parametrize(
    ("name", "method"),
    [("conv2d 3x3", "direct"), ("conv2d 4x4", "direct"), ("conv2d 4x4 large", "nine products")],
)
def test_conv2d_with_int8_weights(isa: str, name: str, method: str, rng: np.random.Generator) -> None:
    """Its inputs are floats, so the large one takes as few products as one with float weights."""
    fields, shape, size = INT8[name]
    layer, tensors = int8_layer(name, fields, shape, rng)
    del layer["input_scale"], layer["input_zero"]
    x = rng.standard_normal(size).astype(np.float32)
    wanted = torch.tensor(run_int8([layer], tensors, x))
    magnitude = run_int8([layer], {key: abs(tensor) for key, tensor in tensors.items()}, abs(x))
    check(run(isa, [layer], tensors, x, 3), wanted, torch.tensor(magnitude), np.prod(shape[1:]) + 1, slack=4)
    (step,) = _core.Network([layer], tensors, size[1:], 0, _core.Pool(1), isa).profile(x)
    assert step["method"] == method


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("zero", "value"), [(0, 1e9), (0, np.inf), (255, -1e9), (255, -np.inf), (128, 1e9)])
def test_the_largest_sums_of_int8(isa: str, sign: int, zero: int, value: float) -> None:
    """All weights and all inputs at their ends: 16-bit sums would overflow at once, int32 holds them."""
    n = 66_311  # the most whose sum int32 holds in any case
    tensors = {
        "w": np.full((3, n), sign * 127, np.int8),
        "s": np.ones(3, np.float32),
        "i": np.ones(n, np.float32),
    }
    layer = {"op": "linear", "weight": "w", "weight_scale": "s", "input_scale": "i", "bias": None}
    x = np.full((1, n), value, np.float32)
    reached = (255 if value > 0 else 0) - zero
    got = run(isa, [{**layer, "input_zero": zero}], tensors, x)
    assert got.tolist() == [[float(np.float32(sign * 127 * reached * n))] * 3]


def test_int8_inputs_of_any_kind(isa: str) -> None:
    """Halves to even, the ends for what is beyond, the zero for NaN; of a picture and between layers."""
    values = [0.5, 1.5, -0.5, 2.5, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.0, -0.0, 247.5, 248.5, -7.5, 1e-45]
    wanted = [0, 2, 0, 2, 248, -7, 248, -7, 0, 0, 0, 248, 248, -7, 0]
    x = np.array(values, np.float32).reshape(1, 1, 3, 5)
    copy = {"op": "conv2d", "weight": "one", "bias": None, "stride": 1, "padding": 0, "padding_mode": "zeros"}
    layer = {**copy, "weight": "w", "weight_scale": "s", "input_scale": "s", "input_zero": 7}
    tensors = {
        "one": np.ones((1, 1, 1, 1), np.float32),
        "w": np.ones((1, 1, 1, 1), np.int8),
        "s": np.ones(1, np.float32),
    }
    for layers in ([layer], [copy, layer]):
        assert run(isa, layers, tensors, x).ravel().tolist() == wanted


def test_int8_layers_that_make_no_sense() -> None:
    layer, tensors = int8_layer("linear", {}, (3, 5), np.random.default_rng(0))
    up, more = int8_layer(
        "upsample_conv2d", {"padding_mode": "zeros"}, (4, 3, 5, 2, 2), np.random.default_rng(0)
    )

    def refuse(layer: dict[str, Any], tensors: dict[str, np.ndarray], size: Any, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            _core.Network([layer], tensors, size, 0, _core.Pool(1))

    for bad in (
        np.zeros(3, "f"),
        np.full(3, np.nan, "f"),
        np.full(3, np.inf, "f"),
        -np.ones(3, "f"),
        np.ones(4, "f"),
    ):
        refuse(layer, tensors | {"s": bad}, (5,), r"weight_scale has shape .* wanted positive numbers, \(3\)")
    refuse(
        layer,
        tensors | {"i": np.zeros(5, "f")},
        (5,),
        r"input_scale has shape .* wanted positive numbers, \(5\)",
    )
    for zero in (-1, 256):
        refuse({**layer, "input_zero": zero}, tensors, (5,), f"input_zero is {zero}, wanted 0 to 255")
    refuse(up, more | {"w": more["w"][:2]}, (5, 2, 2), r"wanted int8 phases \(4, O, I, 2, 2\)")
    wide = {"w": np.zeros((1, 70_000), np.int8), "s": np.ones(1, "f"), "i": np.ones(70_000, "f")}
    refuse({**layer, "bias": None}, wide, (70_000,), "sums 70000 products, too many")


CONV = {"op": "conv2d", "weight": "w", "bias": "b", "stride": 1, "padding": 0, "padding_mode": "zeros"}
WEIGHTS = {"w": np.zeros((8, 4, 3, 3), np.float32), "b": np.zeros(8, np.float32)}


@pytest.mark.parametrize(
    ("layer", "tensors", "shape", "message"),
    [
        (CONV, WEIGHTS, (3, 8, 8), "takes 4 channels, the layer gets 3"),
        (CONV, {**WEIGHTS, "b": np.zeros(7, np.float32)}, (4, 8, 8), "bias has shape"),
        (CONV, {**WEIGHTS, "w": np.zeros((8, 4, 3), np.float32)}, (4, 8, 8), "wanted 4 dimensions"),
        (CONV, {"w": WEIGHTS["w"]}, (4, 8, 8), "tensor 'b' is named by a layer but not there"),
        (CONV, WEIGHTS, (4, 2, 8), "do not fit an input of 2 pixels"),
        ({**CONV, "stride": 0}, WEIGHTS, (4, 8, 8), "do not fit"),
        ({**CONV, "padding": -1}, WEIGHTS, (4, 8, 8), "do not fit"),
        ({**CONV, "padding_mode": "reflect"}, WEIGHTS, (4, 8, 8), "wanted zeros or replicate"),
        (CONV, WEIGHTS, (4,), "wants an image"),
        (
            {"op": "upsample_conv2d", "weight": "w", "bias": None},
            {"w": np.zeros((2, 4, 5, 5), "f")},
            (4, 8, 8),
            "3x3",
        ),
        (
            {"op": "linear", "weight": "w", "bias": None},
            {"w": np.zeros((2, 9), "f")},
            (1, 3, 3),
            "wants a vector",
        ),
        ({"op": "reshape", "shape": [10]}, {}, (1, 3, 3), "cannot become"),
        ({"op": "reshape", "shape": [3, 3]}, {}, (1, 3, 3), "wanted \\(n\\) or \\(c, h, w\\)"),
        ({"op": "reshape", "shape": [-9]}, {}, (1, 3, 3), "out of bounds"),
        ({"op": "max_pool2d", "kernel": 4, "stride": 1}, {}, (1, 3, 3), "do not fit"),
        ({"op": "concat_condition", "size": 3}, {}, (5,), "condition has 0"),
        ({"op": "activation", "kind": "gelu"}, {}, (5,), "wanted relu"),
        ({"op": "attention"}, {}, (5,), "not an operation"),
        (CONV, WEIGHTS, (4, 0, 8), "out of bounds"),
        (CONV, WEIGHTS, (4, 8, 100_000), "out of bounds"),
        ({"op": "activation", "kind": "relu"}, {}, (0,), "out of bounds"),
        ({"op": "activation", "kind": "relu"}, {}, (-3,), "out of bounds"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(
    layer: dict[str, Any], tensors: dict[str, np.ndarray], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _core.infer_shapes([layer], tensors, shape)
    with pytest.raises(ValueError, match=message):
        _core.Network([layer], tensors, shape, 0, _core.Pool(1))


def test_wrong_calls_are_refused() -> None:
    network = _core.Network([CONV], WEIGHTS, (4, 8, 8), 0, _core.Pool(1))
    with pytest.raises(ValueError, match=r"input is \(1, 4, 8, 9\), wanted float32 \(N, 4, 8, 8\)"):
        network.run(np.zeros((1, 4, 8, 9), np.float32))
    with pytest.raises(ValueError, match="takes no condition"):
        network.run(np.zeros((1, 4, 8, 8), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="outputs is 3"):
        network.run(np.zeros((1, 4, 8, 8), np.float32), None, 3)
    with pytest.raises(ValueError, match="at least one layer"):
        _core.Network([], {}, (4, 8, 8), 0, _core.Pool(1))
    with pytest.raises(ValueError, match="condition is -1"):
        _core.Network([CONV], WEIGHTS, (4, 8, 8), -1, _core.Pool(1))
    with pytest.raises(TypeError):
        _core.Network([CONV], WEIGHTS, (4, 8, 8), 0, None)  # type: ignore[arg-type]
    for threads in (0, -1, 257, 10**9):
        with pytest.raises(ValueError, match="wanted 1 to 256"):
            _core.Pool(threads)
