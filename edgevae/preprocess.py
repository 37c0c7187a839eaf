"""Camera arrays to network input, and the depth encodings between metres and [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from .errors import FrameError
from .frame import check_depth, check_rgb

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DepthEncoding:
    """How metres map to the network's depth channel; docs/model-file.md has the formulas.

    Attributes:
        encoding: "linear", "inverse", "log", or "minmax" (per image, not metric).
        min_m, max_m: metres are clipped to this range; both 0 for "minmax".
        no_reading: the network value of a pixel without a depth reading; the encoder can tell it from every
            reading if it lies outside [-1, 1].
        fill: a pixel without a reading gets what the readings around it tell, f in [-1, 1], mirrored, as
            2 no_reading - f: less than no_reading, so that the encoder can tell, and yet what is likely.
    """

    encoding: str
    min_m: float = 0.0
    max_m: float = 0.0
    no_reading: float = -1.0
    fill: bool = False

    @property
    def metric(self) -> bool:
        """Whether network values stand for metres."""
        return self.encoding != "minmax"

    def to_metres(self, x: npt.ArrayLike) -> FloatArray:
        """Network values in [-1, 1] to metres; to [0, 1] for "minmax", which knows no metres."""
        t = np.clip((np.asarray(x, np.float64) + 1) / 2, 0, 1)
        lo, hi = self.min_m, self.max_m
        if self.encoding == "linear":
            d = lo + t * (hi - lo)
        elif self.encoding == "inverse":
            d = 1 / (1 / hi + t * (1 / lo - 1 / hi))
        elif self.encoding == "log":
            d = lo * np.exp(t * math.log(hi / lo))
        else:
            d = t
        return d.astype(np.float32)

    def to_network(self, depth_m: npt.ArrayLike) -> FloatArray:
        """Metres to network values; 0, negative, NaN and infinite depth become ``no_reading``, unfilled."""
        d = np.asarray(depth_m, np.float64)
        reading = np.isfinite(d) & (d > 0)
        d = np.where(reading, d, 1.0)
        lo, hi = self.min_m, self.max_m
        if self.encoding == "minmax":
            lo, hi = (d[reading].min(), d[reading].max()) if reading.any() else (0.0, 0.0)
            t = (d - lo) / (hi - lo) if hi > lo else np.zeros_like(d)
        else:
            d = np.clip(d, lo, hi)
            if self.encoding == "linear":
                t = (d - lo) / (hi - lo)
            elif self.encoding == "inverse":
                t = (1 / d - 1 / hi) / (1 / lo - 1 / hi)
            else:
                t = np.log(d / lo) / math.log(hi / lo)
        return np.where(reading, 2 * t - 1, self.no_reading).astype(np.float32)


@dataclass(frozen=True)
class InputSpec:
    """What a network takes: ``channels`` 1 (luma), 3 (RGB) or 4 (RGB-D) at ``height`` x ``width``.

    ``color`` is "fixed" (c / 127.5 - 1) or "minmax" (each channel of each image stretched to [-1, 1]).
    """

    channels: int
    height: int
    width: int
    color: str = "fixed"
    depth: DepthEncoding | None = None

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> InputSpec:
        """What the document of a model file (docs/model-file.md) says of its input."""
        size, depth = document["input"], document["depth"]
        return InputSpec(
            size["channels"],
            size["height"],
            size["width"],
            document["color"]["encoding"],
            None if depth is None else DepthEncoding(**depth),
        )

    def native(self) -> _core.InputEncoding:
        """The same, for the compiled module.

        Raises:
            ValueError: an encoding is unknown or its range is empty.
        """
        d = self.depth or DepthEncoding("none")
        return _core.InputEncoding(
            self.channels, self.color, d.encoding, d.min_m, d.max_m, d.no_reading, d.fill
        )


def withhold(x: FloatArray, missing: npt.NDArray[np.bool_], spec: InputSpec) -> FloatArray:
    """What the network would get without some of the depth readings.

    Args:
        x: packed frames, (N, 4, h, w).
        missing: bool (N, h, w), readings that are taken away.
        spec: that they were packed for.
    """
    assert spec.depth is not None
    if not missing.any():
        return x
    x = x.copy()
    if spec.depth.fill:
        x[:, 3][missing | (x[:, 3] < spec.depth.no_reading)] = np.nan
        _core.fill_depth(x, spec.depth.no_reading)
    else:
        x[:, 3][missing] = spec.depth.no_reading
    return x


def checked_arrays(
    rgb: npt.NDArray[np.uint8], depth: npt.NDArray[Any] | None, depth_scale: float
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any] | None, float]:
    """The arrays as the compiled module takes them: any strides, but adjacent samples in a pixel.

    Raises:
        FrameError: wrong dtype, shape or scale.
    """
    check_rgb(rgb)
    if depth is not None:
        check_depth(depth, rgb.shape[:2])
        if depth.dtype == np.uint16 and not (math.isfinite(depth_scale) and depth_scale > 0):
            raise FrameError(f"depth_scale is {depth_scale}, wanted positive metres per unit, such as 0.001.")
    if rgb.strides[2] != 1:
        rgb = np.ascontiguousarray(rgb)
    return rgb, depth, float(depth_scale)


def pack_with_mask(
    rgb: npt.NDArray[np.uint8],
    depth: npt.NDArray[Any] | None,
    spec: InputSpec,
    *,
    depth_scale: float = 0.001,
    isa: str = "",
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Resize and normalise one frame, whatever its size.

    Colour is averaged over the area an output pixel covers; depth is the sample at its centre.

    Args:
        rgb: uint8 (H, W, 3); a strided view will do.
        depth: uint16 (H, W) in units of ``depth_scale`` metres, float32 (H, W) metres, or None.
        spec: size and encodings of the result.
        depth_scale: metres per unit of a uint16 depth.
        isa: instruction set; empty for the selected one.

    Returns:
        float32 (C, h, w) in [-1, 1], and bool (h, w): where depth is a reading.

    Raises:
        FrameError: wrong dtype, shape or size.
    """
    rgb, depth, depth_scale = checked_arrays(rgb, depth, depth_scale)
    return _core.pack_frame(rgb, depth, depth_scale, False, spec.native(), spec.height, spec.width, isa)


def pack(
    rgb: npt.NDArray[np.uint8],
    depth: npt.NDArray[Any] | None,
    spec: InputSpec,
    *,
    depth_scale: float = 0.001,
    out: FloatArray | None = None,
) -> FloatArray:
    """As :func:`pack_with_mask`, without the mask; into ``out`` (C, h, w) where given."""
    x, _ = pack_with_mask(rgb, depth, spec, depth_scale=depth_scale)
    if out is None:
        return x
    out[...] = x
    return out
