"""One picture as a source: with and without depth, its calibration, and what is wrong in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevae.errors import SourceError
from edgevae.sources import open_source


@pytest.fixture
def pair(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    color, depth = tmp_path / "a,b.png", tmp_path / "depth.png"
    cv2.imwrite(str(color), rng.integers(0, 256, (24, 32, 3), np.uint8))
    cv2.imwrite(str(depth), rng.integers(500, 5000, (24, 32), np.uint16))
    return color, depth


def test_one_frame_and_the_end(pair: tuple[Path, Path]) -> None:
    with open_source(str(pair[0])) as source:  # a comma in the name of a file that is there separates nothing
        assert source.length == 1
        assert not source.live
        frames = list(source)
    assert len(frames) == 1
    np.testing.assert_array_equal(frames[0].rgb, cv2.imread(str(pair[0]))[..., ::-1])
    assert frames[0].depth is None
    assert (frames[0].index, frames[0].timestamp_ns, frames[0].clock) == (0, 0, "file")


def test_with_depth_and_its_scale(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    color = pair[0].rename(tmp_path / "color.png")
    uri = f"{color},{pair[1]}"
    stored = cv2.imread(str(pair[1]), cv2.IMREAD_UNCHANGED)
    for end, scale in (("", 0.001), ("?depth_scale=0.0002", 0.0002)):
        (frame,) = open_source(uri + end)
        np.testing.assert_array_equal(frame.depth, stored)
        assert frame.depth_scale == scale
    (frame,) = open_source(uri, depth="none")
    assert frame.depth is None
    camera = {
        "width": 32,
        "height": 24,
        "fx": 30,
        "fy": 31,
        "cx": 15,
        "cy": 11,
        "depth_scale_per_metre": 4000,
    }
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    (frame,) = open_source(uri)
    assert frame.depth_scale == 1 / 4000
    assert frame.intrinsics is not None
    assert frame.intrinsics.fy == 31


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("{tmp}/none.png", "does not exist"),
        ("{tmp}/color.png,{tmp}/none.png", "no file .*none.png"),
        ("{tmp}/none.png,{tmp}/depth.png", "no file .*none.png"),
        ("{tmp}/torn.png", "torn.png is truncated or not a picture"),
        ("{tmp}/color.png,{tmp}/torn.png", "torn.png is truncated or not a picture"),
        ("{tmp}/color.png,{tmp}/small.png", "wanted the same size"),
        ("{tmp}/color.png,{tmp}/color.png", "wanted one channel"),
        ("{tmp}/color.png,{tmp}/depth.png?depth_scale=x", "wanted a positive number"),
    ],
)
def test_what_is_wrong(tmp_path: Path, pair: tuple[Path, Path], uri: str, sentence: str) -> None:
    pair[0].rename(tmp_path / "color.png")
    (tmp_path / "torn.png").write_bytes(pair[1].read_bytes()[:100])
    cv2.imwrite(str(tmp_path / "small.png"), np.ones((3, 3), np.uint16))
    with pytest.raises(SourceError, match=sentence):
        list(open_source(uri.replace("{tmp}", str(tmp_path))))
