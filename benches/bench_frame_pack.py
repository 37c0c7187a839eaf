"""Frame packing: camera arrays to network input, one pass of the engine against OpenCV resize and numpy.

One frame and one thread each: packing runs beside a camera.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevae import _core
from edgevae.bench import PACK_LIMIT, inputs
from edgevae.bench.engines import Job, convert
from edgevae.bench.worker import Call, open_engine
from edgevae.preprocess import DepthEncoding, InputSpec, pack

SPEC = InputSpec(4, 128, 128, depth=DepthEncoding("log", 0.25, 80.0))


@pytest.fixture
def opencv(tmp_path: Path) -> Call:
    pytest.importorskip("cv2")
    convert("opencv", Job(Path(), SPEC, "fp32", 1, 1, Path(), {}, {}, [], {}), tmp_path)
    return open_engine("opencv", tmp_path, 1, "fp32")("pack")


@pytest.mark.parametrize("packer", ["edgevae", "opencv"])
@pytest.mark.parametrize("size", inputs.CAMERAS, ids=lambda size: f"{size[1]}p")
def test_frame_pack(timed: Any, size: tuple[int, int], packer: str, opencv: Call) -> None:
    frame = inputs.camera_frame(*size)
    wanted = opencv(*frame)

    def absolute(packed: np.ndarray) -> float:
        return float(np.abs(packed - wanted).max())

    pack_one = {"edgevae": lambda frame: pack(*frame, SPEC), "opencv": lambda frame: opencv(*frame)}[packer]
    timed(f"frame packing, {size[0]}x{size[1]}", pack_one, frame, error=absolute, limit=PACK_LIMIT)


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.5])
def test_filling(timed: Any, missing: float) -> None:
    """Holes in depth. A frame is filled in place, so its copy is part of the time."""
    rgb, depth = inputs.camera_frame(640, 480)
    holed = pack(rgb, np.maximum(depth, 1), SPEC)[None]
    cells = np.kron(np.random.default_rng(0).random((16, 16)) < missing, np.ones((8, 8))) > 0
    holed[0, 3][cells] = np.nan

    def fill(frames: np.ndarray, isa: str = "") -> np.ndarray:
        frames = frames.copy()
        _core.fill_depth(frames, -1.5, isa)
        return frames

    wanted = fill(holed, "reference")

    def absolute(filled: np.ndarray) -> float:
        return float(np.abs(filled - wanted).max())

    timed(f"filling, {missing:.0%} missing", fill, holed, error=absolute, limit=1e-5)
