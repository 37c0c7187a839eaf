"""Augmentations; whatever moves pixels moves those of colour and depth together."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]


@dataclass
class AugmentOptions:
    """What is done to a training frame, each with its own random draw.

    Attributes:
        crop: smallest part of height and of width that a random crop keeps; 1 for no crop.
        mirror: probability that left and right are exchanged.
        jitter: colour gain of up to +- this for the image, and half of it for each channel; 0 for none.
        drop_depth: probability that the encoder sees no depth at all.
        drop_blocks: probability that it sees depth with some rectangles missing.
    """

    crop: float = 1.0
    mirror: float = 0.5
    jitter: float = 0.0
    drop_depth: float = 0.0
    drop_blocks: float = 0.0


def move(
    rgb: npt.NDArray[np.uint8],
    depth: npt.NDArray[np.uint16],
    options: AugmentOptions,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """A random crop, mirrored or not, of an (H, W, 3) and an (H, W) image; views where possible."""
    if options.crop < 1.0:
        h, w = depth.shape
        scale = rng.uniform(options.crop, 1.0, size=2)
        scale = 0.75 * scale + 0.25 * scale.mean()  # mostly of one zoom, a little stretched
        ch, cw = max(1, round(h * scale[0])), max(1, round(w * scale[1]))
        top, left = rng.integers(h - ch + 1), rng.integers(w - cw + 1)
        rgb, depth = rgb[top : top + ch, left : left + cw], depth[top : top + ch, left : left + cw]
    if rng.random() < options.mirror:
        rgb, depth = rgb[:, ::-1], depth[:, ::-1]
    return rgb, depth


def jitter(
    rgb: npt.NDArray[np.uint8], options: AugmentOptions, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Colour multiplied by random gains, clipped at white."""
    if options.jitter == 0.0:
        return rgb
    gain = 1 + rng.uniform(-1, 1) * options.jitter + rng.uniform(-0.5, 0.5, size=3) * options.jitter
    table = np.clip(np.arange(256)[:, None] * gain[None], 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(np.ascontiguousarray(rgb), table[None]), np.uint8)


def dropped(shape: tuple[int, ...], options: AugmentOptions, rng: np.random.Generator) -> Bool:
    """Where depth is withheld from the encoder, bool (h, w)."""
    missing = np.zeros(shape, np.bool_)
    draw = rng.random()
    if draw < options.drop_depth:
        missing[:] = True
    elif draw < options.drop_depth + options.drop_blocks:
        for _ in range(rng.integers(1, 5)):
            h, w = (max(1, int(n * rng.uniform(0.1, 0.4))) for n in shape)
            top, left = rng.integers(shape[0] - h + 1), rng.integers(shape[1] - w + 1)
            missing[top : top + h, left : left + w] = True
    return missing
