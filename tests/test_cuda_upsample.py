"""upsample_conv on a CUDA device, in each way that a block is cut, against its definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cuda_bounds import PRECISIONS, check, rounded, session

from edgevae import _core

# Devices of so many multiprocessors make the chooser take blocks of many pixels, or of few.
LARGE, SMALL = 1000, 1
MANY = 128  # pixels of a block with many


@pytest.fixture(scope="module")
def device() -> Any:
    return session()


def definition(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, mode: str) -> np.ndarray:
    """x and the result (n, h, w, c), in float64."""
    image, kernel, offset = (torch.tensor(a, dtype=torch.float64) for a in (x, weight, bias))
    up = F.interpolate(image.permute(0, 3, 1, 2), scale_factor=2)
    up = F.pad(up, (1, 1, 1, 1), mode="replicate" if mode == "replicate" else "constant")
    return F.conv2d(up, kernel, offset).permute(0, 2, 3, 1).numpy()


def random_layer(rng: np.random.Generator, *shape: int) -> list[np.ndarray]:
    n, ic, oc, h, w = shape
    return [rng.standard_normal(s).astype(np.float32) for s in [(n, h, w, ic), (oc, ic, 3, 3), (oc,)]]


CASES = [  # n, ic, oc, h, w, mode, multiprocessors
    (1, 64, 12, 4, 4, "replicate", LARGE),  # whole strips, two stages
    (1, 200, 9, 4, 4, "zeros", LARGE),  # more stages than are kept at a time
    (3, 24, 16, 4, 4, "replicate", LARGE),  # two images in a strip, and one left
    (2, 5, 7, 1, 1, "replicate", LARGE),
    (2, 5, 7, 1, 1, "zeros", LARGE),
    (1, 33, 50, 3, 5, "zeros", LARGE),
    (2, 16, 1, 4, 3, "replicate", LARGE),
    (3, 17, 33, 1, 6, "replicate", LARGE),
    (1, 8, 8, 9, 17, "replicate", LARGE),  # strips beyond the right and the lower edge
    (1, 48, 50, 9, 17, "replicate", SMALL),
    (3, 20, 33, 4, 3, "zeros", SMALL),
    (1, 7, 40, 5, 11, "zeros", SMALL),
    (1, 64, 4, 8, 16, "replicate", SMALL),  # few channels
    (2, 30, 6, 7, 9, "zeros", SMALL),
    (3, 24, 8, 2, 4, "replicate", SMALL),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_upsample_conv(device: Any, case: tuple[Any, ...], precision: str, rng: np.random.Generator) -> None:
    n, ic, oc, h, w, mode, sms = case
    x, weight, bias = random_layer(rng, n, ic, oc, h, w)
    x = rounded(x, precision)
    kernels = _core.CudaKernels(device, sms=sms)
    pixels = kernels.upsample_conv_plan(n, h, w, ic, oc, precision)[1]
    assert (pixels == MANY) == (sms == SMALL)
    got = kernels.upsample_conv(x, weight, bias, mode, {}, precision)
    again = kernels.upsample_conv(x, weight, bias, mode, {}, precision)
    np.testing.assert_array_equal(got, again, err_msg="second run differs")
    wanted, magnitude = definition(x, weight, bias, mode), definition(abs(x), abs(weight), abs(bias), mode)
    # Nine products multiply sums of up to nine weights with differences of up to four pixels.
    check(got, wanted, magnitude, 9 * ic + 1, precision, halves=precision == "fp16", slack=4)


ACTIVATIONS = {
    "none": ({}, lambda x: x),
    "relu": ({"kind": "relu"}, torch.relu),
    "leaky_relu": ({"kind": "leaky_relu", "slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    "tanh": ({"kind": "tanh"}, torch.tanh),
    "sigmoid": ({"kind": "sigmoid"}, torch.sigmoid),
    "softplus": ({"kind": "softplus"}, F.softplus),
}


@pytest.mark.parametrize("oc", [3, 4])
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_and_floats(
    device: Any, kind: str, floats: bool, oc: int, rng: np.random.Generator
) -> None:
    """The last layer gives floats whatever the arithmetic, and either way finishes its sums the same."""
    x, weight, bias = random_layer(rng, 1, 8, oc, 3, 3)
    x = rounded(x, "fp16")
    activation, function = ACTIVATIONS[kind]
    kernels = _core.CudaKernels(device)
    plain = kernels.upsample_conv(x, weight, bias, "zeros", {}, "fp16", True)
    got = kernels.upsample_conv(x, weight, bias, "zeros", activation, "fp16", floats)
    wanted = function(torch.tensor(plain, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=2e-6 if floats else 2.0**-11, atol=2e-7)


def test_devices_without_tf32_multiply_floats(device: Any, rng: np.random.Generator) -> None:
    """From the same packed weights, which are TF32 already."""
    x, weight, bias = random_layer(rng, 1, 8, 9, 4, 5)
    old = _core.CudaKernels(device, compute=75)
    assert old.upsample_conv_plan(1, 4, 5, 8, 9, "tf32")[0] == "fp32"
    got = old.upsample_conv(x, weight, bias, "zeros", {}, "tf32")
    wanted, magnitude = (
        definition(x, weight, bias, "zeros"),
        definition(abs(x), abs(weight), abs(bias), "zeros"),
    )
    check(got, wanted, magnitude, 9 * 8 + 1, "tf32", halves=False, slack=4)


def test_little_shared_memory_means_small_blocks(device: Any) -> None:
    """64 KiB, which every device since compute capability 7.5 lends, are enough for one way to cut."""
    kernels = _core.CudaKernels(device, sms=1, shared_per_block=64 * 1024)
    assert kernels.upsample_conv_plan(1, 64, 64, 64, 64, "fp16")[1] == 32
    assert _core.CudaKernels(device, sms=1).upsample_conv_plan(1, 64, 64, 64, 64, "fp16")[1] == MANY


def test_neighbours_keep_to_themselves(device: Any, rng: np.random.Generator) -> None:
    """What is not a number reaches the pixels that look at it, and no others; nor another image."""
    x, weight, bias = random_layer(rng, 2, 16, 8, 4, 4)
    x[0, 1, 1, 3] = np.nan
    got = _core.CudaKernels(device).upsample_conv(x, weight, bias, "replicate", {}, "fp32")
    reached = np.zeros((2, 8, 8), bool)
    reached[0, 1:5, 1:5] = True
    np.testing.assert_array_equal(np.isnan(got), np.broadcast_to(reached[..., None], got.shape))
