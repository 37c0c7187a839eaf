"""Frames in and out on a CUDA device, against the reference; and layers that look at one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cuda_bounds import PRECISIONS, session

from edgevae import _core
from edgevae.preprocess import DepthEncoding, InputSpec, pack_with_mask

LOG = DepthEncoding("log", 0.25, 80.0)
FILLED = DepthEncoding("log", 0.25, 80.0, -1.5, fill=True)
ENCODINGS = [
    DepthEncoding("linear", 0.3, 10.0),
    DepthEncoding("inverse", 0.3, 10.0, 0.0),
    LOG,
    DepthEncoding("minmax", no_reading=0.5),
    FILLED,
]
# As tests/test_preprocess.py has it for the processor: a few ulp, of a narrow range where that is stretched.
# What is filled lies up to 4 from zero and has been moved many times. Halves are rounded besides.
FIXED, STRETCHED, MOVED, HALF = 2e-6, 2e-5, 8e-6, 2.0**-11


@pytest.fixture(scope="module")
def device() -> Any:
    return session()


def frame(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth = rng.uniform(0.1, 12, (height, width)).astype(np.float32)
    depth[rng.random((height, width)) < 0.2] = 0
    return rgb, depth


def packed(
    device: Any,
    rgb: np.ndarray,
    depth: np.ndarray | None,
    spec: InputSpec,
    precision: str,
    scale: float = 0.001,
) -> np.ndarray:
    """(C, h, w)."""
    x = _core.CudaKernels(device).pack_frame(
        rgb, depth, scale, False, spec.native(), spec.height, spec.width, precision
    )
    return x.transpose(2, 0, 1)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.encoding)
@pytest.mark.parametrize("color", ["fixed", "minmax"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47), (1, 1), (16, 12), (5, 200)], ids=str)
def test_packing_equals_the_reference(
    device: Any,
    encoding: DepthEncoding,
    color: str,
    height: int,
    width: int,
    precision: str,
    rng: np.random.Generator,
) -> None:
    rgb, depth = frame(rng, height, width)
    depth.flat[::7] = np.nan
    depth.flat[::11] = np.inf
    depth.flat[::13] = -1
    spec = InputSpec(4, 16, 12, color, encoding)
    got = packed(device, rgb, depth, spec, precision)
    wanted, mask = pack_with_mask(rgb, depth, spec, isa="reference")
    atol = (FIXED if color == "fixed" else STRETCHED) + (HALF if precision == "fp16" else 0)
    # What is mirrored lies beyond 1, where a half has another exponent.
    np.testing.assert_allclose(
        got, wanted, rtol=HALF if encoding.fill and precision == "fp16" else 0, atol=atol
    )
    if encoding.fill:
        np.testing.assert_array_equal(got[3] > encoding.no_reading, mask)
    else:  # the same samples are readings, to the bit
        np.testing.assert_array_equal(got[3][~mask], np.float32(encoding.no_reading))


@pytest.mark.parametrize("size", [(3, 300), (300, 2), (2, 130)], ids=str)
def test_wide_frames_and_wide_inputs(device: Any, size: tuple[int, int], rng: np.random.Generator) -> None:
    """More source columns than are added up at a time, and more output columns than a block has."""
    rgb, depth = frame(rng, 4, 2600)
    spec = InputSpec(4, *size, "fixed", LOG)
    wanted, _ = pack_with_mask(rgb, depth, spec, isa="reference")
    np.testing.assert_allclose(packed(device, rgb, depth, spec, "fp32"), wanted, rtol=0, atol=FIXED)
    one = InputSpec(3, 1, 1)
    wanted, _ = pack_with_mask(rgb, None, one, isa="reference")
    np.testing.assert_allclose(packed(device, rgb, None, one, "fp32"), wanted, rtol=0, atol=FIXED)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_orders_and_strides(device: Any, channels: int, rng: np.random.Generator) -> None:
    rgb, _ = frame(rng, 21, 30)
    units = rng.integers(0, 50_000, (21, 30)).astype(np.uint16)
    spec = InputSpec(channels, 8, 8, depth=LOG if channels == 4 else None)
    depth = units if channels == 4 else None
    wanted, _ = pack_with_mask(rgb, depth, spec, depth_scale=1 / 5000, isa="reference")
    padded = np.zeros((21, 33, 4), np.uint8)
    padded[:, :30, :3] = rgb
    kernels = _core.CudaKernels(device)
    for color, bgr in ((rgb, False), (np.ascontiguousarray(rgb[:, :, ::-1]), True), (padded[:, :30], False)):
        got = kernels.pack_frame(color, depth, 1 / 5000, bgr, spec.native(), 8, 8, "fp32")
        np.testing.assert_allclose(got.transpose(2, 0, 1), wanted, rtol=0, atol=FIXED)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.encoding)
def test_depth_without_any_reading(device: Any, encoding: DepthEncoding, rng: np.random.Generator) -> None:
    rgb, _ = frame(rng, 20, 30)
    spec = InputSpec(4, 8, 8, depth=encoding)
    for depth in (None, np.zeros((20, 30), np.float32), np.zeros((20, 30), np.uint16)):
        x = packed(device, rgb, depth, spec, "fp32")
        nothing = encoding.no_reading * (2 if encoding.fill else 1)
        np.testing.assert_array_equal(x[3], np.full((8, 8), nothing, np.float32))


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (33, 47), (64, 128)], ids=str)
@pytest.mark.parametrize("missing", [0.0, 0.5, 0.98])
def test_holes_are_filled_as_by_the_reference(
    device: Any, missing: float, size: tuple[int, int], precision: str, rng: np.random.Generator
) -> None:
    rgb, _ = frame(rng, *size)
    depth = rng.uniform(0.3, 12, size).astype(np.float32)
    depth[rng.random(size) < missing] = 0
    spec = InputSpec(4, *size, depth=FILLED)
    got = packed(device, rgb, depth, spec, precision)
    wanted, mask = pack_with_mask(rgb, depth, spec, isa="reference")
    half = HALF if precision == "fp16" else 0
    np.testing.assert_allclose(got, wanted, rtol=half, atol=MOVED + half)
    np.testing.assert_array_equal(got[3] > FILLED.no_reading, mask)


def test_constant_images_become_minus_one(device: Any) -> None:
    spec = InputSpec(4, 8, 8, "minmax", DepthEncoding("minmax"))
    x = packed(device, np.full((20, 30, 3), 77, np.uint8), np.full((20, 30), 2.5, np.float32), spec, "fp16")
    np.testing.assert_array_equal(x, np.full((4, 8, 8), -1, np.float32))


@pytest.mark.parametrize("encoding", [None, *ENCODINGS], ids=lambda e: e.encoding if e else "none")
@pytest.mark.parametrize("pixels", [1, 300])
def test_unpacking_is_its_opposite(
    device: Any, encoding: DepthEncoding | None, pixels: int, rng: np.random.Generator
) -> None:
    x = rng.uniform(-1.2, 1.2, (pixels, 4 if encoding else 3)).astype(np.float32)
    x[0, 0] = np.nan
    spec = InputSpec(x.shape[1], 1, pixels, depth=encoding)
    rgb, depth = _core.CudaKernels(device).unpack_frames(x, spec.native())
    level = np.nan_to_num((x[:, :3] + np.float32(1)) * np.float32(127.5))
    np.testing.assert_array_equal(rgb, np.clip(np.rint(level), 0, 255).astype(np.uint8))
    if encoding is None:
        assert depth is None
    else:
        np.testing.assert_allclose(depth, encoding.to_metres(x[:, 3]), rtol=2e-5)


def run(
    device: Any, layer: dict[str, Any], x: np.ndarray, precision: str, condition: np.ndarray | None = None
) -> np.ndarray:
    size = 0 if condition is None else condition.shape[1]
    return _core.CudaNetwork([layer], {}, x.shape[1:], size, device, precision).run(x, condition)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("kernel", "stride", "size"), [(2, 2, 8), (3, 2, 7), (1, 1, 1), (3, 1, 5)])
@pytest.mark.parametrize("channels", [1, 16, 19])
def test_max_pool2d(
    device: Any, kernel: int, stride: int, size: int, channels: int, precision: str, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, channels, size, size)).astype(np.float16).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    got = run(device, {"op": "max_pool2d", "kernel": kernel, "stride": stride}, x, precision)
    np.testing.assert_array_equal(got, F.max_pool2d(torch.tensor(x), kernel, stride).numpy())


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_activation_alone(device: Any, precision: str) -> None:
    x = np.linspace(-6, 6, 515, dtype=np.float32).astype(np.float16).astype(np.float32)[None]
    got = run(device, {"op": "activation", "kind": "sigmoid"}, x, precision)
    wanted = torch.sigmoid(torch.tensor(x, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=2.0**-11 if precision == "fp16" else 1e-6)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_concat_condition(device: Any, precision: str, rng: np.random.Generator) -> None:
    x, condition = (rng.standard_normal((5, n)).astype(np.float16).astype(np.float32) for n in (301, 7))
    got = run(device, {"op": "concat_condition", "size": 7}, x, precision, condition)
    np.testing.assert_array_equal(got, np.concatenate([x, condition], 1))


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("shape", [(4, 9, 33), (3, 1, 1), (70, 5, 8), (33, 1, 7), (1, 6, 5)], ids=str)
def test_orders_of_memory(
    device: Any, shape: tuple[int, int, int], precision: str, rng: np.random.Generator
) -> None:
    """An image goes to pixels and back on its way, and a reshape keeps the order of planes."""
    x = rng.standard_normal((2, *shape)).astype(np.float16).astype(np.float32)
    relu = {"op": "activation", "kind": "relu"}
    np.testing.assert_array_equal(run(device, relu, x, precision), np.maximum(x, 0))
    flat = run(device, {"op": "reshape", "shape": [x[0].size]}, x, precision)
    np.testing.assert_array_equal(flat, x.reshape(2, -1))
    back = run(device, {"op": "reshape", "shape": list(shape)}, flat, precision)
    np.testing.assert_array_equal(back, x)
