"""What picture codecs keep of a frame in as many bytes as a latent has.

Colour goes through JPEG or WebP, depth through PNG, each reduced to the size and quality that together leave
the smallest squared error of the frame: every combination is tried, so a frame gets the best its codec can
do. The choice itself costs no bytes here. Depth is stored in 8 bits of the model's own encoding, 0 for no
reading; 16 bits of millimetres would take twice the bytes for digits that nothing of this size can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgevae.preprocess import FloatArray, InputSpec

CODECS = {"JPEG": (".jpg", cv2.IMWRITE_JPEG_QUALITY), "WebP": (".webp", cv2.IMWRITE_WEBP_QUALITY)}
REDUCED = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 1 / 16)  # of height and of width
QUALITIES = (1, 5, 10, 20, 35, 50, 70, 90)

Bool = npt.NDArray[np.bool_]


class Stored(NamedTuple):
    """A part of a frame that went through a codec: ``bytes`` taken, what came back, its squared error."""

    bytes: int
    back: FloatArray
    error: float


def at_most(
    limits: Sequence[int], target: FloatArray, valid: Bool, spec: InputSpec
) -> dict[tuple[str, int], FloatArray | None]:
    """A frame (C, h, w) in [-1, 1] after each of ``CODECS``, by codec and limit in bytes; None: does not fit.

    Args:
        limits: bytes of colour and depth together.
        target: the frame.
        valid: where its depth is a reading, (h, w).
        spec: what its channels are.
    """
    shown = min(spec.channels, 3)
    depth = [Stored(0, target[:0], 0.0)] if spec.depth is None else _depth(target[3], valid)
    found: dict[tuple[str, int], FloatArray | None] = {}
    for codec in CODECS:
        color = _color(target[:shown], codec)
        for limit in limits:
            fitting = [(a, b) for a in color for b in depth if a.bytes + b.bytes <= limit]
            if not fitting:
                found[codec, limit] = None
                continue
            a, b = min(fitting, key=lambda pair: pair[0].error + pair[1].error)
            found[codec, limit] = np.concatenate([a.back, b.back]) if spec.depth is not None else a.back
    return found


def _color(target: FloatArray, codec: str) -> list[Stored]:
    suffix, flag = CODECS[codec]
    channels, height, width = target.shape
    image = ((target[::-1] + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)  # B, G, R
    found = []
    for size in _sizes(height, width):
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        for quality in QUALITIES:
            _, content = cv2.imencode(suffix, small, [flag, quality])
            decoded = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
            assert decoded is not None
            large = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_CUBIC)
            back = large.reshape(height, width, channels).transpose(2, 0, 1)[::-1] / np.float32(127.5) - 1
            found.append(_stored(content, back, target, np.True_))
    return found


def _depth(target: FloatArray, valid: Bool) -> list[Stored]:
    height, width = target.shape
    levels = np.where(valid, 1 + np.rint((target + 1) * 127), 0).astype(np.uint8)
    found = []
    for rows, columns in _sizes(height, width):
        sampled = levels[_centres(rows, height)[:, None], _centres(columns, width)]
        _, content = cv2.imencode(".png", sampled, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        small = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        assert small is not None
        # Interpolated between readings alone: what is missing has no level.
        known = (small > 0).astype(np.float32)
        values = ((small.astype(np.float32) - 1) / 127 - 1) * known
        value, weight = (
            cv2.resize(x, (width, height), interpolation=cv2.INTER_LINEAR) for x in (values, known)
        )
        back = np.where(weight > 1e-3, value / np.maximum(weight, 1e-3), 0).astype(np.float32)
        found.append(_stored(content, back[None], target[None], valid))
    return found


def _stored(
    content: npt.NDArray[np.uint8], back: FloatArray, target: FloatArray, counts: Bool | np.bool_
) -> Stored:
    error = np.square(back - target, dtype=np.float64) * counts
    return Stored(len(content), np.ascontiguousarray(back), float(error.sum()))


def _centres(count: int, full: int) -> npt.NDArray[np.int64]:
    """Which of ``full`` pixels lie at the centres of ``count`` cells."""
    return (2 * np.arange(count) + 1) * full // (2 * count)


def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    return list(
        dict.fromkeys((max(1, round(height * part)), max(1, round(width * part))) for part in REDUCED)
    )
