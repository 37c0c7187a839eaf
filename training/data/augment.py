"""Augmentations; whatever moves pixels moves those of colour and depth together.

Each takes its random numbers from a generator of the frame's own (``training.data.draws``), so that a frame
of an epoch comes out the same whoever prepares it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgevae.preprocess import InputSpec

from .holes import beyond, holes

Bool = npt.NDArray[np.bool_]
GRID = 12  # most cells of the grid of drop_blocks in one direction


@dataclass
class AugmentOptions:
    """What is done to a training frame, each with its own random draw; nothing by default.

    Attributes:
        crop: smallest part of height and of width that a random crop keeps; 1 for no crop. Things look nearer
            in a crop, and metric depth becomes so: :meth:`Place.zoom`.
        shift: largest move in each direction, as a part of height and of width; the border is repeated.
        mirror: probability that left and right are exchanged.
        jitter: gain of up to +- this for the image, and half of it for each channel of a colour image; 0 for
            none.
        drop_depth: probability that the encoder sees no depth at all.
        drop_blocks: probability that it sees depth without some rectangles, or without some of the cells of
            a grid, each half of the time.
        drop_holes: probability that it sees depth with such holes as cameras leave, beside any blocks:
            ``training.data.holes``.
        drop_range: probability that it sees no depth that is nearer or farther than a range of the frame's,
            likewise.
    """

    crop: float = 1.0
    shift: float = 0.0
    mirror: float = 0.0
    jitter: float = 0.0
    drop_depth: float = 0.0
    drop_blocks: float = 0.0
    drop_holes: float = 0.0
    drop_range: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.crop <= 1 and 0 <= self.shift < 1 and 0 <= self.jitter <= 1):
            raise ValueError(
                f"crop is {self.crop}, shift is {self.shift}, jitter is {self.jitter}; wanted a crop above 0 "
                "and at most 1, the others from 0 to 1"
            )
        probabilities = self.mirror, self.drop_depth, self.drop_blocks, self.drop_holes, self.drop_range
        if min(probabilities) < 0 or max(*probabilities, self.dropping) > 1:
            raise ValueError(
                f"mirror is {self.mirror}, drop_depth {self.drop_depth}, drop_blocks {self.drop_blocks}, "
                f"drop_holes {self.drop_holes}, drop_range {self.drop_range}; wanted probabilities, "
                "drop_depth and drop_blocks with a sum of at most 1"
            )

    @property
    def dropping(self) -> float:
        """Probability that all depth or rectangles of it are withheld from the encoder."""
        return self.drop_depth + self.drop_blocks


class Place(NamedTuple):
    """Which part of an image is taken: where it starts, its size, how far it is shifted, which way round."""

    top: int
    left: int
    height: int
    width: int
    down: int
    right: int
    mirrored: bool

    def zoom(self, shape: tuple[int, ...]) -> float:
        """By what metric depth is multiplied when a crop of an image of ``shape`` (H, W) fills the picture.

        A part of height s H and width s W, stretched to the whole, is what the same camera would see of a
        scene that is 1 / s as large at the same distance, or of the same one at s times the distance. Which
        of the two colour alone cannot tell; taking the second keeps the camera that of the other frames (the
        canonical camera of Yin et al., "Metric3D", ICCV 2023, section 3.1).
        """
        return math.sqrt(self.height / shape[0] * self.width / shape[1])


def place(shape: tuple[int, ...], options: AugmentOptions, rng: np.random.Generator) -> Place:
    """A random crop of an image of ``shape`` (H, W), shifted and mirrored or not."""
    (h, w), (top, left, down, right) = shape, (0, 0, 0, 0)
    ch, cw = h, w
    if options.crop < 1.0:
        scale = rng.uniform(options.crop, 1.0, size=2)
        scale = 0.75 * scale + 0.25 * scale.mean()  # mostly of one zoom, a little stretched
        ch, cw = max(1, round(h * scale[0])), max(1, round(w * scale[1]))
        top, left = int(rng.integers(h - ch + 1)), int(rng.integers(w - cw + 1))
    if options.shift > 0.0:
        down, right = (_step(options.shift * n, rng) for n in (h, w))
    return Place(top, left, ch, cw, down, right, options.mirror > 0.0 and rng.random() < options.mirror)


def _step(reach: float, rng: np.random.Generator) -> int:
    """A whole number from -reach to reach; a quarter of the time of ``rng.integers``."""
    whole = round(reach)
    return int(rng.random() * (2 * whole + 1)) - whole


def taken(image: npt.NDArray[Any], where: Place) -> npt.NDArray[Any]:
    """The part of an (H, W) or (H, W, 3) image at ``where``; a view where possible."""
    if where.down or where.right:
        rows = np.arange(where.top, where.top + where.height) + where.down
        columns = np.arange(where.left, where.left + where.width) + where.right
        rows, columns = rows.clip(0, image.shape[0] - 1), columns.clip(0, image.shape[1] - 1)
        image = image[rows[:, None], columns]
    else:
        image = image[where.top : where.top + where.height, where.left : where.left + where.width]
    return image[:, ::-1] if where.mirrored else image


def all_taken(images: npt.NDArray[Any], where: Sequence[Place]) -> npt.NDArray[Any]:
    """``taken`` of each of (N, H, W) or (N, H, W, 3) images; no place may be a crop."""
    n, h, w = images.shape[:3]
    _, _, _, _, down, right, mirrored = np.array(where).T[:, :, None]
    columns = np.where(mirrored, np.arange(w)[::-1], np.arange(w))
    rows, columns = (np.arange(h) + down).clip(0, h - 1), (columns + right).clip(0, w - 1)
    pixels = np.arange(n)[:, None, None] * (h * w) + rows[:, :, None] * w + columns[:, None]
    return np.asarray(images.reshape(n * h * w, *images.shape[3:]).take(pixels, 0))


def gains(options: AugmentOptions, channels: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """What each value of each channel becomes, uint8 (256, channels): random gains, clipped at white."""
    gain = np.full(channels, 1 + rng.uniform(-1, 1) * options.jitter)
    if channels > 1:
        gain += rng.uniform(-0.5, 0.5, size=channels) * options.jitter
    return np.asarray(np.clip(np.arange(256)[:, None] * gain[None], 0, 255), np.uint8)


def jitter(
    color: npt.NDArray[np.uint8], options: AugmentOptions, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """An (H, W) or (H, W, 3) image multiplied by random gains."""
    if options.jitter == 0.0:
        return color
    table = gains(options, 1 if color.ndim == 2 else 3, rng)
    return np.asarray(cv2.LUT(np.ascontiguousarray(color), table[None]), np.uint8)


def dropped(shape: tuple[int, ...], options: AugmentOptions, rng: np.random.Generator) -> Bool:
    """Where depth is withheld from the encoder whatever it shows, bool (h, w)."""
    missing = np.zeros(shape, np.bool_)
    draw = rng.random()
    if draw < options.drop_depth:
        missing[:] = True
    elif draw < options.dropping - options.drop_blocks / 2:
        for _ in range(rng.integers(1, 5)):
            h, w = (max(1, int(n * rng.uniform(0.1, 0.4))) for n in shape)
            top, left = rng.integers(shape[0] - h + 1), rng.integers(shape[1] - w + 1)
            missing[top : top + h, left : left + w] = True
    elif draw < options.dropping:
        across = [int(rng.integers(2, GRID + 1)) for _ in shape]
        cells = rng.random(across) < rng.uniform(0.1, 0.9)
        rows, columns = (np.arange(n) * parts // n for n, parts in zip(shape, across, strict=True))
        missing = cells[rows[:, None], columns]
    return missing


def pierced(
    image: npt.NDArray[np.float32],
    valid: Bool,
    spec: InputSpec,
    options: AugmentOptions,
    rng: np.random.Generator,
) -> Bool:
    """Where depth is withheld for what it shows, bool (h, w); arguments as those of ``holes.holes``."""
    missing = np.zeros(valid.shape, np.bool_)
    if options.drop_holes > 0.0 and rng.random() < options.drop_holes:
        missing |= holes(image, valid, spec, rng)
    if options.drop_range > 0.0 and rng.random() < options.drop_range:
        missing |= beyond(image, valid, spec, rng)
    return missing
