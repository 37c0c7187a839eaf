"""Tensors on a CUDA device, of any library with DLPack or ``__cuda_array_interface__``: place and order."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from . import _core
from .errors import FrameError

_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged
LEGACY_STREAM = 1


class DeviceTensor(Protocol):
    """What PyTorch, CuPy, JAX, Numba and :class:`edgevae.CudaArray` have in common."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


def place_of(x: object) -> str:
    """ "cpu" for everything in host memory, else "cuda:0"."""
    # DLPack first: torch refuses the other one to tensors that require a gradient.
    if hasattr(x, "__dlpack_device__"):
        kind, index = x.__dlpack_device__()
        return f"cuda:{index}" if int(kind) in _DLPACK_CUDA else "cpu"
    if not hasattr(x, "__cuda_array_interface__"):
        return "cpu"
    if not _core.cuda_build:  # and nobody to ask which
        return "cuda"
    return f"cuda:{_core.CudaView.from_interface(x.__cuda_array_interface__).device}"


def stream_of(x: object, stream: object = None) -> int:
    """The stream that work on ``x`` belongs to.

    Args:
        x: a tensor on a device.
        stream: the caller's choice: a number as ``__cuda_array_interface__`` counts (1 is the legacy default
            stream), or a stream of torch, CuPy or anything with ``__cuda_stream__``. None takes torch's
            current stream for its tensors, the one that another tensor names, or the legacy default stream.

    Raises:
        FrameError: ``stream`` is none of these.
    """
    if stream is None:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(x, torch.Tensor):
            return int(torch.cuda.current_stream(x.device).cuda_stream) or LEGACY_STREAM
        interface = getattr(x, "__cuda_array_interface__", {})
        return int(interface.get("stream") or LEGACY_STREAM)
    if hasattr(stream, "__cuda_stream__"):
        stream = stream.__cuda_stream__()[1]
    for name in ("cuda_stream", "ptr"):
        stream = getattr(stream, name, stream)
    if isinstance(stream, bool) or not isinstance(stream, int) or stream < 0:
        raise FrameError(
            f"stream is {stream!r}, wanted a stream of torch or CuPy, its number, or None for the usual one."
        )
    return stream or LEGACY_STREAM


def view_of(x: Any, stream: int) -> _core.CudaView:
    """The tensor without a copy, once work that ``stream`` gets from now on will find it written.

    Raises:
        ValueError: it cannot be shared.
    """
    if not hasattr(x, "__dlpack__"):
        return _core.CudaView.from_interface(x.__cuda_array_interface__)
    try:
        return _core.CudaView.from_dlpack(x.__dlpack__(stream=stream))
    except (BufferError, RuntimeError) as error:  # torch's, of a tensor with a gradient for one
        raise ValueError(str(error)) from None
