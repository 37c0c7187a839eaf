"""Held-out frames over their reconstructions as one plain picture: what a run draws while it trains."""

from __future__ import annotations

import numpy as np

from edgevae.pictures import Image
from edgevae.preprocess import InputSpec

from .images import Bools, Floats, colour, metres, resized, scale_of

TALLEST = 256  # rows of pixels of a frame on a sheet


def sheet(target: Floats, y: Floats, valid: Bools, spec: InputSpec) -> Image:
    """Frames (N, C, h, w) over their reconstructions, uint8 (rows * h, N * w, 3).

    Each column is a frame; the rows are colour, its reconstruction, and where there is depth, depth and its
    reconstruction, coloured on one scale for each frame; dark grey has no reading. Frames of more than 256
    rows are reduced.
    """
    columns = []
    for want, got, mask in zip(target, y, valid, strict=True):
        rows = [colour(want), colour(got)]
        if spec.depth is not None:
            depths = [metres(want, spec.depth, mask), metres(got, spec.depth)]
            scale = scale_of(spec.depth, depths[0])
            rows += [scale.colours(depth) for depth in depths]
        columns.append(np.concatenate([bounded(row) for row in rows]))
    return np.concatenate(columns, axis=1)


def bounded(image: Image) -> Image:
    """``image`` with no more than ``TALLEST`` rows."""
    return resized(image, TALLEST) if len(image) > TALLEST else image
