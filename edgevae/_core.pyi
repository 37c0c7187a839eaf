from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

class InputEncoding:
    def __init__(
        self,
        channels: int,
        color: str,
        depth: str,
        min_m: float,
        max_m: float,
        no_reading: float,
        fill: bool = False,
    ) -> None: ...

class Pool:
    def __init__(self, threads: int) -> None: ...

class Network:
    def __init__(
        self,
        layers: list[dict[str, Any]],
        tensors: dict[str, npt.NDArray[Any]],
        input_shape: list[int] | tuple[int, ...],
        condition: int,
        pool: Pool,
        isa: str = "",
        precision: str = "exact",
    ) -> None: ...
    def run(
        self, x: npt.NDArray[Any], condition: npt.NDArray[Any] | None = None, outputs: int | None = None
    ) -> FloatArray: ...
    def encode_frame(
        self,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[Any] | None,
        depth_scale: float,
        bgr: bool,
        encoding: InputEncoding,
        outputs: int | None = None,
    ) -> tuple[FloatArray, float, float]: ...
    def decode_frames(
        self, z: npt.NDArray[Any], condition: npt.NDArray[Any] | None, encoding: InputEncoding
    ) -> tuple[npt.NDArray[np.uint8], FloatArray | None]: ...
    def profile(
        self, x: npt.NDArray[Any], condition: npt.NDArray[Any] | None = None, outputs: int | None = None
    ) -> list[dict[str, Any]]: ...
    def properties(self) -> dict[str, Any]: ...

class Convolution:
    def __init__(
        self,
        layers: list[dict[str, Any]],
        tensors: dict[str, npt.NDArray[Any]],
        input_shape: list[int] | tuple[int, ...],
        isa: str = "",
    ) -> None: ...
    def run(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], pool: Pool) -> None: ...

# Of builds with CUDA.

class CudaSession:
    index: int
    def __init__(self, index: int) -> None: ...

class CudaArray:
    """float32 on a CUDA device; freed in the order of its stream, which has to outlive it."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.float32]
    device: str
    def __init__(self, session: CudaSession, array: npt.NDArray[np.float32]) -> None: ...
    def numpy(self) -> FloatArray: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...

class CudaView:
    shape: list[int]
    device: int
    @staticmethod
    def from_dlpack(capsule: object) -> CudaView: ...
    @staticmethod
    def from_interface(interface: dict[str, Any]) -> CudaView: ...

class CudaNetwork:
    def __init__(
        self,
        layers: list[dict[str, Any]],
        tensors: dict[str, npt.NDArray[Any]],
        input_shape: list[int] | tuple[int, ...],
        condition: int,
        session: CudaSession,
        precision: str = "fp16",
    ) -> None: ...
    def run(
        self, x: npt.NDArray[Any], condition: npt.NDArray[Any] | None = None, outputs: int | None = None
    ) -> FloatArray: ...
    def encode_frame(
        self,
        rgb: npt.NDArray[np.uint8],
        depth: npt.NDArray[Any] | None,
        depth_scale: float,
        bgr: bool,
        encoding: InputEncoding,
        outputs: int | None = None,
    ) -> tuple[FloatArray, float, float]: ...
    def decode_frames(
        self, z: npt.NDArray[Any], condition: npt.NDArray[Any] | None, encoding: InputEncoding
    ) -> tuple[npt.NDArray[np.uint8], FloatArray | None]: ...
    def profile(
        self, x: npt.NDArray[Any], condition: npt.NDArray[Any] | None = None, outputs: int | None = None
    ) -> list[dict[str, Any]]: ...
    def properties(self) -> dict[str, Any]: ...
    def run_on_device(
        self, x: CudaView, condition: CudaView | None = None, outputs: int | None = None, stream: int = 1
    ) -> CudaArray: ...

class CudaConvolution:
    def __init__(
        self,
        layers: list[dict[str, Any]],
        tensors: dict[str, npt.NDArray[Any]],
        input_shape: list[int] | tuple[int, ...],
        session: CudaSession,
        precision: str,
    ) -> None: ...
    def workspace_bytes(self, n: int) -> int: ...
    def run(self, n: int, x: int, y: int, workspace: int, stream: int) -> None: ...

cuda_build: str  # "" for none, the toolkit's version, or "emulated"

def cuda_devices() -> list[dict[str, Any]]: ...
def fail_cuda_call(name: str, nth: int, code: int, forever: bool = False) -> None: ...  # emulated
def heal_cuda_calls() -> None: ...  # emulated
def available_isas() -> list[str]: ...
def selected_isa(isa: str = "") -> str: ...
def infer_shapes(
    layers: list[dict[str, Any]],
    tensors: dict[str, npt.NDArray[Any]],
    input_shape: list[int] | tuple[int, ...],
    condition: int = 0,
) -> list[list[int]]: ...
def pack_frame(
    rgb: npt.NDArray[np.uint8],
    depth: npt.NDArray[Any] | None,
    depth_scale: float,
    bgr: bool,
    encoding: InputEncoding,
    height: int,
    width: int,
    isa: str = "",
) -> tuple[FloatArray, npt.NDArray[np.bool_]]: ...
def fill_depth(frames: FloatArray, no_reading: float, isa: str = "") -> None: ...
