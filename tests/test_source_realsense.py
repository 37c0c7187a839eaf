"""RealSense cameras and recordings through the SDK itself: a software device, its recorder and its player."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("pyrealsense2")

from soft_realsense import (
    BASELINE_M,
    COLOR_CAMERA,
    COLOR_SIZE,
    DEPTH_CAMERA,
    DEPTH_SIZE,
    GLOBAL,
    HARDWARE,
    SERIAL,
    UNITS,
    SoftRealsense,
    camera,
    color_image,
    depth_image,
    record,
    rs,
)

import edgevae
from edgevae import SourceError, open_source
from edgevae.cameras import describe_realsense, show
from edgevae.cli import main
from edgevae.frame import Frame, Intrinsics
from edgevae.latents import read_latents
from edgevae.sinks import Row
from edgevae.sources.paired import PairedSource
from edgevae.sources.realsense import RealsenseSource, open_realsense
from edgevae.sources.realsense_file import RealsenseFile, is_realsense_recording
from edgevae.sources.realsense_frames import FILTERS
from edgevae.sources.realsense_lens import intrinsics


@pytest.fixture
def soft() -> SoftRealsense:
    return SoftRealsense()


def opened(soft: SoftRealsense, **how: Any) -> RealsenseSource:
    return RealsenseSource(device=soft.device, size=None, **how)


# Live ------------------------------------------------------------------------------------------------


def test_colour_depth_times_and_calibration(soft: SoftRealsense) -> None:
    with opened(soft) as source:
        assert (source.name, source.live, source.fps) == (f"realsense:{SERIAL}", True, 30.0)
        for number in range(5):
            soft.send_pair(number)
            frame = source.read()
            assert frame is not None
            np.testing.assert_array_equal(frame.rgb, color_image(number))
            assert frame.depth is not None
            assert frame.depth.dtype == np.uint16
            assert frame.depth.shape == COLOR_SIZE[::-1]
            assert set(np.unique(frame.depth)) <= {0, 2000 + number}
            assert frame.depth_scale == UNITS  # as written, not its float32 neighbour
            assert (frame.index, frame.clock) == (number, "sensor")
            assert frame.timestamp_ns == pytest.approx(10_002e6 + number * 1e9 / 30, abs=1000)
            assert frame.intrinsics == Intrinsics(80.0, pytest.approx(80.8), 47.5, 36.25, *COLOR_SIZE)
            assert frame.measured is None
        assert source.dropped == 0
        assert source.counts() == {"unpaired": 0, "skew_ms_median": -2.0, "skew_ms_max": -2.0}
    with pytest.raises(SourceError, match=rf"realsense:{SERIAL} is closed"):
        source.read()
    source.close()


def test_the_clock_is_the_hosts_where_the_sdk_translates_to_it(soft: SoftRealsense) -> None:
    with opened(soft) as source:
        soft.send_pair(0, domain=GLOBAL)
        frame = source.read()
    assert frame is not None
    assert frame.clock == "host"


def test_the_stamp_is_the_middle_of_the_exposure_where_metadata_tell(soft: SoftRealsense) -> None:
    with opened(soft) as source:
        soft.send_pair(0, exposed_before_us=7000)
        frame = source.read()
        assert frame is not None
        assert frame.timestamp_ns == 10_002_000_000 - 7_000_000
        soft.send_pair(1, exposed_before_us=-4_000_000)  # a counter that has wrapped round
        frame = source.read()
        assert frame is not None
        assert frame.timestamp_ns == pytest.approx(10_002e6 + 1e9 / 30, abs=1000)


def test_frames_that_are_kept_do_not_starve_the_camera(soft: SoftRealsense) -> None:
    kept = []
    with opened(soft) as source:
        for number in range(60):  # the SDK has 16 framesets
            soft.send_pair(number)
            kept.append(source.read())
    for number, frame in enumerate(kept):
        assert frame is not None
        assert frame.rgb[0, 0, 0] == number
        assert frame.depth is not None
        assert frame.depth.max() == 2000 + number


def test_a_slow_reader_gets_the_newest_frame_and_the_count_of_the_others(soft: SoftRealsense) -> None:
    with opened(soft) as source:
        soft.send_pair(0)
        assert source.read() is not None
        for number in range(1, 9):
            soft.send_pair(number)
        time.sleep(0.2)
        frame = source.read()
        assert frame is not None
        assert frame.rgb[0, 0, 0] == 8
        assert frame.index == 8
        assert source.dropped == 7


def test_depth_of_another_time_is_never_taken(soft: SoftRealsense) -> None:
    """The SDK would hand out colour 1 and 2 with the depth of 0: a stalled stream."""
    with opened(soft) as source:
        soft.send_pair(0)
        assert source.read() is not None
        for number in (1, 2):
            soft.send("color", number, color_image(number), 10_002 + number * 100 / 3)
            with pytest.raises(SourceError, match="gave no frame within"):
                source.read(0.2)
        soft.send_pair(3)
        frame = source.read()
        assert frame is not None
        assert (frame.rgb[0, 0, 0], frame.index) == (3, 3)
        assert frame.depth is not None
        assert frame.depth.max() == 2003
        assert source.counts()["unpaired"] + source.dropped == 2  # the SDK may hold an image until it is old
        done = threading.Event()
        thread = threading.Thread(target=colours_alone, args=(soft, done))
        thread.start()
        try:
            with pytest.raises(SourceError, match=r"[0-9]+ colour images without depth of their time within"):
                source.read(1.0)
        finally:
            done.set()
            thread.join()


def colours_alone(soft: SoftRealsense, done: threading.Event) -> None:
    number = 4
    while not done.wait(0.01):
        soft.send("color", number, color_image(number), 10_002 + number * 100 / 3)
        number += 1


def test_different_clocks_are_paired_by_arrival(soft: SoftRealsense) -> None:
    with opened(soft) as source:
        for number in range(3):
            soft.send("depth", number, depth_image(number), 50.0 + number, domain=HARDWARE)
            soft.send("color", number, color_image(number), 1.7e12 + number, domain=GLOBAL)
            frame = source.read()
            assert frame is not None
            assert frame.depth is not None
            assert (frame.rgb[0, 0, 0], frame.depth.max()) == (number, 2000 + number)


def test_colour_alone_and_depth_alone(soft: SoftRealsense) -> None:
    with opened(soft, streams="color") as source:
        for number in range(3):
            soft.send("color", number, color_image(number), 1000.0 + number)
            frame = source.read()
            assert frame is not None
            assert frame.depth is None
            assert frame.rgb[0, 0, 0] == number
    with opened(soft, streams="depth") as source:
        for number in range(3):
            soft.send("depth", number, depth_image(number), 1000.0 + number)
            frame = source.read()
            assert frame is not None
            np.testing.assert_array_equal(frame.depth, depth_image(number))  # as it came: not aligned
            assert frame.rgb.shape == (*DEPTH_SIZE[::-1], 3)
            assert not frame.rgb.any()
            assert frame.intrinsics is not None
            assert (frame.intrinsics.fx, frame.intrinsics.width) == (50.0, DEPTH_SIZE[0])


def test_a_camera_that_is_silent_or_gone_is_told_in_time(soft: SoftRealsense) -> None:
    with opened(soft) as source:
        began_s = time.monotonic()
        with pytest.raises(SourceError, match=r"gave no frame within 0\.3 s. Run 'edgevae cameras'"):
            source.read(0.3)
        assert 0.25 < time.monotonic() - began_s < 15
        source._device = SimpleNamespace(is_connected=lambda: False)  # what the SDK says of an unplugged one
        with pytest.raises(SourceError, match="is gone: unplugged, or without power"):
            source.read(30.0)
        assert time.monotonic() - began_s < 25


def test_opening_again_and_again_leaves_nothing_behind(soft: SoftRealsense) -> None:
    def cycle(number: int) -> None:
        with opened(soft) as source:
            soft.send_pair(number)
            assert source.read() is not None

    cycle(0)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(1, 30):
        cycle(number)
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() == threads


def test_without_a_camera_one_sentence_at_once() -> None:
    if len(rs.context().query_devices()):
        pytest.skip("a RealSense is connected")
    began_s = time.monotonic()
    with pytest.raises(SourceError) as caught:
        open_source("realsense")
    assert time.monotonic() - began_s < 12  # the SDK's own start would wait for 15 s
    assert str(caught.value) == (
        "no RealSense camera found (0 connected). Check its cable, then run 'edgevae cameras'."
    )
    with pytest.raises(SourceError, match="no RealSense 77 found"):
        open_source("realsense:77", depth="none")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("realsense?size=big", "size is 'big', wanted WxH"),
        ("realsense?size=0x0", "size is '0x0', wanted WxH"),
        ("realsense:1?fps=-3", "fps is '-3', wanted a positive number"),
        ("realsense?filters=blur", "filters are 'blur', wanted some of spatial, temporal, hole_filling"),
        ("realsense?filters=spatial,spatial", "each once"),
        ("realsense?align=left", "has the option 'align=left', wanted size=... or fps=... or filters=..."),
        ("realsensible", "does not exist; wanted .* realsense"),
    ],
)
def test_nonsense_in_a_uri(uri: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        open_source(uri)


def test_a_mode_that_the_camera_has_not(soft: SoftRealsense) -> None:
    with pytest.raises(
        SourceError, match=r"has no color of 640x480; it has 96x72 at 30\. Run 'edgevae cameras'"
    ):
        RealsenseSource(device=soft.device, size=(640, 480))
    with pytest.raises(SourceError, match="has no depth of 64x48 at 90 fps; it has 64x48 at 30"):
        RealsenseSource(device=soft.device, size=(64, 48), fps=90, streams="depth")
    with opened(soft) as first:
        soft.send_pair(0)
        assert first.read() is not None
        with pytest.raises(SourceError, match=rf"realsense:{SERIAL} cannot be started"):
            opened(soft)


# Depth: alignment and filters ------------------------------------------------------------------------


def test_alignment_agrees_with_projection_by_hand(soft: SoftRealsense) -> None:
    """A wall at 4 m with a box at 1 m before it: every point lands where its projection says."""
    depth = np.full(DEPTH_SIZE[::-1], round(4.0 / UNITS), np.uint16)
    depth[16:32, 24:40] = round(1.0 / UNITS)
    depth[:, :4] = 0
    with opened(soft) as source:
        soft.send("depth", 0, depth, 1000.0)
        soft.send("color", 0, color_image(0), 1000.0)
        frame = source.read()
    assert frame is not None
    aligned = frame.depth_m()
    assert aligned is not None
    v, u = np.nonzero(depth)
    z = depth[v, u] * UNITS
    x = (u - DEPTH_CAMERA.ppx) / DEPTH_CAMERA.fx * z - BASELINE_M
    y = (v - DEPTH_CAMERA.ppy) / DEPTH_CAMERA.fy * z
    column = x / z * COLOR_CAMERA.fx + COLOR_CAMERA.ppx
    row = y / z * COLOR_CAMERA.fy + COLOR_CAMERA.ppy
    place = np.round([row, column]).astype(int)
    inside = ((place >= 0) & (place < np.array(aligned.shape)[:, None])).all(0)
    seen = aligned[tuple(place[:, inside])]
    nearest = np.full(aligned.shape, np.inf)  # a nearer point hides a farther one
    np.minimum.at(nearest, tuple(place[:, inside]), z[inside])
    hidden = seen < z[inside] - 0.01
    assert np.all(seen[~hidden] == pytest.approx(z[inside][~hidden], abs=1e-3))
    edge = cv2.dilate((nearest < 2).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert edge[tuple(place[:, inside])][hidden].all()
    # The box moved by fx * baseline / depth against a camera in the same place: 1.2 px of 80 at 1 m.
    middle = column[(z < 2)].mean()
    assert np.nonzero((aligned > 0) & (aligned < 2))[1].mean() == pytest.approx(middle, abs=0.75)


def noisy_depth(rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    depth = (4000 + rng.integers(-25, 26, DEPTH_SIZE[::-1])).astype(np.uint16)
    depth[12:20, 20:32] = 0
    return depth


def filtered(filters: tuple[str, ...], rng: np.random.Generator, streams: str = "depth") -> tuple[Frame, Any]:
    """The fourth frame; the last has a hole that those before it had not."""
    soft = SoftRealsense()
    with opened(soft, filters=filters, streams=streams) as source:
        for number in range(4):
            depth = noisy_depth(rng)
            if number == 3:
                depth[30:34, 40:44] = 0
            soft.send("depth", number, depth, 1000 + number * 100 / 3)
            if streams == "both":
                soft.send("color", number, color_image(number), 1000 + number * 100 / 3)
            frame = source.read()
    assert frame is not None
    return frame, depth


@pytest.mark.parametrize("filters", [("spatial",), ("temporal",), ("temporal", "spatial")])
def test_smoothing_invents_no_reading(filters: tuple[str, ...], rng: np.random.Generator) -> None:
    frame, raw = filtered(filters, rng)
    assert frame.depth is not None
    np.testing.assert_array_equal(frame.depth > 0, raw > 0)
    assert frame.measured is None
    inner = np.s_[36:, 4:60]
    assert frame.depth[inner].std() < 0.8 * raw[inner].std()
    assert abs(frame.depth[inner].mean() - 4000) < 8


def test_filled_holes_stand_in_depth_and_not_among_the_measured(rng: np.random.Generator) -> None:
    frame, raw = filtered(("hole_filling",), rng)
    assert frame.depth is not None
    assert frame.measured is not None
    assert (frame.depth > 0).all()
    np.testing.assert_array_equal(frame.measured, raw > 0)
    np.testing.assert_array_equal(frame.depth[raw > 0], raw[raw > 0])
    row = Row.of(frame, np.zeros(8, np.float32))
    assert row.depth_valid == pytest.approx((raw > 0).mean())


def test_all_filters_with_alignment(rng: np.random.Generator) -> None:
    plain, _ = filtered((), np.random.default_rng(1), streams="both")
    frame, _ = filtered(FILTERS, np.random.default_rng(1), streams="both")
    assert plain.depth is not None
    assert frame.depth is not None
    assert frame.measured is not None
    assert frame.depth.shape == COLOR_SIZE[::-1]
    # Smoothing moves some points by a part of a pixel, and filled ones may hide measured ones at an edge.
    assert (frame.measured != (plain.depth > 0)).mean() < 0.005
    assert (frame.depth > 0).sum() > (plain.depth > 0).sum() + 50


def test_a_mask_that_fits_no_depth_is_refused() -> None:
    rgb, depth = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), np.uint16)
    Frame(rgb, depth, measured=np.ones((4, 6), bool))
    for bad, of in ((np.ones((4, 5), bool), depth), (np.ones((4, 6), np.uint8), depth), (depth > 0, None)):
        with pytest.raises(edgevae.FrameError, match="mask of measured depth"):
            Frame(rgb, of, measured=bad)


@pytest.mark.parametrize("model", ["brown_conrady", "inverse_brown_conrady", "modified_brown_conrady"])
def test_distortion_in_opencvs_terms(model: str) -> None:
    native = camera((640, 480), 600.0, getattr(rs.distortion, model), (0.05, -0.08, 0.0006, -0.0004, 0.02))
    ours = intrinsics(rs, native)
    assert ours is not None
    points = np.array([[x, y, 1.0] for x in np.linspace(-0.5, 0.5, 9) for y in np.linspace(-0.38, 0.38, 7)])
    matrix = np.array([[ours.fx, 0, ours.cx], [0, ours.fy, ours.cy], [0, 0, 1]])
    seen, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.array(ours.distortion))
    wanted = [rs.rs2_project_point_to_pixel(native, list(point)) for point in points]
    assert np.abs(seen.reshape(-1, 2) - wanted).max() < 0.5  # pixels; edgevae gives no intrinsics beyond
    assert intrinsics(rs, camera((640, 480), 600.0)).distortion == ()


# Recordings ------------------------------------------------------------------------------------------


def suffix() -> str:
    """What this SDK's recorder writes: .bag until 2.57, .db3 from 2.58 on."""
    return ".db3" if hasattr(rs.context, "convert_bag_to_db3") else ".bag"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 pairs in 1.5 s; depth 5, colour 9 and depth 20 and 21 are missing."""
    path = tmp_path_factory.mktemp("realsense") / f"drive{suffix()}"
    missing = [("depth", 5), ("color", 9), ("depth", 20), ("depth", 21)]
    record(path, 45, missing=missing, exposed_before_us=5000)
    return path


def test_a_recording_gives_every_pair_and_what_was_known_of_the_camera(recording: Path) -> None:
    assert is_realsense_recording(recording)
    wanted = [number for number in range(45) if number not in (5, 9, 20, 21)]
    for delay_s in (0.0, 0.02):  # however slow the reader
        with open_source(str(recording)) as source:
            assert isinstance(source, RealsenseFile)
            assert (source.live, source.fps, source.serial) == (False, 30.0, SERIAL)
            frames = []
            while (frame := source.read()) is not None:
                frames.append(frame)
                time.sleep(delay_s)
            assert source.read() is None
            assert source.counts() == {"unpaired": 3, "skew_ms_median": -2.0, "skew_ms_max": -2.0}
        assert [int(frame.rgb[0, 0, 0]) for frame in frames] == wanted
        for index, (number, frame) in enumerate(zip(wanted, frames, strict=True)):
            np.testing.assert_array_equal(frame.rgb, color_image(number))
            assert frame.depth is not None
            assert frame.depth.max() == 2000 + number
            assert (frame.index, frame.clock, frame.depth_scale) == (index, "file", UNITS)
            assert frame.timestamp_ns == pytest.approx(9_997e6 + number * 1e9 / 30, abs=2000)
            assert frame.intrinsics == Intrinsics(80.0, pytest.approx(80.8), 47.5, 36.25, *COLOR_SIZE)
    with pytest.raises(SourceError, match="is closed"):
        source.read()


def test_depth_recorded_later_than_colour_of_its_time_is_found(tmp_path: Path) -> None:
    """A depth stream that takes two frame periods longer; the SDK's own framesets join the wrong images."""
    path = tmp_path / f"late{suffix()}"
    record(path, 20, depth_behind=2)
    with open_source(str(path)) as source:
        frames = list(source)
    numbers = [int(frame.rgb[0, 0, 0]) for frame in frames]
    assert numbers == list(range(numbers[0], 18))
    assert numbers[0] <= 2  # the SDK gives nothing before it has seen both streams
    for number, frame in zip(numbers, frames, strict=True):
        assert frame.depth is not None
        assert frame.depth.max() == 2000 + number


