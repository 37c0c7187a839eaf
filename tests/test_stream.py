"""The main loop: counting, limits, slow and failing sinks, live and file sources, ways to end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from memory_source import MemorySource, corrupt, make_frame, raising

import edgevae
from edgevae import capture, stream
from edgevae.errors import FrameError, RecordError, SourceError
from edgevae.frame import Frame
from edgevae.model import Encoded, Model
from edgevae.sinks import Row, RunInfo, Sink, writer
from edgevae.stats import Stats
from edgevae.stream import Stop


@pytest.fixture(scope="module")
def model(tiny_model_path: Path) -> Model:
    return edgevae.load(tiny_model_path, threads=1)


class ListSink(Sink):
    """Keeps rows in memory; may be slow, or fail at one."""

    def __init__(self, *, delay_s: float = 0.0, fail_at: int | None = None, pictures: bool = False) -> None:
        self.path = Path("memory")
        self.needs_pictures = pictures
        self.taken: list[Row] = []
        self.run: RunInfo | None = None
        self.flushes = self.closes = 0
        self._delay_s, self._fail_at = delay_s, fail_at

    def open(self, run: RunInfo) -> None:
        self.run = run

    def write(self, row: Row) -> None:
        time.sleep(self._delay_s)
        if row.index == self._fail_at:
            raise RecordError("the disk is full.")
        self.taken.append(row)

    def flush(self) -> None:
        self.flushes += 1

    def close(self) -> None:
        self.closes += 1


class SlowModel:
    """The real model behind a delay, as a large one would have."""

    def __init__(self, model: Model, delay_s: float) -> None:
        self.spec = model.spec
        self._model, self._delay_s = model, delay_s

    def encode_frame(self, frame: Frame) -> Encoded:
        time.sleep(self._delay_s)
        return self._model.encode_frame(frame)


def indices(sink: ListSink) -> list[int]:
    return [row.index for row in sink.taken]


def test_every_frame_of_a_file_is_encoded_in_order(model: Model) -> None:
    sink, source = ListSink(), MemorySource(60)
    stats = stream.run(source, model, [sink])
    assert indices(sink) == list(range(60))
    assert (stats.frames_in, stats.encoded, stats.dropped, stats.skipped) == (60, 60, 0, 0)
    assert stats.stopped_by == "end of source"
    assert source.closed == 1
    assert sink.closes == 1
    for row in sink.taken:
        frame = make_frame(row.index)
        np.testing.assert_array_equal(row.latent, model.encode(frame.rgb, frame.depth))
        assert row.depth_valid == pytest.approx(0.75)
        assert row.pose is not None
        assert row.pose[2, 3] == row.index
        assert row.frame is None  # a queue of rows must not hold pictures that nobody wants


def test_rows_carry_pictures_only_for_a_sink_that_needs_them(model: Model) -> None:
    plain, pictures = ListSink(), ListSink(pictures=True)
    stats = stream.run(MemorySource(5), model, [plain, pictures])
    assert all(row.frame is not None and row.decoded is not None for row in pictures.taken)
    decoded = model.decode(pictures.taken[3].latent)
    np.testing.assert_array_equal(pictures.taken[3].decoded.rgb, decoded.rgb)
    assert stats.stages()["decode"]["count"] == 5


def test_a_slow_sink_holds_back_a_file_and_loses_nothing(model: Model) -> None:
    sink = ListSink(delay_s=0.005, pictures=True)  # pictures: the short queue
    stats = stream.run(MemorySource(40), model, [sink])
    assert indices(sink) == list(range(40))
    assert stats.not_recorded == 0
    assert stats.stages()["sink"]["p50"] >= 5


def test_a_slow_sink_does_not_hold_up_live_frames(model: Model) -> None:
    sink = ListSink(delay_s=0.1, pictures=True)
    source = MemorySource(100, live=True, interval_s=0.005)
    began_s = time.monotonic()
    stats = stream.run(source, model, [sink], max_frames=80)
    # 80 rows take this sink 8 s; its queue of 8 is written after the last frame.
    assert time.monotonic() - began_s < 4
    assert stats.encoded == 80
    assert stats.not_recorded == 80 - len(sink.taken) > 50
    assert stats.stages()["end_to_end"]["p95"] < 80
    assert indices(sink) == sorted(set(indices(sink)))


def test_a_slow_model_gets_the_newest_live_frame(model: Model) -> None:
    sink = ListSink()
    source = MemorySource(100, live=True, interval_s=0.002)
    stats = stream.run(source, SlowModel(model, 0.02), [sink])  # type: ignore[arg-type]
    assert stats.dropped > 50
    assert stats.frames_in == stats.encoded + stats.dropped == 100
    # A queue would let the latency grow to 2 s; the newest frame waits for one encoding at the most.
    assert stats.stages()["end_to_end"]["max"] < 500


def test_every_frame_of_a_live_source_on_request(model: Model) -> None:
    source = MemorySource(30, live=True, interval_s=0.001)
    stats = stream.run(source, SlowModel(model, 0.004), every_frame=True)  # type: ignore[arg-type]
    assert (stats.encoded, stats.dropped) == (30, 0)


def test_frame_limit_counts_latents(model: Model) -> None:
    sink = ListSink()
    stats = stream.run(MemorySource(50, actions=corrupt(2, 3)), model, [sink], max_frames=10)
    assert indices(sink) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11]
    assert (stats.frames_in, stats.encoded, stats.skipped) == (12, 10, 2)
    assert stats.stopped_by == "frames"
    assert stats.last_skip == "frame 3 is corrupt."


def test_time_limit(model: Model) -> None:
    began_s = time.monotonic()
    stats = stream.run(MemorySource(10_000, interval_s=0.01), model, max_seconds=0.3)
    assert 0.3 <= time.monotonic() - began_s < 2
    assert stats.stopped_by == "seconds"
    assert 5 < stats.encoded < 40


def test_stop_from_another_thread_keeps_what_was_encoded(model: Model) -> None:
    sink, stop = ListSink(), Stop()
    threading.Timer(0.2, stop.request, ["SIGTERM"]).start()
    stats = stream.run(MemorySource(10_000, interval_s=0.01), model, [sink], stop=stop)
    assert stats.stopped_by == "SIGTERM"
    assert indices(sink) == list(range(stats.encoded))
    assert sink.closes == 1


def test_wrong_frames_are_skipped_in_the_encoder_too(model: Model) -> None:
    def wrong() -> Frame:
        frame = make_frame(1)
        frame.depth_scale = -1.0
        return frame

    sink = ListSink()
    stats = stream.run(MemorySource(4, actions={1: wrong}), model, [sink])
    assert indices(sink) == [0, 2, 3]
    assert stats.skipped == 1
    assert "depth_scale" in stats.last_skip


def test_only_wrong_frames_is_an_error(model: Model) -> None:
    with pytest.raises(FrameError, match=r"none of the 3 frames of memory was usable; the last: frame 2"):
        stream.run(MemorySource(3, actions=corrupt(0, 1, 2)), model)


def test_many_wrong_frames_in_a_row_are_an_error(model: Model) -> None:
    stats, sink = Stats(), ListSink()
    bad = corrupt(*range(5, 500))
    with pytest.raises(FrameError, match="30 frames in a row"):
        stream.run(MemorySource(500, actions=bad), model, [sink], stats=stats)
    assert indices(sink) == [0, 1, 2, 3, 4]
    assert stats.skipped == stream.BAD_FRAMES_IN_A_ROW
    assert stats.stopped_by == "error"


def test_wrong_frames_between_good_ones_are_no_error(model: Model) -> None:
    stats = stream.run(MemorySource(200, actions=corrupt(*range(1, 200, 2))), model)
    assert (stats.encoded, stats.skipped) == (100, 100)


def test_an_empty_source_is_an_error(model: Model) -> None:
    with pytest.raises(SourceError, match="memory ended before its first frame"):
        stream.run(MemorySource(0), model)


def test_a_failing_source_keeps_what_came_before(model: Model) -> None:
    stats, sink = Stats(), ListSink()
    source = MemorySource(50, actions={20: raising(SourceError("the camera was unplugged."))})
    with pytest.raises(SourceError, match="unplugged"):
        stream.run(source, model, [sink], stats=stats)
    assert indices(sink) == list(range(20))
    assert (stats.error, stats.stopped_by) == ("the camera was unplugged.", "error")
    assert sink.closes == source.closed == 1


def test_an_unforeseen_failure_of_a_source_is_not_swallowed(model: Model) -> None:
    sink = ListSink()
    source = MemorySource(5, actions={2: raising(ZeroDivisionError("a bug"))})
    with pytest.raises(ZeroDivisionError, match="a bug"):
        stream.run(source, model, [sink])
    assert indices(sink) == [0, 1]


@pytest.mark.parametrize("pictures", [False, True])
def test_a_failing_sink_ends_the_run_and_closes_everything(model: Model, pictures: bool) -> None:
    other, failing = ListSink(), ListSink(fail_at=3, pictures=pictures)
    source = MemorySource(5_000)
    with pytest.raises(RecordError, match="the disk is full"):
        stream.run(source, model, [other, failing])
    assert indices(other) == [0, 1, 2, 3]
    assert other.closes == failing.closes == source.closed == 1


def test_a_failure_while_closing_is_reported(model: Model) -> None:
    class FailsToClose(ListSink):
        def close(self) -> None:
            raise RecordError("the disk is full at last.")

    with pytest.raises(RecordError, match="at last"):
        stream.run(MemorySource(3), model, [FailsToClose()])


def test_a_sink_that_cannot_open_closes_the_source(model: Model) -> None:
    class FailsToOpen(ListSink):
        def open(self, run: RunInfo) -> None:
            raise RecordError("z.h5 exists.")

    source = MemorySource(3)
    with pytest.raises(RecordError, match="exists"):
        stream.run(source, model, [FailsToOpen()])
    assert source.closed == 1


def test_a_source_that_hangs_is_given_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STALL_TIMEOUT_S", 0.3)
    release = threading.Event()

    def hang() -> None:
        release.wait(10)

    began_s = time.monotonic()
    with pytest.raises(SourceError, match="memory gave no frame for"):
        stream.run(MemorySource(5, live=True, actions={2: hang}), model, timeout_s=0.1)
    assert time.monotonic() - began_s < 3
    release.set()


def test_a_sink_that_hangs_is_given_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "STALL_TIMEOUT_S", 0.3)
    release = threading.Event()

    class Hangs(ListSink):
        def write(self, row: Row) -> None:
            release.wait(10)

    with pytest.raises(RecordError, match="nothing could be written to memory"):
        stream.run(MemorySource(5), model, [Hangs()])
    release.set()


def test_sinks_are_flushed_while_no_frame_comes(model: Model) -> None:
    sink = ListSink()
    seen: list[int] = []

    def lull() -> Frame:
        time.sleep(0.8)
        seen.append(sink.flushes)
        return make_frame(1)

    stream.run(MemorySource(2, actions={1: lull}), model, [sink])
    assert seen[0] >= 2


def test_latency_counts_from_exposure_on_the_hosts_clock(model: Model) -> None:
    def old() -> Frame:
        frame = make_frame(0, clock="host")
        frame.timestamp_ns -= 250_000_000
        return frame

    stats = stream.run(MemorySource(1, live=True, actions={0: old}), model)
    assert 250 <= stats.stages()["end_to_end"]["p50"] < 400


def test_latency_of_a_file_counts_from_its_reading(model: Model) -> None:
    stats = stream.run(MemorySource(20), model)
    assert stats.stages()["end_to_end"]["p50"] < 200  # not the years since its recording


def test_no_thread_is_left(model: Model) -> None:
    before = threading.active_count()
    stream.run(MemorySource(10), model, [ListSink()])
    assert threading.active_count() == before


def test_capture_queue_is_bounded() -> None:
    source = MemorySource(100)
    with capture.Capture(source, every_frame=True, timeout_s=1.0) as taking:
        time.sleep(0.2)
        assert source._next <= capture.QUEUE_FRAMES + 1
        first = taking.take(1.0)
        assert isinstance(first, Frame)
        assert first.index == 0
