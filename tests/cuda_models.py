"""What the tests of models on a CUDA device share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevae
from edgevae import _core
from edgevae.engines import cuda_devices
from edgevae.errors import DeviceError

# Largest difference from the processor's float32, over the largest number. Half-precision numbers have 11
# bits and TF32 as many, a few of which the layers' sums eat; float32 differs by the order of its sums.
CLOSE = {"fp16": 5e-3, "tf32": 3e-3, "fp32": 1e-5}


def _missing() -> str:
    try:
        cuda_devices()
    except DeviceError as error:
        return str(error)
    return ""


MISSING = _missing()
EMULATED = _core.cuda_build == "emulated"
on_device = pytest.mark.skipif(bool(MISSING), reason=MISSING)
emulated = pytest.mark.skipif(not EMULATED, reason="wants the emulated build, see CONTRIBUTING.md")


def both(path: Path | None, precision: str = "fp16") -> tuple[edgevae.Model, edgevae.Model]:
    """The model on the processor and on the device."""
    return (
        edgevae.load(path, device="cpu", threads=1, precision="fp32"),
        edgevae.load(path, device="cuda", precision=precision),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def error_of(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def attempt(call: Callable[[Any], Any], x: Any) -> str:
    """What a device's error says, or nothing."""
    try:
        y = call(x)
        if isinstance(y, _core.CudaArray):
            y.numpy()
    except DeviceError as error:
        return str(error)
    return ""


def images(rng: np.random.Generator, model: edgevae.Model, count: int) -> np.ndarray:
    size = model.spec.input
    return rng.uniform(-1, 1, (count, size.channels, size.height, size.width)).astype(np.float32)


class Interface:
    """A tensor that has __cuda_array_interface__ and nothing else."""

    def __init__(self, array: Any, **changed: Any) -> None:
        self.owner = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changed}