def test_a_recording_without_its_depth_or_with_filters(recording: Path) -> None:
    with open_source(str(recording), depth="none") as source:
        frames = list(source)
    assert len(frames) == 44
    assert all(frame.depth is None for frame in frames)
    with open_source(f"{recording}?filters=hole_filling") as source:
        frame = source.read()
    assert frame is not None
    assert frame.measured is not None
    for query in ("?filters=blur", "?size=3x3"):
        with pytest.raises(SourceError, match="wanted"):
            open_source(f"{recording}{query}")


def test_the_depth_of_a_recording_for_another_source(recording: Path) -> None:
    """As the depth camera saw it, not as its colour camera does: so does the live one."""
    with open_source("synthetic?size=64x48&frames=3", depth=str(recording)) as paired:
        assert isinstance(paired, PairedSource)
        depth = paired._sources[1]
        frames = list(depth)
    assert [int(frame.depth.max()) - 2000 for frame in frames] == [
        n for n in range(45) if n not in (5, 20, 21)
    ]
    assert depth.counts() == {}
    assert (frames[0].width, frames[0].height) == DEPTH_SIZE
    assert frames[0].intrinsics is not None
    assert (frames[0].intrinsics.width, frames[0].intrinsics.height) == DEPTH_SIZE


def test_closing_a_recording_early_leaves_nothing_behind(recording: Path) -> None:
    open_source(str(recording)).close()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(12):
        with open_source(str(recording)) as source:
            for _ in range(number % 3):
                assert source.read() is not None
    assert len(os.listdir("/proc/self/fd")) <= files
    assert threading.active_count() == threads


