"""What the engines work on: synthetic street frames packed for the model, their latents, camera frames."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..frame import Frame
from ..preprocess import FloatArray, InputSpec, pack
from ..sources import open_source

CAMERAS = ((640, 480), (1280, 720), (1920, 1080))  # width and height of the frames that are packed
DEPTH_SCALE = 0.001  # of their depth, metres per unit

CHECKED = 8  # frames that answers are compared on, at least
DISTINCT = 32  # frames in a larger batch repeat
CALIBRATION = 120  # frames that int8 models are made from
_A_DRIVE = 5  # frames of each: neighbours in one drive look alike
_CHECKED_SEED = 1000  # drives that no calibration sees


def calibration_frames() -> list[Frame]:
    """The frames that every engine's int8 model is calibrated on."""
    return _frames(0, CALIBRATION, _A_DRIVE)


def checked_frames(batch: int) -> list[Frame]:
    """Whole batches of frames, ``CHECKED`` or more in all."""
    count = -(-CHECKED // batch) * batch
    frames = _frames(_CHECKED_SEED, min(count, DISTINCT), 1)
    return list(itertools.islice(itertools.cycle(frames), count))


def packed(frames: list[Frame], spec: InputSpec) -> FloatArray:
    """(N, C, h, w) in the network's range."""
    return np.stack([pack(each.rgb, each.depth, spec, depth_scale=each.depth_scale) for each in frames])


def camera_frame(width: int, height: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Smooth colour, and millimetres with edges, a tenth of them missing: any size at no cost."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x, y, x + y], axis=2).astype(np.uint8)
    depth = (500 + 40 * (x // 16) + 20 * (y // 16)).astype(np.uint16)
    depth[generator.random((height, width)) < 0.1] = 0
    return rgb, depth


def save(folder: Path, operation: str, *arrays: npt.NDArray[np.generic]) -> None:
    """Write the arguments of an operation as a worker reads them."""
    for index, array in enumerate(arrays):
        np.save(folder / f"{operation}.{index}.npy", array)


def _frames(seed: int, count: int, a_drive: int) -> list[Frame]:
    frames: list[Frame] = []
    for each in range(seed, seed + -(-count // a_drive)):
        with open_source(f"synthetic:{each}") as source:
            frames += itertools.islice(source, a_drive)
    return frames[:count]
