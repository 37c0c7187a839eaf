"""From the network's numbers to pictures: colour, depth in colour.

``Image`` is uint8 (h, w, 3), R G B. Depth takes the colours of ``edgevae.pictures.DepthScale``, as everywhere
in edgevae: Google's Turbo, made to be read with the common kinds of colour blindness, too.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgevae.pictures import DepthScale, Image
from edgevae.preprocess import DepthEncoding, InputSpec

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def colour(x: Floats) -> Image:
    """The colour of a network image (C, h, w) in [-1, 1]; one channel becomes grey. NaN is black."""
    image = np.nan_to_num((x[: 3 if len(x) > 1 else 1] + 1) * 127.5, nan=0.0).clip(0, 255).round()
    return np.ascontiguousarray(np.broadcast_to(image.transpose(1, 2, 0), (*x.shape[1:], 3)), np.uint8)


def metres(x: Floats, encoding: DepthEncoding, valid: Bools | None = None) -> Floats:
    """The depth (h, w) of a network image (C, h, w), NaN where ``valid`` is false.

    Metres, or parts of each image's own range where the encoding is not metric.
    """
    depth = encoding.to_metres(x[3])
    return depth if valid is None else np.where(valid, depth, np.float32(np.nan))


def scale_of(encoding: DepthEncoding, *depths: Floats) -> DepthScale:
    """One scale for all of these depth images."""
    return DepthScale.covering(*depths) if encoding.metric else DepthScale(0.0, 1.0, relative=True)


def stacked(x: Floats, spec: InputSpec, scale: DepthScale | None = None, valid: Bools | None = None) -> Image:
    """A network image (C, h, w) as one picture: colour, and below it depth where it has some.

    Args:
        x: the image.
        spec: what its channels are.
        scale: of depth; None takes one of its own.
        valid: where depth is a reading, (h, w); None for everywhere.
    """
    if spec.depth is None:
        return colour(x)
    depth = metres(x, spec.depth, valid)
    return np.concatenate([colour(x), (scale or scale_of(spec.depth, depth)).colours(depth)])


def resized(image: Image, height: int) -> Image:
    """``image`` at about ``height`` rows: averaged if it shrinks, whole pixels repeated if it grows."""
    h, w = image.shape[:2]
    if h > height:
        size = (max(1, round(w * height / h)), height)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    times = max(1, height // h)
    return np.ascontiguousarray(image.repeat(times, axis=0).repeat(times, axis=1))
