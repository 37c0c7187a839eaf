"""Depth in another camera's view, against rays cut with planes (two_cameras.py)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scripted_source import Recording, color_frame, depth_frame
from test_calibration import entries, write
from two_cameras import ROOM, Array, Rectangle, pixel_rays, pose, render_depth

from edgevae.errors import SourceError
from edgevae.frame import Frame, Intrinsics
from edgevae.sources import registration
from edgevae.sources.calibration import Calibration
from edgevae.sources.paired import PairedSource
from edgevae.sources.registration import Registration

POSE = pose((0.02, -0.05, 0.01), (0.06, 0.01, -0.02))
NARROW = Intrinsics(300, 301, 160, 119, 320, 240)
DEPTH = Intrinsics(190, 190, 159, 120.5, 320, 240)
CAMERAS = {
    "plain": (NARROW, DEPTH),
    "a larger colour image": (Intrinsics(630, 630, 448, 252, 896, 504), DEPTH),
    "a smaller colour image": (Intrinsics(75, 75, 40, 30, 80, 60), DEPTH),
    "a distorted colour lens": (
        Intrinsics(300, 300, 160, 119, 320, 240, (0.15, -0.3, 0.001, -0.002, 0.1)),
        DEPTH,
    ),
    "two barrels": (
        Intrinsics(300, 300, 160, 119, 320, 240, (-0.3, 0.1, 0.001, -0.002, -0.01)),
        Intrinsics(190, 190, 159, 120.5, 320, 240, (-0.2, 0.05, 0.001, 0.0005, -0.005)),
    ),
    "a pincushion depth lens": (
        NARROW,
        Intrinsics(190, 190, 159, 120.5, 320, 240, (0.08, 0.01, 0, 0, 0)),
    ),
}


def visible(color: Intrinsics, depth: Intrinsics, color_from_depth: Array, wanted: Array) -> Array:
    """Which surface points of ``wanted`` (seen by colour) the depth camera sees, too, unoccluded."""
    depth_from_color = np.linalg.inv(color_from_depth)
    points = pixel_rays(color) * wanted[..., None] @ depth_from_color[:3, :3].T + depth_from_color[:3, 3]
    x = points[..., 0] / points[..., 2] * depth.fx + depth.cx
    y = points[..., 1] / points[..., 2] * depth.fy + depth.cy
    inside = (x > 4) & (x < depth.width - 5) & (y > 4) & (y < depth.height - 5) & (wanted > 0)
    seen = render_depth(depth, np.eye(4))
    place = np.round(np.stack([y, x])).astype(int)
    place = np.where(inside, place, 0)
    return inside & (np.abs(seen[place[0], place[1]] - points[..., 2]) < 0.05 * points[..., 2])


def away_from_edges(wanted: Array, pixels: int) -> Array:
    kernel = np.ones((2 * pixels + 1,) * 2)
    near, far = cv2.erode(wanted, kernel), cv2.dilate(wanted, kernel)
    return (near > 0) & (far - near < 0.15 * wanted)


@pytest.mark.parametrize("name", list(CAMERAS))
def test_against_rays(name: str) -> None:
    color, depth = CAMERAS[name]
    seen = render_depth(depth, np.eye(4)).astype(np.float32)
    registered = Registration(Calibration(color, depth, POSE)).register(seen)
    wanted = render_depth(color, np.linalg.inv(POSE))
    assert registered.shape == (color.height, color.width)
    assert registered.dtype == np.float32
    assert (registered >= 0).all()
    step = max(1.0, color.fx / depth.fx)  # colour pixels to one of the grid in between
    flat = away_from_edges(wanted, round(3 * step))
    ideal = Intrinsics(depth.fx, depth.fy, depth.cx, depth.cy, depth.width, depth.height)
    if not depth.distortion:
        expected = flat & visible(color, ideal, POSE, wanted)
        assert expected.mean() > 0.4
        assert (registered[expected] > 0).mean() > 0.999  # no holes
    both = flat & (registered > 0)
    assert both.mean() > 0.4
    error = np.abs(registered - wanted)[both] / wanted[both]
    assert np.median(error) < 0.002
    # A reading ends up to 2.5 pixels of the grid from its place: 0.5 where the depth lens distorts, 1 as it
    # is splatted, 0.5 as a colour pixel looks for it, and 0.5 as it stood for a pixel of its own. The
    # steepest rectangle climbs 0.67 m a metre, seen from its side (x / z = 0.45) 1.43 times that.
    assert error.max() < 2.5 * 0.67 * 1.43 / depth.fx


def test_the_nearest_surface_wins_and_what_it_hides_from_depth_alone_is_unknown() -> None:
    color, depth = NARROW, DEPTH
    sideways = pose((0, 0, 0), (0.2, 0, 0))  # the colour camera stands 20 cm to the left
    registered = Registration(Calibration(color, depth, sideways)).register(
        render_depth(depth, np.eye(4)).astype(np.float32)
    )
    wanted = render_depth(color, np.linalg.inv(sideways))
    board = away_from_edges(wanted, 3) & (wanted < 1.5)
    assert board.sum() > 2000
    np.testing.assert_allclose(
        registered[board], wanted[board], rtol=0.005
    )  # the wall does not shine through
    shadow = away_from_edges(wanted, 3) & (wanted > 2.5) & (registered == 0)
    assert shadow.sum() > 500  # beside the board: colour sees the wall there, depth does not
    assert not visible(color, depth, sideways, wanted)[shadow].any()


def test_no_reading_stays_none() -> None:
    reg = Registration(Calibration(NARROW, DEPTH, POSE))
    assert not reg.register(np.zeros((240, 320), np.float32)).any()
    seen = np.full((240, 320), 2.0, np.float32)
    seen[:, 160:] = 0
    registered = reg.register(seen)
    known = registered > 0
    assert 0.3 < known.mean() < 0.7
    assert np.ptp(known.sum(axis=1)) < 60


def test_what_lies_behind_the_colour_camera_is_not_seen() -> None:
    turned = pose((0, np.pi, 0), (0, 0, 1.0))  # it stands a metre ahead and looks back
    wall = (Rectangle((0, 0, 3.0), (9, 0, 0), (0, 9, 0)), Rectangle((0, 0, 0.5), (0.1, 0, 0), (0, 0.1, 0)))
    seen = render_depth(DEPTH, np.eye(4), wall).astype(np.float32)
    registered = Registration(Calibration(NARROW, DEPTH, turned)).register(seen)
    wanted = render_depth(NARROW, np.linalg.inv(turned), wall)
    assert set(np.unique(registered).tolist()) == {0.0, 0.5}  # and nothing of the wall behind it
    assert ((registered > 0) == (wanted > 0)).mean() > 0.99


def test_a_wide_depth_camera_throws_no_ghosts_into_a_distorted_narrow_one() -> None:
    """Far off its axis a lens polynomial folds back; points there are in no picture."""
    color = Intrinsics(300, 300, 160, 119, 320, 240, (-0.4, 0.1, 0, 0, 0))
    depth = Intrinsics(70, 70, 159.5, 119.5, 320, 240)
    scene = (Rectangle((0, 0, 4), (30, 0, 0), (0, 30, 0)), Rectangle((4, 0, 2), (1, 0, 0), (0, 5, 0)))
    seen = render_depth(depth, np.eye(4), scene).astype(np.float32)
    assert (seen == 2).any()
    registered = Registration(Calibration(color, depth, np.eye(4))).register(seen)
    assert set(np.unique(registered[5:-5, 5:-5]).tolist()) == {4.0}


@pytest.mark.parametrize("name", ["color", "depth"])
def test_a_lens_that_cannot_be(name: str) -> None:
    folding = Intrinsics(190, 190, 159, 120, 320, 240, (-5.0, 0.0, 0.0, 0.0, 0.0))
    cameras = {"color": NARROW, "depth": DEPTH, name: folding}
    with pytest.raises(SourceError, match=f"{name}_distortion_coefficients are no lens"):
        Registration(Calibration(cameras["color"], cameras["depth"], POSE))


def test_an_opencv_without_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "load_cv2", lambda: SimpleNamespace(__version__="4.9.0"))
    with pytest.raises(SourceError, match=r"OpenCV 4\.9\.0 has no registerDepth.*opencv-python-headless>=5"):
        Registration(Calibration(NARROW, DEPTH, POSE))


def frames(**depth: object) -> tuple[Recording, Recording]:
    color = Frame(np.full((240, 320, 3), 7, np.uint8), timestamp_ns=0, clock="file")
    images = {"depth": render_depth(DEPTH, np.eye(4)).astype(np.float32), **depth}
    other = Frame(np.zeros((240, 320, 3), np.uint8), timestamp_ns=0, clock="file", **images)  # type: ignore[arg-type]
    return Recording("a", [color]), Recording("b", [other])


@pytest.mark.parametrize("unit_m", [None, 0.001, 0.00025])
def test_a_paired_frame_has_metres_and_the_colour_camera(tmp_path: Path, unit_m: float | None) -> None:
    file = write(tmp_path / "c.yml", entries(Calibration(NARROW, DEPTH, POSE)))
    metres = render_depth(DEPTH, np.eye(4)).astype(np.float32)
    at = np.eye(4)
    at[:3, 3] = (1, 2, 3)
    about: dict[str, object] = {"pose": at}
    if unit_m is not None:
        about.update(depth=np.round(metres / unit_m).astype(np.uint16), depth_scale=unit_m)
    else:
        metres[5, 5] = np.nan
        metres[6, 6] = np.inf
        about.update(depth=metres)
    with PairedSource(*frames(**about), calibration=file) as source:
        frame = source.read(120)
    assert frame.depth.dtype == np.float32
    assert np.isfinite(frame.depth).all()
    assert frame.intrinsics == NARROW
    wanted = render_depth(NARROW, np.linalg.inv(POSE))
    both = away_from_edges(wanted, 4) & (frame.depth > 0)
    assert both.mean() > 0.7
    np.testing.assert_allclose(frame.depth_m()[both], wanted[both], rtol=0.03)
    # a point seen by both lies at one place of the world
    point = np.array([0.3, -0.1, 2.0, 1.0])
    np.testing.assert_allclose(frame.pose @ POSE @ point, at @ point, atol=1e-12)
    assert frame.pair_ms > 0


def test_what_a_filter_filled_in_stays_told_apart(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yml", entries(Calibration(NARROW, DEPTH, POSE)))
    metres = render_depth(DEPTH, np.eye(4)).astype(np.float32)
    measured = np.ones((240, 320), np.bool_)
    measured[:, 200:] = False
    with PairedSource(*frames(depth=metres, measured=measured), calibration=file) as source:
        frame = source.read(120)
    own = Registration(Calibration(NARROW, DEPTH, POSE)).register(np.where(measured, metres, 0))
    assert (frame.depth[frame.measured] == own[frame.measured]).all()
    assert 0.3 < frame.measured.mean() < (frame.depth > 0).mean() - 0.1
    color = Recording("a", [color_frame(0, 0)])
    mask = np.zeros((3, 4), np.bool_)
    mask[:, 0] = True
    with PairedSource(color, Recording("b", [depth_frame(0, 0, size=(3, 4), measured=mask)])) as source:
        assert source.read(120).measured.sum(axis=1).tolist() == [2] * 6


def test_calibration_of_another_size(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yml", entries(Calibration(NARROW, DEPTH, POSE)))
    depths = Recording("b", [depth_frame(0, 0)])
    with (
        PairedSource(frames()[0], depths, calibration=file) as source,
        pytest.raises(SourceError, match=r"depth is 8x6, the calibration is for 320x240"),
    ):
        source.read(120)
    with (
        PairedSource(Recording("a", [color_frame(0, 0)]), frames()[1], calibration=file) as source,
        pytest.raises(SourceError, match=r"colour is 8x6, the calibration is for 320x240"),
    ):
        source.read(120)


def test_a_bad_calibration_closes_both_sources(tmp_path: Path) -> None:
    sides = frames()
    with pytest.raises(SourceError, match="does not exist"):
        PairedSource(*sides, calibration=tmp_path / "none.yml")
    assert [side.closed for side in sides] == [1, 1]


def test_the_scene_is_seen_by_both() -> None:
    """The oracle itself: the board stands 1.2 m before the depth camera, the wall behind it."""
    seen = render_depth(DEPTH, np.eye(4), ROOM)
    assert seen[130, 120] == pytest.approx(1.2)
    assert seen[20, 290] == pytest.approx(4.0 / (1 - 0.8 / 9 * (290 - 159) / 190))
