"""A decoded picture as the cache keeps it: cropped, of the set's size, depth masked and in small units."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgevae.errors import FrameError

from .readers import Picture
from .sets import SetOptions

DEPTH_UNIT_M = 0.002  # of the cached uint16 depth: up to 131 m
WHITE = 255

Cached = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16] | None]


def prepare(picture: Picture, options: SetOptions, size: tuple[int, int] | None) -> Cached:
    """Colour uint8 and depth uint16 of ``size`` (H, W); None for the size that a first picture gives its set.

    Colour is reduced by area average; depth takes the sample at the centre of each cell, so that the depths
    of two surfaces never mix.

    Raises:
        FrameError: the picture cannot be used.
    """
    import cv2

    color, depth_m = picture
    if depth_m is not None and depth_m.shape != color.shape[:2]:
        raise FrameError(
            f"colour is {color.shape[:2]}, depth is {depth_m.shape}; wanted the same pixel grid."
        )
    if options.crop:
        top, bottom, left, right = options.crop
        if not (0 <= top < bottom <= color.shape[0] and 0 <= left < right <= color.shape[1]):
            raise FrameError(f"crop {options.crop} is outside an image of {color.shape[:2]}.")
        color = color[top:bottom, left:right]
        depth_m = None if depth_m is None else depth_m[top:bottom, left:right]
    if options.grey and color.ndim == 3:
        color = np.asarray(cv2.cvtColor(np.ascontiguousarray(color), cv2.COLOR_RGB2GRAY), np.uint8)
    depth = None if depth_m is None else _in_units(depth_m, options)
    h, w = color.shape[:2]
    if size is None:
        height = min(h, options.height or h)
        size = (height, max(1, round(w * height / h)))
        size = (options.size[0], options.size[1]) if options.size else size
    if options.fit == "crop":
        part = _centre((h, w), size)
        color, depth = color[part], None if depth is None else depth[part]
    if options.fit != "letterbox":
        return _resized(color, size), None if depth is None else _sampled(depth, size)
    scale = min(size[0] / h, size[1] / w)
    inner = max(1, min(size[0], round(h * scale))), max(1, min(size[1], round(w * scale)))
    return (
        _framed(_resized(color, inner), size, WHITE),
        None if depth is None else _framed(_sampled(depth, inner), size, 0),
    )


def _in_units(depth_m: npt.NDArray[np.float32], options: SetOptions) -> npt.NDArray[np.uint16]:
    """Depth in units of ``DEPTH_UNIT_M``, 0 where there is no reading or one beyond ``max_depth_m``."""
    farthest = options.max_depth_m or 65535 * DEPTH_UNIT_M
    measured = np.isfinite(depth_m) & (depth_m > 0)
    reading = measured & (depth_m <= farthest)
    if measured.any() and not reading.any():
        raise FrameError(
            f"no depth is below {farthest:g} m, the nearest is {depth_m[measured].min():g} m; are "
            "depth_scale and max_depth_m right?"
        )
    units = np.zeros(depth_m.shape, np.uint16)
    units[reading] = np.clip(np.rint(depth_m[reading] / DEPTH_UNIT_M), 1, 65535)
    return units


def _centre(shape: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """The largest part in the middle that has the shape of ``size``."""
    scale = min(shape[0] / size[0], shape[1] / size[1])
    parts = []
    for full, wanted in zip(shape, size, strict=True):
        n = max(1, min(full, round(wanted * scale)))
        parts.append(slice((full - n) // 2, (full - n) // 2 + n))
    return parts[0], parts[1]


def _resized(color: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    import cv2

    if color.shape[:2] == size:
        return color
    interpolation = cv2.INTER_AREA if size[0] < color.shape[0] else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(color), (size[1], size[0]), interpolation=interpolation)
    return np.asarray(resized, np.uint8)


def _sampled(depth: npt.NDArray[np.uint16], size: tuple[int, int]) -> npt.NDArray[np.uint16]:
    if depth.shape == size:
        return depth
    rows, columns = (
        ((np.arange(n) + 0.5) * full / n).astype(np.int64) for n, full in zip(size, depth.shape, strict=True)
    )
    return np.asarray(depth[rows[:, None], columns[None]], np.uint16)


def _framed(image: npt.NDArray[Any], size: tuple[int, int], border: int) -> npt.NDArray[Any]:
    """``image`` in the middle of ``border``."""
    framed = np.full((*size, *image.shape[2:]), border, image.dtype)
    top, left = ((full - n) // 2 for full, n in zip(size, image.shape[:2], strict=True))
    framed[top : top + image.shape[0], left : left + image.shape[1]] = image
    return framed
