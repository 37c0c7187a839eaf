"""Frame packing: camera arrays to network input, one pass of the engine against OpenCV resize and numpy.

One thread each: packing runs beside a camera.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevae.preprocess import DepthEncoding, InputSpec, pack

SPEC = InputSpec(4, 128, 128, depth=DepthEncoding("log", 0.25, 80.0))
SCALE = 0.001


def camera(batch: int, height: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames with smooth colour, depth with edges, and a tenth of the depth missing."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    frames = []
    for index in range(batch):
        rgb = np.stack([x + index, y, x + y], axis=2).astype(np.uint8)
        depth = (500 + 40 * (x // 16) + 20 * (y // 16)).astype(np.uint16)
        depth[generator.random((height, width)) < 0.1] = 0
        frames.append((rgb, depth))
    return frames


def pack_edgevae(frames: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([pack(rgb, depth, SPEC, depth_scale=SCALE) for rgb, depth in frames])


def pack_opencv(frames: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """What one writes without the engine: area average, nearest depth, log encoding, NCHW."""
    import cv2

    assert SPEC.depth is not None
    out = np.empty((len(frames), 4, SPEC.height, SPEC.width), np.float32)
    size = (SPEC.width, SPEC.height)
    lowest, highest = SPEC.depth.min_m, SPEC.depth.max_m
    for target, (rgb, depth) in zip(out, frames, strict=True):
        color = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        target[:3] = color.transpose(2, 0, 1) * np.float32(1 / 127.5) - np.float32(1)
        metres = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT) * np.float32(SCALE)
        t = np.log(np.clip(metres, lowest, highest) / np.float32(lowest)) / np.float32(
            np.log(highest / lowest)
        )
        target[3] = np.where(metres > 0, 2 * t - 1, np.float32(SPEC.depth.no_reading))
    return out


@pytest.mark.parametrize("packer", ["edgevae", "opencv"])
@pytest.mark.parametrize("size", [(480, 640), (720, 1280)], ids=["480p", "720p"])
def test_frame_pack(timed: Any, batch: int, size: tuple[int, int], packer: str) -> None:
    cv2 = pytest.importorskip("cv2")
    frames = camera(batch, *size)
    wanted = pack_opencv(frames)

    def absolute(packed: np.ndarray) -> float:
        return float(np.abs(packed - wanted).max())

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    group = f"frame packing, {size[1]}x{size[0]}, batch {batch}"
    call = {"edgevae": pack_edgevae, "opencv": pack_opencv}[packer]
    # OpenCV rounds the average to a whole grey level, 2/255 apart in [-1, 1]; the engine does not.
    timed(group, call, frames, error=absolute, limit=1.02 / 127.5)
    cv2.setNumThreads(before)
