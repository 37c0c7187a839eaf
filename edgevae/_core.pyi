from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

class InputEncoding:
    def __init__(
        self, channels: int, color: str, depth: str, min_m: float, max_m: float, no_reading: float
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
