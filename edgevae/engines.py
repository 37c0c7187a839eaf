"""What a model runs on: the processor, or a CUDA device."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy.typing as npt

from . import _core
from .errors import DeviceError, EdgevaeError
from .words import counted

Layers = list[dict[str, Any]]
Tensors = dict[str, npt.NDArray[Any]]
if TYPE_CHECKING:  # not every build has both
    Network: TypeAlias = _core.Network | _core.CudaNetwork

NO_CUDA = (
    "this build of edgevae has no CUDA engine; put nvcc on PATH ('pip install nvidia-cuda-nvcc', or NVIDIA's "
    "toolkit) and build it again ('pip install .' in its source tree), or take device='cpu'."
)


class Engine(Protocol):
    """Makes networks that share what they run on."""

    device: str  # "cpu" or "cuda:0"
    isa: str  # the kernels: "avx2", "sm_90"
    threads: int  # of the processor, the calling one included

    def network(self, layers: Layers, tensors: Tensors, shape: Iterable[int], condition: int) -> Network:
        """A network for images (c, h, w) or vectors (n) of this shape."""
        ...

    def __str__(self) -> str: ...


class CpuEngine:
    """The processor's kernels (csrc/network.h)."""

    device = "cpu"

    def __init__(self, threads: int | None, isa: str, precision: str | None) -> None:
        if precision not in (None, "fp32", "fp16"):
            raise EdgevaeError(f"precision is {precision!r}, wanted None, 'fp32' or 'fp16' on the processor.")
        if threads is None:
            threads = max(1, min(8, len(os.sched_getaffinity(0))))
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256:
            raise EdgevaeError(f"threads is {threads!r}, wanted a number from 1 to 256.")
        try:
            self.isa = _core.selected_isa(isa)
        except ValueError as error:
            raise EdgevaeError(str(error)) from None
        self.threads = threads
        self._precision = precision or "exact"
        self._pool = _core.Pool(threads)

    def network(self, layers: Layers, tensors: Tensors, shape: Iterable[int], condition: int) -> Network:
        return _core.Network(layers, tensors, list(shape), condition, self._pool, self.isa, self._precision)

    def __str__(self) -> str:
        return f"{self.isa}, {counted(self.threads, 'thread')}"


class CudaEngine:
    """A CUDA device's kernels (csrc/network_cuda.h), with a stream of their own."""

    threads = 1

    def __init__(self, device: str, precision: str | None) -> None:
        if precision not in (None, "fp16", "tf32", "fp32"):
            raise EdgevaeError(
                f"precision is {precision!r}, wanted None, 'fp16', 'tf32' or 'fp32' on a CUDA device."
            )
        index = int(device.partition(":")[2] or 0)
        found = cuda_devices()
        if index >= len(found):
            raise DeviceError(
                f"there is no cuda:{index}, the last device is cuda:{len(found) - 1}; see 'edgevae doctor'."
            )
        self.session = _core.CudaSession(index)
        self.device = f"cuda:{index}"
        self.name = str(found[index]["name"])
        self.isa = "sm_" + str(found[index]["compute"]).replace(".", "")
        self._precision = precision or "fp16"

    def network(self, layers: Layers, tensors: Tensors, shape: Iterable[int], condition: int) -> Network:
        return _core.CudaNetwork(layers, tensors, list(shape), condition, self.session, self._precision)

    def __str__(self) -> str:
        return f"{self.name} ({self.device}), {self._precision}"


def cuda_devices() -> list[dict[str, Any]]:
    """Name, compute capability, multiprocessors and memory of every CUDA device.

    Raises:
        DeviceError: there is none, no driver for it, or no CUDA in this build.
    """
    if not _core.cuda_build:
        raise DeviceError(NO_CUDA)
    return _core.cuda_devices()


def check_device(device: object) -> str:
    """``device`` as :func:`edgevae.load` takes it.

    Raises:
        EdgevaeError: it is none.
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise EdgevaeError(f"device is {device!r}, wanted 'auto', 'cpu', 'cuda' or 'cuda:1'.")
    return device
