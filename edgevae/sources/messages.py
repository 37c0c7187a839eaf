"""Pictures as logged messages hold them, raw or compressed, and how they become arrays.

ROS and Foxglove name the layouts of raw pictures alike; the names are those of ROS's image_encodings.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from ..frame import Intrinsics
from .image_files import decode_picture
from .opencv_quiet import load_cv2

# Encoding: bytes a pixel, and OpenCV's conversion to R G B (empty for none).
_COLORS = {
    "rgb8": (3, ""),
    "bgr8": (3, "BGR2RGB"),
    "8uc3": (3, "BGR2RGB"),
    "rgba8": (4, "RGBA2RGB"),
    "bgra8": (4, "BGRA2RGB"),
    "8uc4": (4, "BGRA2RGB"),
    "mono8": (1, "GRAY2RGB"),
    "8uc1": (1, "GRAY2RGB"),
    "yuv422": (2, "YUV2RGB_UYVY"),
    "uyvy": (2, "YUV2RGB_UYVY"),
    "yuv422_yuy2": (2, "YUV2RGB_YUY2"),
    "yuyv": (2, "YUV2RGB_YUY2"),
    # OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by its first two.
    "bayer_rggb8": (1, "BayerBG2RGB"),
    "bayer_bggr8": (1, "BayerRG2RGB"),
    "bayer_gbrg8": (1, "BayerGR2RGB"),
    "bayer_grbg8": (1, "BayerGB2RGB"),
}
_DEPTHS = {"16uc1": np.uint16, "mono16": np.uint16, "z16": np.uint16, "32fc1": np.float32}
_DEPTH_HEADER = struct.Struct("<iff")  # of ROS's compressedDepth: format, two numbers of its quantisation


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """One picture, not decoded yet.

    Attributes:
        encoding: the layout of a raw picture, or what a compressed one says of its format.
        data: the pixels, or the file.
        width, height, step: of a raw picture, in pixels and bytes a row; 0 of a compressed one.
    """

    topic: str
    stamp_ns: int
    encoding: str
    data: bytes | npt.NDArray[np.uint8]
    width: int = 0
    height: int = 0
    step: int = 0
    big_endian: bool = False

    @property
    def compressed(self) -> bool:
        return self.step == 0


@dataclass(frozen=True, slots=True)
class PoseMessage:
    """The camera in the world, (4, 4), at a time."""

    stamp_ns: int
    pose: npt.NDArray[np.float64]


def kind(message: ImageMessage) -> str:
    """ "color" or "depth" for what can be decoded, empty for everything else."""
    encoding = message.encoding.lower()
    if not message.compressed:
        if encoding == "mono16":  # of an infrared camera, too
            return "depth" if "depth" in message.topic.lower() else ""
        return "depth" if encoding in _DEPTHS else "color" if encoding in _COLORS else ""
    if "compresseddepth" in encoding or encoding.startswith(("16uc1", "32fc1")):
        return "depth"
    head = bytes(message.data[:26])
    if head.startswith(b"\x89PNG") and head[24:26] == b"\x10\x00":  # 16 bits, grey
        return "depth" if "mono16" not in encoding or "depth" in message.topic.lower() else ""
    return "color"


def decode_color(message: ImageMessage) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) R G B.

    Raises:
        FrameError: the message is damaged.
    """
    cv2 = load_cv2()
    if message.compressed:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        bgr = decode_picture(bytes(message.data), flags, _name(message), cure=_CURE)
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    channels, conversion = _COLORS[message.encoding.lower()]
    pixels = _rows(message, channels)
    if not conversion:
        return pixels.reshape(message.height, message.width, 3)
    if channels > 1:
        pixels = pixels.reshape(message.height, message.width, channels)
    try:
        return np.asarray(cv2.cvtColor(pixels, getattr(cv2, f"COLOR_{conversion}")), np.uint8)
    except cv2.error as error:  # a Bayer or YUV picture of an odd size
        raise FrameError(
            f"{_name(message)} is {message.encoding} of {message.width}x{message.height}, which cannot be "
            f"converted. {_CURE}"
        ) from error


def decode_depth(message: ImageMessage) -> npt.NDArray[Any]:
    """uint16 (H, W) units or float32 (H, W) metres.

    Raises:
        FrameError: the message is damaged, or holds no depth.
    """
    if not message.compressed:
        dtype = np.dtype(_DEPTHS[message.encoding.lower()])
        stored = dtype.newbyteorder(">" if message.big_endian else "<")
        return np.ascontiguousarray(_rows(message, dtype.itemsize).view(stored), dtype)
    data, scale = bytes(message.data), None
    if "compresseddepth" in message.encoding.lower():
        if len(data) <= _DEPTH_HEADER.size:
            raise FrameError(f"picture {_name(message)} is empty ({len(data)} bytes). {_CURE}")
        _, a, b = _DEPTH_HEADER.unpack_from(data)
        data = data[_DEPTH_HEADER.size :]
        scale = (a, b) if message.encoding.lower().startswith("32fc1") else None
    depth = decode_picture(data, load_cv2().IMREAD_UNCHANGED, _name(message), cure=_CURE)
    if depth.ndim != 2 or depth.dtype not in (np.uint16, np.float32):
        raise FrameError(f"{_name(message)} is {depth.dtype} {depth.shape}, wanted depth of 16 bits. {_CURE}")
    if scale is not None:  # 1 / metres was quantised: compressed_depth_image_transport
        inverse = depth.astype(np.float32) - np.float32(scale[1])
        known = (depth > 0) & (inverse > 0)
        metres = np.zeros_like(inverse)
        metres[known] = np.float32(scale[0]) / inverse[known]
        return metres
    return depth


def pinhole(width: int, height: int, k: Any, distortion_model: str, distortion: Any) -> Intrinsics | None:
    """Intrinsics of a CameraInfo or CameraCalibration; None for one that was never set, or for a fisheye."""
    if len(k) != 9 or not np.isfinite(k).all() or min(width, height, k[0], k[4]) <= 0:
        return None
    if distortion_model not in ("", "plumb_bob", "rational_polynomial"):
        return None
    coefficients = tuple(float(value) for value in distortion)
    if not np.isfinite(coefficients).all():
        return None
    return Intrinsics(
        float(k[0]),
        float(k[4]),
        float(k[2]),
        float(k[5]),
        width,
        height,
        coefficients if any(coefficients) else (),
    )


_CURE = "Record it again, or choose another topic."


def _name(message: ImageMessage) -> str:
    return f"{message.topic} at {message.stamp_ns / 1e9:.3f} s"


def _rows(message: ImageMessage, pixel_bytes: int) -> npt.NDArray[np.uint8]:
    """The pixels' bytes, (H, W * pixel_bytes), without what pads the rows."""
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    used = width * pixel_bytes
    if min(height, width) <= 0 or step < used or data.size < (height - 1) * step + used:
        raise FrameError(
            f"{_name(message)} has {data.size} bytes in rows of {step}, wanted {message.encoding} of "
            f"{width}x{height}. {_CURE}"
        )
    if data.size < height * step:  # the last row is not padded
        data = np.concatenate([data, np.zeros(height * step - data.size, np.uint8)])
    return np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :used])
