"""Pictures of reconstructions: the depth scale's colours and numbers, and the sheets that are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from memory_source import MemorySource, make_frame

import edgevae
from edgevae import stream
from edgevae.errors import RecordError
from edgevae.model import Decoded, Model
from edgevae.pictures import DepthScale, Panel, depth_png, panel_size, png, sheet
from edgevae.preprocess import DepthEncoding
from edgevae.sinks import Row, RunInfo
from edgevae.sinks.reconstructions import ReconstructionSink
from edgevae.sinks.sheets import psnr_db


def unpack(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_near_is_blue_far_is_red_nothing_is_grey() -> None:
    near, middle, far, none = DepthScale(1.0, 4.0).colours(np.array([[1.0, 2.0, 4.0, 0.0]], np.float32))[0]
    assert near[2] > near[0]
    assert middle[1] > max(middle[0], middle[2])  # the middle of Turbo is green: 2 m halves 1..4 m in log
    assert far[0] > far[2]
    assert len(set(none.tolist())) <= 3
    assert none.max() - none.min() < 10


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_every_kind_of_no_reading(value: float) -> None:
    scale = DepthScale(1.0, 4.0)
    picture = scale.colours(np.array([[value, 0.0]], np.float32))
    np.testing.assert_array_equal(picture[0, 0], picture[0, 1])


def test_depth_is_logarithmic_and_clipped() -> None:
    scale = DepthScale(1.0, 100.0)
    np.testing.assert_allclose(scale.position([0.1, 1, 10, 100, 1000]), [0, 0, 0.5, 1, 1])
    relative = DepthScale(0.0, 1.0, relative=True)
    np.testing.assert_allclose(relative.position([0, 0.25, 1]), [0, 0.25, 1])


def test_ticks_are_round_and_inside() -> None:
    assert DepthScale(0.8, 3.5).ticks() == [1.0, 1.5, 2.0, 3.0]
    ticks = DepthScale(0.25, 80.0).ticks()
    assert (ticks[0], ticks[-1]) == pytest.approx((0.3, 70.0))
    assert ticks == sorted(set(ticks))


def test_scale_ignores_single_wild_readings_and_grows() -> None:
    depth_m = np.full((50, 50), 2.0, np.float32)
    depth_m[0, :5] = 60.0
    depth_m[1] = 0.0
    scale = DepthScale.covering(depth_m, None)
    assert (scale.near, scale.far) == pytest.approx((2.0, 2.4))
    wider = DepthScale.covering(np.full((5, 5), 8.0, np.float32), start=scale)
    assert (wider.near, wider.far) == pytest.approx((2.0, 8.0))
    nothing = DepthScale.covering(np.zeros((5, 5), np.float32))
    assert 0 < nothing.near < nothing.far


def test_depth_png_is_millimetres() -> None:
    depth_m = np.array([[1.2344, 0.0, np.nan, np.inf, -1.0, 70.0]], np.float32)
    np.testing.assert_array_equal(
        unpack(depth_png(depth_m)), np.array([[1234, 0, 0, 0, 0, 65535]], np.uint16)
    )


def test_png_keeps_the_order_of_colours() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 200  # red
    np.testing.assert_array_equal(unpack(png(image))[0, 0], [0, 0, 200])  # OpenCV reads B, G, R


def test_panels_stand_where_they_should() -> None:
    red, blue = np.zeros((2, 2, 30, 40, 3), np.uint8)[:, 0]
    red[..., 0], blue[..., 2] = 255, 255
    picture = sheet([[Panel("left", red), Panel("right", blue)]], title="both", size=(80, 60))
    reds = np.argwhere((picture == [255, 0, 0]).all(-1))
    blues = np.argwhere((picture == [0, 0, 255]).all(-1))
    assert len(reds) == len(blues) == 80 * 60
    assert reds[:, 1].max() < blues[:, 1].min()
    assert reds[0, 0] == blues[0, 0]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (48, 480), (1, 1)])
def test_panels_keep_the_aspect(width: int, height: int) -> None:
    panel_width, panel_height = panel_size(width, height)
    assert panel_width >= 48
    assert panel_height >= 48
    if min(width, height) > 48:
        assert panel_width / panel_height == pytest.approx(width / height, rel=0.01)


def test_psnr() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    assert psnr_db(np.full((16, 24, 3), 110, np.uint8), image) == pytest.approx(
        20 * np.log10(255 / 10), abs=1e-3
    )


def test_a_sheet_a_frame(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    stream.run(MemorySource(3), model, [ReconstructionSink(folder)])
    assert sorted(path.name for path in folder.iterdir()) == [f"frame_00000{i}.png" for i in range(3)]
    picture = unpack((folder / "frame_000002.png").read_bytes())
    width, height = panel_size(32, 24)
    assert picture.shape[0] > 2 * height
    assert picture.shape[1] > 2 * width
    # The camera's picture, reduced again, is the frame: it stands in the first field.
    frame = make_frame(2)
    top = 34 + 22
    field = picture[top : top + height, 14 : 14 + width, ::-1]
    back = cv2.resize(field, (32, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(back.astype(int) - frame.rgb).mean() < 25  # enlarged and reduced; another picture gives 85


def sheet_of(model: Model, depth: DepthEncoding | None, tmp_path: Path, *, with_depth: bool) -> np.ndarray:
    spec = replace(model.spec, input=replace(model.spec.input, depth=depth))
    frame = make_frame(0, depth=with_depth)
    rgb = np.zeros((32, 32, 3), np.uint8)
    decoded = Decoded(rgb, None if depth is None else np.full((32, 32), 0.5, np.float32))
    sink = ReconstructionSink(tmp_path)
    sink.open(RunInfo("memory", False, spec))
    sink.write(Row.of(frame, np.zeros(8, np.float32), decoded))
    return unpack((tmp_path / "frame_000000.png").read_bytes())


def test_models_and_frames_without_depth(model: Model, tmp_path: Path) -> None:
    colour_only = sheet_of(model, None, tmp_path / "a", with_depth=True)
    both = sheet_of(model, DepthEncoding("log", 0.25, 80.0), tmp_path / "b", with_depth=False)
    assert colour_only.shape[0] < both.shape[0]


def test_relative_depth(model: Model, tmp_path: Path) -> None:
    picture = sheet_of(model, DepthEncoding("minmax"), tmp_path, with_depth=True)
    green = (picture[..., 1] > 200) & (picture[..., 2] < 180) & (picture[..., 0] < 180)
    assert green.sum() > 10_000  # 0.5 everywhere is the middle of Turbo, and fills a field


@pytest.mark.parametrize("depth", [np.zeros((24, 32), np.float32), np.full((24, 32), np.nan, np.float32)])
def test_all_zero_and_nan_depth(model: Model, tmp_path: Path, depth: np.ndarray) -> None:
    def holed() -> edgevae.Frame:
        return edgevae.Frame(make_frame(0).rgb, depth)

    stats = stream.run(MemorySource(1, actions={0: holed}), model, [ReconstructionSink(tmp_path)])
    assert stats.encoded == 1
    assert (tmp_path / "frame_000000.png").exists()


def test_pictures_of_another_run_are_kept(model: Model, tmp_path: Path) -> None:
    old = tmp_path / "frame_000007.png"
    old.write_bytes(b"precious")
    with pytest.raises(RecordError, match="holds 1 picture of another run"):
        stream.run(MemorySource(3), model, [ReconstructionSink(tmp_path)])
    assert list(tmp_path.iterdir()) == [old]


def test_overwrite_removes_the_old_run_only_when_the_new_one_writes(model: Model, tmp_path: Path) -> None:
    old, other = tmp_path / "frame_000007.png", tmp_path / "notes.txt"
    old.write_bytes(b"old")
    other.write_text("mine")
    sink = ReconstructionSink(tmp_path, overwrite=True)
    sink.open(RunInfo("memory", False, model.spec))
    assert old.exists()
    stream.run(MemorySource(2), model, [ReconstructionSink(tmp_path, overwrite=True)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frame_000000.png",
        "frame_000001.png",
        "notes.txt",
    ]


def test_a_file_in_place_of_the_folder(model: Model, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RecordError, match="cannot write"):
        stream.run(MemorySource(1), model, [ReconstructionSink(tmp_path / "out")])
