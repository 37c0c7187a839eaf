"""The main loop: counting, limits, slow and failing sinks, live and file sources, ways to end."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from memory_source import MemorySource, corrupt, make_frame, raising

from edgevae import capture, stream
from edgevae.errors import FrameError, RecordError, RowError, SourceError, SourceLost
from edgevae.frame import Frame
from edgevae.latents import read_latents
from edgevae.model import Encoded, Model
from edgevae.sinks import Row, RunInfo, Sink, open_record, writer
from edgevae.sources.looping import LoopingSource
from edgevae.stats import Stats
from edgevae.stream import Stop


class ListSink(Sink):
    """Keeps rows in memory; may be slow, or fail at one."""

    def __init__(self, *, delay_s: float = 0.0, fail_at: int | None = None, pictures: bool = False) -> None:
        self.path = Path("memory")
        self.needs_pictures = pictures
        self.taken: list[Row] = []
        self.run: RunInfo | None = None
        self.changes: list[tuple[int, str]] = []
        self.flushes = self.closes = self.opens = 0
        self._delay_s, self._fail_at = delay_s, fail_at

    def open(self, run: RunInfo) -> None:
        self.run = run
        self.opens += 1

    def source_changed(self, lost: str) -> None:
        self.changes.append((len(self.taken), lost))

    def write(self, row: Row) -> None:
        time.sleep(self._delay_s)
        if row.index == self._fail_at:
            raise RecordError("the disk is full.")
        self.taken.append(row)
        self.rows += 1

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
    sink = ListSink(delay_s=0.3, pictures=True)
    source = MemorySource(100_000, live=True, interval_s=0.005)
    began_s = time.monotonic()
    stats = stream.run(source, model, [sink], max_frames=80)
    # 80 rows take this sink 24 s; its queue of 8 is written after the last frame.
    assert time.monotonic() - began_s < 12
    assert stats.encoded == 80
    assert stats.not_recorded == 80 - len(sink.taken) > 50
    assert stats.stages()["end_to_end"]["p50"] < 200
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
    assert 0.3 <= time.monotonic() - began_s < 30
    assert stats.stopped_by == "seconds"
    assert 1 <= stats.encoded <= stats.seconds * 100 + 3


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
def test_a_sink_that_fails_for_good_is_left_behind_and_named(
    model: Model, monkeypatch: pytest.MonkeyPatch, pictures: bool
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_S", 0.3)
    other, failing = ListSink(), ListSink(fail_at=3, pictures=pictures)
    failing.path = Path("z.h5")
    source, stats, said = MemorySource(1_000), Stats(), []
    with pytest.raises(RecordError, match=r"^the disk is full\. 997 rows are missing in z\.h5\.$"):
        stream.run(source, model, [other, failing], stats=stats, tell=said.append)
    assert indices(other) == list(range(1_000))  # whatever befell its neighbour
    assert indices(failing) == [0, 1, 2]
    assert other.closes == source.closed == 1
    assert failing.closes == failing.opens > 2
    assert said == ["z.h5 failed and is tried again: the disk is full."]
    report = stats.report()["sinks"]
    assert [(sink["rows"], sink["lost"], sink["failures"]) for sink in report] == [(1_000, 0, 0), (3, 997, 1)]
    assert report[1]["failing"] == "the disk is full."


def test_the_only_sink_that_fails_for_good_ends_the_run(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_S", 0.3)
    sink, stats = ListSink(fail_at=3), Stats()
    with pytest.raises(RecordError, match="the disk is full") as error:
        stream.run(MemorySource(10_000_000), model, [sink], stats=stats)
    assert indices(sink) == [0, 1, 2]
    (report,) = stats.report()["sinks"]
    assert report["rows"] + report["lost"] == stats.encoded
    assert f" {report['lost']} rows are missing" in str(error.value)  # those that were queued among them


def test_a_run_whose_sinks_never_wrote_ends_at_once(model: Model) -> None:
    # At every row: on a busy machine the first of a live source may never reach them.
    sinks = [Flaky(0, 1_000_000), Flaky(0, 1_000_000)]
    began_s = time.monotonic()
    with pytest.raises(RecordError, match="the peer is gone"):
        stream.run(MemorySource(10_000, live=True, interval_s=0.005), model, sinks)
    assert time.monotonic() - began_s < writer.PATIENCE_S


class Flaky(ListSink):
    """Fails from row ``fail_at`` on until it has been opened ``opens_until`` times; counts rows in blocks."""

    def __init__(self, fail_at: int, opens_until: int, *, block: int = 1, delay_s: float = 0.0) -> None:
        super().__init__(delay_s=delay_s)
        self._first_bad, self._opens_until, self._block = fail_at, opens_until, block
        self._held: list[Row] = []

    def write(self, row: Row) -> None:
        self._held.append(row)
        if len(self._held) >= self._block:
            self.flush()

    def flush(self) -> None:
        held, self._held = self._held, []
        if held and held[-1].index >= self._first_bad and self.opens < self._opens_until:
            raise RecordError("the peer is gone.")
        self.taken += held
        self.rows += len(held)

    def close(self) -> None:
        super().close()
        self.flush()


@pytest.mark.parametrize("block", [1, 7])
@pytest.mark.parametrize("live", [False, True])
def test_a_sink_that_recovers_gets_every_row_once(model: Model, live: bool, block: int) -> None:
    other, sink, said = ListSink(), Flaky(20, 4, block=block), []
    source = MemorySource(150, live=live, interval_s=0.01)
    stats = stream.run(source, model, [other, sink], every_frame=True, tell=said.append)
    assert indices(sink) == indices(other) == list(range(150))  # none twice, none missing
    assert (stats.not_recorded, stats.sinks[1].failures) == (0, 1)
    assert [sentence.split(",")[0] for sentence in said] == [
        "memory failed and is tried again: the peer is gone.",
        "memory is written again",
    ]


def test_rows_that_a_failing_sink_lost_are_counted_and_named(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE_ROWS", 10)
    other, sink, stats = ListSink(), Flaky(20, 4), Stats()
    with pytest.raises(RecordError, match=r"the peer is gone\. [0-9]+ rows are missing in memory\.$"):
        stream.run(
            MemorySource(200, live=True, interval_s=0.01), model, [other, sink], stats=stats
        )  # 0.7 s away
    assert indices(other) == sorted(set(indices(other)))
    assert len(other.taken) == stats.encoded
    assert indices(sink) == sorted(set(indices(sink)))
    assert indices(sink)[-1] == 199  # it was back in time
    assert len(sink.taken) + stats.sinks[1].lost == stats.encoded
    assert stats.sinks[1].lost > 10
    assert stats.report()["sinks"][1]["failing"] is None


def test_a_sink_that_fails_at_the_end_gets_one_more_try(model: Model) -> None:
    sink = Flaky(9, 2, block=100)  # all ten rows go out at the end
    stats = stream.run(MemorySource(10), model, [sink])
    assert indices(sink) == list(range(10))
    assert stats.sinks[0].failures == 1


def test_a_row_that_cannot_be_written_is_left_out(model: Model) -> None:
    class Picky(ListSink):
        def write(self, row: Row) -> None:
            if row.index == 5:
                raise RowError("frame 5 has NaN.")
            super().write(row)

    sink, stats = Picky(), Stats()
    with pytest.raises(RecordError, match=r"frame 5 has NaN\. 1 row is missing in memory\."):
        stream.run(MemorySource(10), model, [sink], stats=stats)
    assert indices(sink) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert (sink.opens, stats.sinks[0].lost) == (1, 1)


def test_a_fault_in_a_sink_leaves_the_others_whole_and_is_raised(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_S", 0.3)

    class Faulty(ListSink):
        def write(self, row: Row) -> None:
            raise ZeroDivisionError("a bug")

    other = ListSink()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        stream.run(MemorySource(400), model, [Faulty(), other])
    assert indices(other) == list(range(400))


def test_a_hanging_sink_holds_up_neither_live_frames_nor_other_sinks(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STALL_TIMEOUT_S", 1.0)
    release = threading.Event()

    class Hangs(ListSink):
        def write(self, row: Row) -> None:
            release.wait(60)

    other, stats = ListSink(), Stats()
    with pytest.raises(RecordError, match=r"nothing could be written to memory for 1 s.* rows are missing"):
        stream.run(MemorySource(400, live=True, interval_s=0.005), model, [Hangs(), other], stats=stats)
    release.set()
    assert len(other.taken) == stats.encoded
    assert stats.sinks[0].lost + stats.sinks[0].behind == stats.encoded


@pytest.mark.parametrize("pictures", [False, True])
def test_latency_stays_flat_however_slow_a_sink_is(
    model: Model, monkeypatch: pytest.MonkeyPatch, pictures: bool
) -> None:
    """Were rows handed over in step, or queued without bounds, the last frames would wait the longest."""
    monkeypatch.setattr(writer, "QUEUE_ROWS", 8)
    sink = ListSink(delay_s=0.2, pictures=pictures)
    stats = Stats()
    latest: list[list[float]] = []
    source = MemorySource(400, live=True, interval_s=0.005, actions=watching(stats, latest, 100, 399))
    stream.run(source, model, [sink], stats=stats, max_frames=350)
    early, late = (float(np.median(ms)) for ms in latest)
    assert late < 2 * early + 5
    assert stats.not_recorded > 0


def watching(stats: Stats, kept: list[list[float]], *numbers: int) -> dict[int, Callable[[], Frame]]:
    """Actions that keep the last latencies as they stand at the frames of these numbers."""

    def action(number: int) -> Frame:
        kept.append(stats.recent_ms())
        return make_frame(number, clock="host")

    return {number: functools.partial(action, number) for number in numbers}


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
    assert time.monotonic() - began_s < 9
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


# Pace, rounds, warm-up -------------------------------------------------------------------------------


def test_a_file_is_played_at_the_pace_asked_for(model: Model) -> None:
    stats = stream.run(MemorySource(20), model, max_fps=50)
    assert stats.encoded == 20
    assert stats.seconds >= 19 / 50
    assert stats.stages()["end_to_end"]["p50"] < 200  # a frame is read when it is due, not before


def test_a_live_source_gives_fresh_frames_at_the_pace_asked_for(model: Model) -> None:
    stats = stream.run(MemorySource(200, live=True, interval_s=0.005), model, max_fps=20)
    assert stats.frames_in == 200
    # One at either end, and one more as a frame that came late does not put off the next.
    assert 2 <= stats.encoded <= stats.seconds * 20 + 3
    assert stats.dropped == 200 - stats.encoded


@pytest.mark.parametrize(
    ("camera_hz", "fps", "wanted"), [(30, 30, 300), (30, 60, 300), (30, 10, 100), (30, 25, 250)]
)
def test_pace_over_ten_seconds(camera_hz: float, fps: float, wanted: int) -> None:
    pace = capture.Pace(fps)
    shake = np.random.default_rng(3).normal(0.0, 0.002, 300)  # 2 ms
    frame = make_frame(0)
    taken = 0
    for i in range(300):
        frame.arrival_ns = round((100.0 + i / camera_hz + shake[i]) * 1e9)
        taken += pace.is_due(frame)
    assert abs(taken - wanted) <= 2


def test_a_source_of_files_begins_again(model: Model) -> None:
    opened: list[MemorySource] = []

    def open_it() -> MemorySource:
        opened.append(MemorySource(7, actions=corrupt(3)))
        return opened[-1]

    sink = ListSink()
    stats = stream.run(LoopingSource(open_it), model, [sink], max_frames=20)
    assert (stats.encoded, stats.skipped) == (20, 3)
    assert indices(sink) == [i for i in range(23) if i % 7 != 3]
    steps_ns = np.diff([row.timestamp_ns for row in sink.taken])
    assert (steps_ns > 0).all()
    assert set(steps_ns.tolist()) <= {33_000_000, 66_000_000, 33_333_333}
    assert [source.closed for source in opened] == [1] * len(opened)


def test_a_round_without_a_frame_is_the_last(model: Model) -> None:
    with pytest.raises(SourceError, match="ended before its first frame"):
        stream.run(LoopingSource(lambda: MemorySource(0)), model)
    with pytest.raises(SourceError, match="memory is live and never begins again; leave out --loop"):
        LoopingSource(lambda: MemorySource(5, live=True))


def test_warm_up_frames_are_neither_counted_nor_recorded(model: Model) -> None:
    sink = ListSink()
    stats = stream.run(MemorySource(40, actions=corrupt(2)), model, [sink], warm_up=5, max_frames=10)
    assert indices(sink) == list(range(6, 16))
    assert (stats.warm_up, stats.frames_in, stats.encoded, stats.skipped) == (5, 10, 10, 0)
    assert stats.stages()["encode"]["count"] == 10
    assert stats.report()["warm_up"] == 5
    with pytest.raises(SourceError, match="ended within its warm-up, after 3 frames"):
        stream.run(MemorySource(3), model, warm_up=5)


def test_frames_dropped_in_the_warm_up_are_not_counted(model: Model) -> None:
    source = MemorySource(100, live=True, interval_s=0.002)
    stats = stream.run(source, SlowModel(model, 0.02), warm_up=3)  # type: ignore[arg-type]
    assert stats.frames_in == stats.encoded + stats.dropped < 90


# Sources that are lost -------------------------------------------------------------------------------


def test_sinks_and_statistics_see_that_the_source_is_lost_and_back(model: Model) -> None:
    """A loss stands in its place between the rows, also where newer frames have replaced older ones."""

    class Away(MemorySource):
        def counts(self) -> dict[str, float]:
            return {"recoveries": 1.0}

    stats, seen = Stats(), []

    def lost() -> None:
        time.sleep(0.05)
        seen.append(stats.source_lost)
        raise SourceLost("the camera is gone.")

    sink, said = ListSink(), []
    source = Away(30, live=True, interval_s=0.001, actions=dict.fromkeys(range(10, 15), lost))
    stream.run(source, model, [sink], stats=stats, every_frame=True, tell=said.append)
    assert indices(sink) == [*range(10), *range(15, 30)]  # no frame invented
    assert sink.changes == [(10, "the camera is gone."), (10, "")]
    assert seen[0] == ""
    assert "the camera is gone." in seen[1:]
    assert stats.source_lost == ""
    assert stats.frames_in == stats.encoded == 25
    assert stats.report()["source_state"] == {"lost": None, "recoveries": 1.0}
    assert said[0] == "source lost and looked for: the camera is gone."
    assert said[1].startswith("source memory is back, after 0.")


def test_a_source_that_stays_away_does_not_end_the_run(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STALL_TIMEOUT_S", 0.2)

    def lost() -> None:
        time.sleep(0.05)
        raise SourceLost("the camera is gone.")

    source = MemorySource(1_000_000, live=True, actions=dict.fromkeys(range(5, 1000000), lost))
    stats = stream.run(source, model, max_seconds=1.0)
    assert stats.stopped_by == "seconds"
    assert stats.report()["source_state"]["lost"] == "the camera is gone."


def test_newest_frame_and_news_of_a_loss_share_the_queue() -> None:
    step = threading.Semaphore(0)

    def waiting(result: Callable[[], Frame | None]) -> Callable[[], Frame | None]:
        def action() -> Frame | None:
            step.acquire()
            return result()

        return action

    lost = waiting(raising(SourceLost("gone.")))
    actions = {i: waiting(functools.partial(make_frame, i)) for i in range(20)} | {3: lost, 4: lost, 6: lost}
    source = MemorySource(20, live=True, actions=actions)
    with capture.Capture(source, every_frame=False, timeout_s=1.0) as taking:
        for _ in range(9):
            step.release()
        while source._next < 10:  # it waits in the tenth read: nine are in the queue
            time.sleep(0.01)
        time.sleep(0.05)
        item = taking.take(1.0)
        assert isinstance(item, SourceLost)
        item = taking.take(1.0)
        assert isinstance(item, Frame)
        assert item.index == 8
        assert taking.dropped == 5  # 0, 1, 2, 5, 7
        for _ in range(20):
            step.release()


# Hours -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a Linux process")
def test_an_hour_of_frames_leaves_memory_flat_and_every_counter_adds_up(model: Model, tmp_path: Path) -> None:
    """An hour at 30 Hz with EDGEVAE_SOAK=1, else a part of it; both records, a live source at full speed."""
    frames = 108_000 if os.environ.get("EDGEVAE_SOAK") else 4_000
    ready = [make_frame(i) for i in range(64)]

    class Street(MemorySource):
        def read(self, timeout_s: float = 5.0) -> Frame | None:
            index, self._next = self._next, self._next + 1
            if index >= frames:
                return None
            if index % 1000 == 999:
                raise FrameError("a torn frame.")
            return dataclasses.replace(
                ready[index % 64], index=index, timestamp_ns=time.time_ns(), arrival_ns=time.monotonic_ns()
            )

    memory_mb: list[float] = []

    class Weighing(ListSink):
        def write(self, row: Row) -> None:
            self.rows += 1
            if self.rows % (frames // 40) == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                memory_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)

    records = [open_record(tmp_path / "z.jsonl"), open_record(tmp_path / "z.h5")]
    stats = stream.run(Street(frames), model, [*records, Weighing()])
    assert stats.frames_in == frames == stats.encoded + stats.dropped + stats.skipped
    assert (stats.skipped, stats.dropped) == (frames // 1000, 0)
    for sink in stats.sinks:
        assert (sink.rows, sink.behind, sink.lost) == (stats.encoded, 0, 0)
    for record in records:
        latents = read_latents(record.path)
        wanted = np.arange(frames)
        np.testing.assert_array_equal(latents.frame, wanted[wanted % 1000 != 999])
    print(f"{frames} frames at {stats.fps:.0f} fps; MB: {[round(mb, 1) for mb in memory_mb]}")
    early, late = max(memory_mb[4:12]), max(memory_mb[-8:])
    assert late < early + 4  # MB; what grew by a row of 8 numbers a frame would be past 10 in an hour
