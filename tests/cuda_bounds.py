"""What tests of single CUDA kernels share: a device, and how far a sum may be off.

They run on the emulated build (CONTRIBUTING.md) and, unchanged, on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevae import _core

PRECISIONS = ["fp16", "tf32", "fp32"]

# Half-precision numbers and TF32 have eleven bits of mantissa, floats 24: what rounding one adds, relatively.
HALF, SINGLE = 2.0**-11, 2.0**-24


def session() -> Any:
    """The first device; skips where build or machine has none."""
    if not hasattr(_core, "CudaSession"):
        pytest.skip("this build has no CUDA, see CONTRIBUTING.md")
    try:
        return _core.CudaSession(0)
    except Exception as error:
        pytest.skip(str(error))


def rounded(x: np.ndarray, precision: str) -> np.ndarray:
    """The input as the kernel gets it."""
    return x.astype(np.float16).astype(np.float32) if precision == "fp16" else x


def check(
    got: np.ndarray,
    wanted: np.ndarray,
    magnitude: np.ndarray,
    products: int,
    precision: str,
    *,
    halves: bool,
    slack: float = 1,
) -> None:
    """``magnitude`` is the layer applied to absolute values: the scale of its rounding errors.

    A float32 sum of k products on random data is off by about sqrt(k) roundings of the sum of magnitudes,
    with room 4 sqrt(k). Rounding the factors to eleven bits adds k errors of magnitude / k each, which add up
    to magnitude / sqrt(k); six of them are far from what 10^5 draws reach. A result that becomes a half is
    rounded once more. ``slack`` is for sums and differences taken before products.
    """
    assert got.shape == wanted.shape
    assert not np.isnan(got).any()
    bound = 4 * np.sqrt(products) * SINGLE * magnitude
    if precision != "fp32":
        bound += 6 * HALF * magnitude / np.sqrt(products)
    bound = slack * bound + (HALF * np.abs(wanted) + 2.0**-24 if halves else 0) + 1e-30
    worst = np.max(np.abs(got - wanted) / bound)
    assert worst <= 1, f"error is {worst:.2f} times its bound"
