"""The main loop: source -> model -> sinks."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .capture import STALL_TIMEOUT_S, Capture, EndOfSource, stalled
from .errors import EdgevaeError, FrameError, SourceError, SourceLost
from .frame import Frame
from .sinks.base import Row, RunInfo, Sink
from .sinks.writer import Writer
from .sources.base import Source
from .stats import Stats

if TYPE_CHECKING:
    from .model import Decoded, Model

BAD_FRAMES_IN_A_ROW = 30
_POLL_S = 0.1
_STOPPED_S = 5.0  # between two looks that are _POLL_S apart, the process did not run
_TURN_S = 0.0005


def run(
    source: Source,
    model: Model,
    sinks: Sequence[Sink] = (),
    *,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    max_fps: float | None = None,
    warm_up: int = 0,
    every_frame: bool | None = None,
    timeout_s: float = 5.0,
    stats: Stats | None = None,
    stop: Stop | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Stats:
    """Encode the frames of ``source`` until it ends, a limit is reached or ``stop`` is requested.

    The source is read in one thread, each sink is fed in one of its own; encoding runs here. A file source
    gives every frame, and waits for slow sinks. A live source gives its newest frame: what arrives while the
    loop is busy is counted as dropped, what a sink cannot take as not recorded, and nothing waits.

    A source that is lost (SourceLost) is waited for. A sink that fails is tried again while the others go on.

    Args:
        source: where frames come from; it is closed at the end.
        model: what encodes them.
        sinks: where latents and pictures go; they are opened and closed here.
        max_frames: stop after this many latents.
        max_seconds: stop after this time.
        max_fps: encode no more frames a second than this. Frames of a file wait for their turn; of a live
            source, those that come too soon are dropped.
        warm_up: encode this many frames first that are not counted, timed or recorded.
        every_frame: encode and record every frame, also of a live source; None: of file sources only.
        timeout_s: how long the source may take for one frame.
        stats: filled as the run goes, for a display to read; None makes one.
        stop: ends the run from outside, see Stop.
        tell: takes a sentence when the source or a sink fails, and when it is back.

    Returns:
        The statistics of the run.

    Raises:
        SourceError: the source failed, stalled, or gave no frame at all.
        FrameError: BAD_FRAMES_IN_A_ROW frames in a row, or all frames, were unusable.
        RecordError: a sink could not be opened, none can be written, or one has lost rows by a failure. In
            each case what came before is written and closed.
    """
    stats = Stats() if stats is None else stats
    stop = Stop() if stop is None else stop
    every = not source.live if every_frame is None else every_frame
    stats.source_counts = source.counts
    info = RunInfo(source.name, source.live, model.spec)

    def say(sentence: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            tell(sentence)

    try:
        with (
            _quick_turns(),
            Capture(source, every_frame=every, timeout_s=timeout_s, max_fps=max_fps) as capture,
            Writer(sinks, info, stats, wait=every, stop=stop, tell=say) as writer,
        ):
            frames = _Frames(source, capture, writer, stats, stop, say)
            if warm_up:
                _warm_up(frames, model, warm_up, stats)
            for frame in frames.take(max_frames, max_seconds):
                try:
                    encoded = model.encode_frame(frame)
                except FrameError as error:
                    stats.frame_skipped(str(error))
                    continue
                stats.frame_encoded(encoded.preprocess_ms, encoded.encode_ms, _latency_ms(frame, source.live))
                if sinks:
                    pictures = writer.has_room(pictures=True)
                    decoded = _decode(model, encoded.latent, stats) if pictures else None
                    writer.put(Row.of(frame, encoded.latent, decoded))
        if stats.encoded == 0 and stop.reason == "end of source":
            raise _nothing_encoded(source, stats)
        stats.stop(stop.reason)
    except BaseException as error:
        stats.error = str(error) or type(error).__name__
        stats.stop("error")
        raise
    return stats


class _Frames:
    """The frames to encode, until something ends the run; what has to be counted on the way is counted."""

    def __init__(
        self,
        source: Source,
        capture: Capture,
        writer: Writer,
        stats: Stats,
        stop: Stop,
        tell: Callable[[str], None],
    ) -> None:
        self._source, self._capture, self._writer = source, capture, writer
        self._stats, self._stop, self._tell = stats, stop, tell
        self._dropped_before = 0

    def begin(self) -> None:
        """Count from here on."""
        self._stats.begin()
        self._dropped_before = self._capture.dropped + self._source.dropped

    def _count_dropped(self) -> None:
        self._stats.dropped = self._capture.dropped + self._source.dropped - self._dropped_before

    def take(self, max_frames: int | None = None, max_seconds: float | None = None) -> Iterator[Frame]:
        """Frames, until one of the limits or another reason requests the end of the run.

        Raises:
            SourceError, FrameError, RecordError: as ``run`` says.
        """
        stats, stop = self._stats, self._stop
        began_s = waiting_s = looked_s = time.monotonic()
        encoded, bad_in_a_row_from = stats.encoded, stats.skipped
        while not stop.requested:
            self._writer.check()
            if max_frames is not None and stats.encoded >= max_frames:
                stop.request("frames")
            elif max_seconds is not None and time.monotonic() - began_s >= max_seconds:
                stop.request("seconds")
            else:
                if stats.encoded > encoded:
                    encoded, bad_in_a_row_from = stats.encoded, stats.skipped
                elif stats.skipped - bad_in_a_row_from >= BAD_FRAMES_IN_A_ROW:
                    raise FrameError(
                        f"{BAD_FRAMES_IN_A_ROW} frames in a row were unusable; the last: {stats.last_skip}"
                    )
                try:
                    item = self._capture.take(_POLL_S)
                except EndOfSource:
                    self._count_dropped()
                    stop.request("end of source")
                    break
                self._count_dropped()
                now_s = time.monotonic()
                if now_s - looked_s > _STOPPED_S:  # by Ctrl-Z, or with the whole machine: so was the source
                    waiting_s = now_s
                looked_s = now_s
                if item is None:
                    quiet_s = now_s - max(waiting_s, self._capture.returned_s)
                    if quiet_s > STALL_TIMEOUT_S:
                        raise stalled(self._source, quiet_s)
                elif isinstance(item, SourceLost):
                    self._lost(str(item))
                    bad_in_a_row_from = stats.skipped
                elif isinstance(item, FrameError):
                    stats.frame_skipped(str(item))
                    waiting_s = now_s
                else:
                    if stats.source_lost:
                        self._lost("")
                    stats.time("capture_wait", (now_s - waiting_s) * 1e3)
                    if item.pair_ms is not None:
                        stats.time("pair", item.pair_ms)
                    yield item
                    waiting_s = looked_s = time.monotonic()

    def _lost(self, why: str) -> None:
        if why:
            self._tell(f"source lost and looked for: {why}")
        else:
            self._tell(f"source {self._source.name} is back, after {self._stats.source_lost_s:.1f} s.")
        self._stats.source_changed(why)
        self._writer.source_changed(why)


def _warm_up(frames: _Frames, model: Model, count: int, stats: Stats) -> None:
    """Encode ``count`` frames of which nothing is kept but their number."""
    for frame in frames.take():
        try:
            model.encode_frame(frame)
            stats.warm_up += 1
        except FrameError as error:
            stats.frame_skipped(str(error))
        if stats.warm_up == count:
            break
    frames.begin()


@contextlib.contextmanager
def _quick_turns() -> Iterator[None]:
    """Have Python's threads take turns every 0.5 ms, not every 5.

    A frame changes hands several times, and each time a sink that computes in Python may hold it up for a
    turn: with five sinks the 99th percentile of the latency was 60 ms, and is 15 with this and their lower
    priority.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(before_s, _TURN_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def _latency_ms(frame: Frame, live: bool) -> float:
    """Time since exposure where the clocks allow to say so, else since the frame's arrival."""
    if live and frame.clock == "host":
        since_exposure_ms = (time.time_ns() - frame.timestamp_ns) / 1e6
        if 0 <= since_exposure_ms < 60_000:  # otherwise the host's clock was set in between
            return since_exposure_ms
    return (time.monotonic_ns() - frame.arrival_ns) / 1e6


def _decode(model: Model, latent: npt.NDArray[np.float32], stats: Stats) -> Decoded:
    began_s = time.perf_counter()
    decoded = model.decode(latent)
    stats.time("decode", (time.perf_counter() - began_s) * 1e3)
    return decoded


def _nothing_encoded(source: Source, stats: Stats) -> EdgevaeError:
    if stats.skipped:
        return FrameError(
            f"none of the {stats.skipped} frames of {source.name} was usable; the last: {stats.last_skip}"
        )
    if stats.warm_up:
        return SourceError(
            f"{source.name} ended within its warm-up, after {stats.warm_up} frames; wanted at least one more."
        )
    return SourceError(f"{source.name} ended before its first frame; wanted at least one frame.")


class Stop:
    """A request to end the run; the first reason stays. May be set from any thread or a signal handler."""

    def __init__(self) -> None:
        self.reason = ""

    @property
    def requested(self) -> bool:
        return bool(self.reason)

    @property
    def by_signal(self) -> bool:
        """Whether somebody waits for the end."""
        return self.reason in ("SIGINT", "SIGTERM")

    def request(self, reason: str) -> None:
        self.reason = self.reason or reason


class StopOnSignal:
    """While it is entered, SIGINT (Ctrl-C) and SIGTERM request ``stop``; a second one kills the process."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self._stop

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._stop.request(signal.Signals(number).name)
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
