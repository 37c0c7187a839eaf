"""Colour and depth of two sources: threads, clocks, losses, ends, and what is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripted_source import MS, LiveSource, Moment, Recording, Step, color_frame, depth_frame

import edgevae
from edgevae import stream
from edgevae.errors import FrameError, SourceError, SourceLost
from edgevae.frame import Frame
from edgevae.sources import open_source
from edgevae.sources.base import Source
from edgevae.sources.matching import HELD
from edgevae.sources.paired import PairedSource

PERIOD_MS = 100 / 3


@pytest.fixture(autouse=True)
def no_thread_left() -> object:
    before = threading.active_count()
    yield
    eventually(lambda: threading.active_count() == before)


def eventually(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.005)


class Pair:
    """A PairedSource of two devices, and frames for them."""

    def __init__(self) -> None:
        self.color, self.depth = LiveSource("cam"), LiveSource("tof")
        self.source = PairedSource(self.color, self.depth)
        self.moment = Moment()

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def give(self, number: int, *, skew_ms: float = 2.0, **more: object) -> None:
        """Both frames of one moment, the depth first."""
        self.depth.give(depth_frame(number, **self.moment.at(number * PERIOD_MS + skew_ms, **more)))
        self.color.give(color_frame(number, **self.moment.at(number * PERIOD_MS, **more)))

    def start(self) -> None:
        """Reading begins with the first read."""
        self.give(0)
        assert self.read().index == 0

    def read(self) -> Frame:
        frame = self.source.read(120.0)
        assert frame is not None
        return frame

    def count(self, key: str) -> float:
        return self.source.counts()[key]


def adds_up(source: PairedSource) -> None:
    """After the end."""
    counts = source.counts()
    for side in ("color", "depth"):
        assert counts[f"{side}_in"] == counts["paired"] + counts["pairs_dropped"] + counts[f"{side}_unpaired"]


def test_a_pair_has_the_colour_of_one_and_the_depth_of_the_other(caplog: pytest.LogCaptureFixture) -> None:
    with Pair() as pair:
        pair.start()
        when = pair.moment.at(33, delay_ms=1), pair.moment.at(30, delay_ms=9)
        pair.depth.give(depth_frame(7, size=(3, 4), **when[1]))
        pair.color.give(color_frame(5, pose=np.eye(4) * 2, **when[0]))
        frame = pair.read()
    assert (frame.index, frame.clock, frame.timestamp_ns) == (5, "host", when[0]["stamp_ns"])
    assert frame.arrival_ns == when[1]["arrival_ns"]
    assert frame.rgb[0, 0, 0] == 5
    assert frame.pose[0, 0] == 2
    assert frame.intrinsics.fx == 9
    assert frame.depth.shape == (6, 8)  # stretched, never mixed
    assert np.unique(frame.depth).tolist() == [0, 1007]
    assert (frame.depth == 0).sum() == 2 * 8
    assert frame.depth_m()[5, 5] == pytest.approx(0.5035)
    assert frame.pair_ms > 0
    (said,) = caplog.messages
    assert "cam + tof: depth is paired with colour by time only" in said
    assert pair.source.counts()["skew_ms_median"] == pytest.approx(-0.5)
    assert pair.source.counts()["skew_ms_max"] == pytest.approx(-3)
    adds_up(pair.source)


def test_live_gives_the_newest_pair_and_counts_the_others() -> None:
    with Pair() as pair:
        pair.start()
        for number in range(1, 7):
            pair.give(number)
        eventually(lambda: pair.count("color_in") == pair.count("depth_in") == 7)
        assert pair.read().index == 6
        assert (pair.source.dropped, pair.count("paired"), pair.count("color_unpaired")) == (5, 2, 0)
        pair.give(7)
        assert pair.read().index == 7
        pair.give(8)
        pair.give(9)
        eventually(lambda: pair.count("color_in") == pair.count("depth_in") == 10)
    adds_up(pair.source)
    assert pair.source.counts()["pairs_dropped"] == 7


def test_a_pair_is_given_when_its_time_has_come_though_nothing_else_arrives() -> None:
    with Pair() as pair:
        pair.start()
        pair.give(1, skew_ms=-14)  # a nearer depth might follow
        assert pair.read().index == 1


def test_frames_of_a_silent_partner_are_not_hoarded() -> None:
    with Pair() as pair:
        pair.start()
        for number in range(1, 200):
            pair.color.give(color_frame(number, **pair.moment.at(number * PERIOD_MS)))
        eventually(lambda: pair.count("color_in") == 200)
        assert len(pair.source._matcher.sides[0].waiting) <= HELD
        assert pair.count("color_unpaired") >= 199 - HELD
    adds_up(pair.source)


@pytest.mark.parametrize("side", ["colour", "depth"])
def test_stamps_of_another_clock_give_way_to_arrival(side: str, caplog: pytest.LogCaptureFixture) -> None:
    with Pair() as pair:

        def give(number: int) -> None:
            color = pair.moment.at(number * 40, delay_ms=5)
            depth = pair.moment.at(number * 40, delay_ms=8)
            odd = color if side == "colour" else depth
            odd.update(clock="sensor", stamp_ns=1000 + number * 40 * MS)
            pair.color.give(color_frame(number, **color))
            pair.depth.give(depth_frame(number, **depth))

        for number in range(6):
            give(number)
            assert pair.read().index == number
    said = [text for text in caplog.messages if "arrival" in text]
    assert said == [
        f"cam + tof: the times of {side} are on the clock 'sensor', not on this machine's; frames are paired "
        "by their arrival"
    ]
    assert pair.source.counts()["skew_ms_max"] == pytest.approx(3, abs=1e-6)
    adds_up(pair.source)


@pytest.mark.parametrize("off_ms", [-10_000, 10_000, 3_600_000])
def test_a_host_clock_that_is_wrong_gives_way_to_arrival(
    off_ms: float, caplog: pytest.LogCaptureFixture
) -> None:
    with Pair() as pair:
        pair.start()
        for number in range(1, 30):
            pair.color.give(color_frame(number, **pair.moment.at(number * PERIOD_MS, delay_ms=4)))
            pair.depth.give(
                depth_frame(number, **pair.moment.at(number * PERIOD_MS, delay_ms=4, off_ms=off_ms))
            )
            eventually(lambda: pair.count("color_in") == pair.count("depth_in") == number + 1)  # noqa: B023
        assert pair.read().index == 29
    (said,) = (text for text in caplog.messages if "arrival" in text)
    assert f"depth arrives {-off_ms / 1e3:.1f} s after the times it bears" in said
    adds_up(pair.source)


def test_a_small_offset_of_a_clock_is_skew() -> None:
    with Pair() as pair:
        pair.start()
        for number in range(1, 10):
            pair.give(number, skew_ms=12)
        eventually(lambda: pair.count("color_in") == pair.count("depth_in") == 10)
        assert pair.count("skew_ms_median") == pytest.approx(12)
        assert pair.count("skew_ms_max") == pytest.approx(12)


def test_an_unusable_frame_is_passed_on_and_counted() -> None:
    with Pair() as pair:
        pair.start()
        pair.color.give(FrameError("colour 1 is corrupt."))
        with pytest.raises(FrameError, match="colour 1"):
            pair.read()
        pair.depth.give(color_frame(1, **pair.moment.at(33)))
        with pytest.raises(FrameError, match="frame 1 of tof carries no depth"):
            pair.read()
        for number in range(40):
            pair.depth.give(FrameError(f"depth {number} is corrupt."))
        eventually(lambda: pair.count("depth_bad") == 41)
        assert len(pair.source._ready) <= 16
        pair.give(2)
        eventually(lambda: pair.count("color_in") == 2)
        for _ in range(16):
            with pytest.raises(FrameError, match="corrupt"):
                pair.read()
        assert pair.read().index == 2
        assert pair.count("color_bad") == 1
    adds_up(pair.source)


@pytest.mark.parametrize("side", ["color", "depth"])
def test_a_lost_side_is_told_while_the_other_is_read_on(side: str) -> None:
    with Pair() as pair:
        pair.start()
        lost, other = (pair.color, pair.depth) if side == "color" else (pair.depth, pair.color)
        make = depth_frame if side == "color" else color_frame
        for _ in range(3):
            lost.give(SourceLost(f"{lost.name} is unplugged."))
            with pytest.raises(SourceLost, match="unplugged"):
                pair.read()
        for number in range(1, 100):
            other.give(make(number, **pair.moment.at(number * PERIOD_MS)))
        eventually(lambda: other.drained)
        with pytest.raises(SourceLost, match="unplugged"):  # not "no pair in time": the reason is known
            pair.source.read(0.05)
        pair.source._timeout_s = 20.0
        pair.give(100)
        assert pair.read().index == 100
        assert pair.count("paired") == 2
    adds_up(pair.source)


def test_both_sides_lost_and_back() -> None:
    with Pair() as pair:
        pair.start()
        pair.color.give(SourceLost("cam is away."))
        pair.depth.give(SourceLost("tof is away."))
        told = set()
        for _ in range(2):
            with pytest.raises(SourceLost) as error:
                pair.read()
            told.add(str(error.value))
        assert told == {"cam is away.", "tof is away."}
        pair.give(1)
        assert pair.read().index == 1


@pytest.mark.parametrize("side", ["color", "depth"])
def test_a_failed_side_ends_it_with_its_own_sentence(side: str) -> None:
    with Pair() as pair:
        pair.start()
        getattr(pair, side).give(SourceError("the driver gave up."))
        for _ in range(2):
            with pytest.raises(SourceError, match="the driver gave up"):
                pair.read()


@pytest.mark.parametrize("side", ["color", "depth"])
def test_a_live_side_that_ends_ends_the_pairs(side: str) -> None:
    with Pair() as pair:
        pair.start()
        getattr(pair, side).give(None)
        assert pair.source.read() is None
        assert pair.source.read() is None
    adds_up(pair.source)


def test_no_pair_in_time_is_an_error_that_says_what_came() -> None:
    with Pair() as pair:
        pair.start()
        for number in range(1, 4):
            pair.give(number, skew_ms=200)
        eventually(lambda: pair.count("color_in") == 4)
        with pytest.raises(SourceError, match=r"no pair within 0.05 s: 4 colour and [1-4] depth frames came"):
            pair.source.read(0.05)
    adds_up(pair.source)


def test_close_while_both_threads_and_a_reader_wait() -> None:
    pair = Pair()
    pair.start()
    raised: list[str] = []

    def read() -> None:
        try:
            pair.source.read(120)
        except SourceError as error:
            raised.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: pair.color.reading == pair.depth.reading == 2)
    began_s = time.monotonic()
    pair.source.close()
    reader.join(120)
    assert time.monotonic() - began_s < 60  # the devices would have waited for two minutes
    pair.source.close()
    assert min(pair.color.closed, pair.depth.closed) >= 1
    assert raised == ["cam + tof is closed; open it again with open_source."]
    with pytest.raises(SourceError, match="closed"):
        pair.source.read()


def test_a_device_that_hangs_is_left_behind() -> None:
    pair = Pair()
    pair.give(0)
    assert pair.source.read(0.2).index == 0
    free = threading.Event()
    pair.depth.read = lambda timeout_s: free.wait() and None  # type: ignore[method-assign,assignment,return-value]
    pair.give(1)
    eventually(lambda: pair.color.drained and pair.depth.drained)
    began_s = time.monotonic()
    pair.source.close()
    assert time.monotonic() - began_s < 10
    free.set()
    eventually(lambda: pair.depth.closed == 2)


def test_close_without_a_read_closes_both() -> None:
    pair = Pair()
    pair.source.close()
    assert (pair.color.closed, pair.depth.closed) == (1, 1)
    with pytest.raises(SourceError, match="closed"):
        pair.source.read()


def test_live_and_recorded_have_no_common_time() -> None:
    live, recorded = LiveSource("cam"), Recording("file", [])
    with pytest.raises(SourceError, match="cam is live and file is recorded"):
        PairedSource(live, recorded)
    assert (live.closed, recorded.closed) == (1, 1)


def recordings(pauses: list[list[float]]) -> tuple[PairedSource, int]:
    """Colour at 30 fps, depth at 15 with a jitter of 9 ms, an unusable frame each; two seconds."""
    colors: list[Step] = [color_frame(i, round(i * PERIOD_MS * MS)) for i in range(60)]
    rng = np.random.default_rng(3)
    stamps_ms = np.arange(30) * 2 * PERIOD_MS + rng.uniform(-9, 9, 30)
    depths: list[Step] = [depth_frame(i, round(t * MS)) for i, t in enumerate(stamps_ms)]
    colors[20] = FrameError("colour 20 is corrupt.")
    depths[4] = FrameError("depth 4 is corrupt.")
    return PairedSource(Recording("a", colors, pauses[0]), Recording("b", depths, pauses[1])), 29


@pytest.mark.parametrize("pauses", [[[0], [0]], [[0.003], [0]], [[0], [0.004]], [[0, 0.01], [0.005, 0, 0]]])
def test_recordings_give_every_pair_in_order_whatever_their_speed(pauses: list[list[float]]) -> None:
    source, _ = recordings(pauses)
    got: list[object] = []
    with source:
        while True:
            try:
                frame = source.read(120)
            except FrameError as error:
                got.append(str(error))
                continue
            if frame is None:
                break
            got.append((frame.index, int(frame.depth[3, 3]) - 1000))
        assert source.read() is None
    # colour 20 and depth 4 are gone, so depth 10 takes a neighbour of 20 if one is near enough
    pairs = [each for each in got if not isinstance(each, str)]
    assert len(pairs) >= 28
    assert all(abs(c - 2 * d) <= 1 for c, d in pairs)
    assert [each for each in got if isinstance(each, str)] == ["depth 4 is corrupt.", "colour 20 is corrupt."]
    wanted, _ = recordings([[0], [0]])
    with wanted:
        again = []
        while True:
            try:
                frame = wanted.read(20)
            except FrameError as error:
                again.append(str(error))
                continue
            if frame is None:
                break
            again.append((frame.index, int(frame.depth[3, 3]) - 1000))
        assert got == again
        assert source.counts() == wanted.counts()
    adds_up(source)


def test_an_error_that_ends_a_recording_comes_after_the_pairs_before_it() -> None:
    colors: list[Step] = [color_frame(i, i * 33 * MS) for i in range(10)]
    depths: list[Step] = [depth_frame(i, i * 33 * MS) for i in range(7)]
    source = PairedSource(Recording("a", colors), Recording("b", [*depths, SourceError("b is cut off.")]))
    with source:
        assert [source.read(120).index for _ in range(7)] == list(range(7))
        with pytest.raises(SourceError, match="b is cut off"):
            source.read(120)
    adds_up(source)


def test_recordings_of_different_times_say_so() -> None:
    colors: list[Step] = [color_frame(i, i * 33 * MS) for i in range(10)]
    depths: list[Step] = [depth_frame(i, (10_000 + i * 33) * MS) for i in range(10)]
    with (
        PairedSource(Recording("a", colors), Recording("b", depths)) as source,
        pytest.raises(
            SourceError, match=r"a \+ b gave no pair at all: 10 colour .* recorded at the same time"
        ),
    ):
        source.read(120)
    adds_up(source)


def test_a_video_from_zero_goes_with_a_recording_of_absolute_times(caplog: pytest.LogCaptureFixture) -> None:
    start_ns = 1_305_031_247 * 10**9
    colors: list[Step] = [color_frame(i, i * 33 * MS) for i in range(10)]
    depths: list[Step] = [depth_frame(i, start_ns + i * 33 * MS) for i in range(10)]
    with PairedSource(Recording("a", colors), Recording("b", depths)) as source:
        assert [(f.index, f.timestamp_ns) for f in source] == [(i, i * 33 * MS) for i in range(10)]
    assert sum("counted from their first frames" in text for text in caplog.messages) == 1
    adds_up(source)


def test_the_loop_times_pairing_and_counts_what_it_skips(tiny_model_path: Path) -> None:
    source, count = recordings([[0], [0]])
    stats = stream.run(source, edgevae.load(tiny_model_path, threads=1))
    assert stats.skipped == 2
    assert count - 1 <= stats.encoded == stats.stages()["pair"]["count"] == source.counts()["paired"]
    assert stats.frames_in == stats.encoded + stats.skipped
    adds_up(source)


def test_one_source_has_no_pair_stage(tiny_model_path: Path) -> None:
    with open_source("synthetic:1?size=64x48") as source:
        assert source.read().pair_ms is None


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (64, 48))
    for i in range(10):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    return path


def test_open_source_composes_two(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_source(str(video), depth="synthetic:2?size=32x24") as source:
        assert source.name == f"{video} + synthetic:2"
        frames = [source.read(120) for _ in range(9)]
    assert [frame.index for frame in frames] == list(range(9))
    assert all(frame.depth.shape == (48, 64) for frame in frames)
    assert len(caplog.messages) >= 1


def test_each_of_two_sources_is_wrapped(video: Path) -> None:
    wrapped: list[str] = []

    def wrap(open_it: Callable[[], Source]) -> Source:
        source = open_it()
        wrapped.append(source.name)
        return source

    with open_source(str(video), depth="synthetic:2", wrap=wrap) as source:
        assert isinstance(source, PairedSource)
    with open_source("synthetic:4", depth="none", wrap=wrap) as source:
        assert source.read().depth is None
    assert wrapped == ["synthetic:2", str(video), "synthetic:4"]


@pytest.mark.parametrize(
    ("camera", "depth", "says"),
    [
        ("synthetic", "1", "depth: 1 carries no depth; sources that do are"),
        ("synthetic", "{video}", "carries no depth"),
        ("synthetic", "http://127.0.0.1:9/x", "carries no depth"),
        ("synthetic", "nowhere", "depth: 'nowhere' does not exist"),
        ("synthetic", "tum:nowhere", "depth: no folder nowhere"),
        ("nowhere", "synthetic", "'nowhere' does not exist"),
        ("synthetic", "synthetic:x", "depth: synthetic seed is 'x'"),
        ("synthetic:1?size=8x", "synthetic:2", "synthetic size is '8x'"),
        ("synthetic", "realsense:1?filters=sharp", "depth: RealSense filters are 'sharp'"),
    ],
)
def test_what_makes_no_pair_is_said_in_a_sentence(video: Path, camera: str, depth: str, says: str) -> None:
    with pytest.raises(SourceError) as error:
        open_source(camera.format(video=video), depth=depth.format(video=video))
    assert says in str(error.value)