def test_a_recording_becomes_latents(recording: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "z.jsonl"
    command = ["embed", str(recording), "-o", str(out), "--model", str(tiny_model_path), "--threads", "1"]
    assert main([*command, "--quiet"]) == 0
    rows = read_latents(out)
    assert len(rows) == 41
    with open_source(str(recording)) as source:
        frame = source.read()
    assert frame is not None
    np.testing.assert_allclose(
        rows.latent[0], edgevae.load(tiny_model_path).encode_frame(frame).latent, rtol=1e-5, atol=1e-6
    )


def test_broken_recordings(recording: Path, tmp_path: Path) -> None:
    whole = recording.read_bytes()
    half = tmp_path / f"half{suffix()}"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=rf"half{suffix()}.*(no RealSense recording|no source of frames)"):
        open_source(str(half))
    for name, content in (("empty.bag", b""), ("text.db3", b"hello " * 1000), ("none.bag", None)):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        assert not is_realsense_recording(path)
        with pytest.raises(SourceError, match=r"cannot be read as a ROS recording|no recording .*wanted"):
            open_source(str(path))
        with pytest.raises(SourceError, match=r"no RealSense recording|no file"):
            RealsenseFile(path)


@pytest.mark.skipif(suffix() != ".db3", reason="this SDK records .bag, which has no tables to damage")
@pytest.mark.parametrize("stream", ["Depth_0", "Color_0"])
def test_a_damaged_image_ends_the_recording_with_a_sentence(
    recording: Path, tmp_path: Path, stream: str
) -> None:
    """The SDK stops there as if it were the end."""
    path = tmp_path / "damaged.db3"
    path.write_bytes(recording.read_bytes())
    with sqlite3.connect(path) as table:
        topic = f"%{stream}/image/data%"
        query = "SELECT messages.id FROM messages JOIN topics ON topic_id = topics.id WHERE name LIKE ?"
        images = [row[0] for row in table.execute(query, (topic,))]
        table.execute("UPDATE messages SET data = randomblob(200) WHERE id = ?", (images[15],))
    table.close()
    said = r"damaged.db3 is damaged: .* of 1\.\d s \(1\d frames\)"
    with open_source(str(path)) as source, pytest.raises(SourceError, match=said):
        list(source)


