"""Colour and depth pictures and camera.json, as folders of frames hold them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError, SourceError
from ..frame import Intrinsics
from .opencv_quiet import load_cv2

COLOR_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
DEPTH_SUFFIXES = frozenset({".png", ".npy"})


def read_color(path: Path) -> npt.NDArray[np.uint8]:
    """A picture as uint8 (H, W, 3) R G B, in the orientation it is stored in (depth has no EXIF tag).

    Raises:
        FrameError: the file is missing, truncated or no picture.
    """
    cv2 = load_cv2()
    bgr = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_depth(path: Path, *, eight_bit: bool = False) -> npt.NDArray[Any]:
    """A depth picture as uint16 (H, W) units or float32 (H, W) metres.

    Args:
        path: 16-bit png, or .npy of uint16 or a float type.
        eight_bit: also take an 8-bit png (widened to uint16), whose units nobody can guess.

    Raises:
        FrameError: the file is missing or truncated.
        SourceError: it holds another kind of numbers, as its neighbours will.
    """
    wanted = "wanted one channel of 16-bit png, or .npy with uint16 units or float metres (H, W)"
    if path.suffix.lower() == ".npy":
        try:
            depth: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise FrameError(f"cannot read depth {path}: {error}; {wanted}.") from error
        if depth.ndim == 2 and depth.dtype in (np.float16, np.float32, np.float64):
            return np.ascontiguousarray(depth, dtype=np.float32)
    else:
        depth = _decode(path, load_cv2().IMREAD_UNCHANGED)
    if depth.ndim == 2 and depth.dtype == np.uint16:
        return np.ascontiguousarray(depth)
    if depth.ndim == 2 and depth.dtype == np.uint8:
        if eight_bit:
            return depth.astype(np.uint16)
        raise SourceError(f"depth {path} has 8 bits, {wanted}; or metres per step: FOLDER?depth_scale=0.04.")
    raise SourceError(f"depth {path} is {depth.dtype} {depth.shape}, {wanted}.")


def _decode(path: Path, flags: int) -> npt.NDArray[Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"cannot read picture {path}: {error.strerror or error}.") from error
    return decode_picture(data, flags, str(path), cure="Remove it or copy it again.")


def decode_picture(data: bytes, flags: int, name: str, *, cure: str) -> npt.NDArray[Any]:
    """The picture in ``data``, a file's content, as OpenCV's ``imdecode`` gives it.

    Raises:
        FrameError: it is empty, truncated or no picture; ``name`` says which, ``cure`` what to do.
    """
    cv2 = load_cv2()
    # libpng prints to stderr on its own, so a PNG without its end is turned away before it is asked
    whole = not data.startswith(b"\x89PNG") or b"IEND" in data[-64:]
    picture = None
    if data and whole:
        try:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            picture = None
    if picture is None:
        what = "is empty" if not data else "is truncated or not a picture"
        raise FrameError(f"picture {name} {what} ({len(data)} bytes). {cure}")
    return np.asarray(picture)


def check_pair(rgb_path: Path, rgb: npt.NDArray[Any], depth_path: Path, depth: npt.NDArray[Any]) -> None:
    """Raise FrameError unless depth has the size of its colour picture."""
    if rgb.shape[:2] != depth.shape:
        (h, w), (dh, dw) = rgb.shape[:2], depth.shape
        raise FrameError(
            f"depth {depth_path} is {dw}x{dh}, colour {rgb_path} is {w}x{h}; wanted the same size, depth "
            "registered to colour. Use --depth none for colour alone."
        )


def read_camera(path: Path) -> tuple[Intrinsics, float | None]:
    """``camera.json``: intrinsics, and metres per depth unit where the file says so.

    Keys: width, height, fx, fy, cx, cy; optional ``distortion_k1k2p1p2k3`` (list) and
    ``depth_scale_per_metre`` (units per metre).

    Raises:
        SourceError: the file is not such a document.
    """
    wanted = "wanted a JSON object with numbers width, height, fx, fy, cx, cy"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {path}: {error}; {wanted}.") from error
    if not isinstance(document, dict):
        raise SourceError(f"{path} holds a {type(document).__name__}, {wanted}.")

    def number(key: str) -> float:
        value = document.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SourceError(f"{path} has {key} = {value!r}, {wanted}.")
        return float(value)

    width, height, fx, fy, cx, cy = (number(k) for k in ("width", "height", "fx", "fy", "cx", "cy"))
    if min(width, height, fx, fy) <= 0.0 or width % 1 or height % 1:
        raise SourceError(
            f"{path} has size {width:g}x{height:g}, focal length {fx:g}, {fy:g}; {wanted} above 0."
        )
    distortion = document.get("distortion_k1k2p1p2k3", [])
    if not isinstance(distortion, list) or not all(
        isinstance(k, int | float) and not isinstance(k, bool) for k in distortion
    ):
        raise SourceError(f"{path} has distortion_k1k2p1p2k3 = {distortion!r}, wanted a list of numbers.")
    scale = None
    if "depth_scale_per_metre" in document:
        units_per_m = number("depth_scale_per_metre")
        if units_per_m <= 0.0:
            raise SourceError(f"{path} has depth_scale_per_metre = {units_per_m}, wanted a positive number.")
        scale = 1.0 / units_per_m
    return Intrinsics(fx, fy, cx, cy, int(width), int(height), tuple(float(k) for k in distortion)), scale


def fitting(camera: Intrinsics | None, rgb_path: Path, rgb: npt.NDArray[Any]) -> Intrinsics | None:
    """``camera`` if it belongs to pictures of this size.

    Raises:
        SourceError: the calibration is for another size.
    """
    if camera is not None and (camera.height, camera.width) != rgb.shape[:2]:
        raise SourceError(
            f"{rgb_path} is {rgb.shape[1]}x{rgb.shape[0]}, "
            f"camera.json is for {camera.width}x{camera.height}; "
            "correct its width, height, fx, fy, cx and cy, or remove it."
        )
    return camera