def test_a_file_without_the_sdk_says_what_to_install() -> None:
    program = """
import sys
sys.modules["pyrealsense2"] = None
import edgevae
from edgevae.cli import main
try:
    edgevae.open_source("realsense")
except edgevae.SourceError as error:
    print(error)
sys.exit(main(["cameras"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "the RealSense SDK is missing" in done.stdout
    assert done.stdout.count("Run 'pip install \"edgevae[realsense]\"' and 'apt install libusb-1.0-0'") == 2


# Listing ---------------------------------------------------------------------------------------------


def test_listing_a_realsense(soft: SoftRealsense) -> None:
    about = describe_realsense(rs, soft.device)
    assert (about["serial"], about["usb"], about["firmware"]) == (SERIAL, "3.2", "5.16.0.1")
    assert about["camera"] == f"realsense:{SERIAL}"
    (mode,) = about["modes"]["color"]
    assert (mode["width"], mode["height"], mode["fps"]) == (*COLOR_SIZE, [30])
    assert mode["intrinsics"]["fx"] == 80.0
    text = show({"realsense": [about], "realsense_problem": None, "v4l2": []})
    assert f"--camera realsense:{SERIAL}" in text
    assert "depth  64x48 at 30 fps   fx 50.0" in text


def test_depth_only_by_uri_is_refused_without_a_camera() -> None:
    if len(rs.context().query_devices()):
        pytest.skip("a RealSense is connected")
    with pytest.raises(SourceError, match="no RealSense camera found"):
        open_realsense("realsense?fps=30", streams="depth")
