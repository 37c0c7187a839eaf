"""The main loop: source -> model -> sinks."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .capture import STALL_TIMEOUT_S, Capture, EndOfSource, stalled
from .errors import EdgevaeError, FrameError, SourceError
from .frame import Frame
from .sinks.base import Row, RunInfo, Sink
from .sinks.writer import Writer
from .sources.base import Source
from .stats import Stats

if TYPE_CHECKING:
    from .model import Decoded, Model

BAD_FRAMES_IN_A_ROW = 30
_POLL_S = 0.1


def run(
    source: Source,
    model: Model,
    sinks: Sequence[Sink] = (),
    *,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    every_frame: bool | None = None,
    timeout_s: float = 5.0,
    stats: Stats | None = None,
    stop: Stop | None = None,
) -> Stats:
    """Encode the frames of ``source`` until it ends, a limit is reached or ``stop`` is requested.

    The source is read in one thread, the sinks are fed in another; encoding runs here. A file source gives
    every frame, and waits for slow sinks. A live source gives its newest frame: what arrives while the loop
    is busy is counted as dropped, what the sinks cannot take as not recorded, and nothing waits.

    Args:
        source: where frames come from; it is closed at the end.
        model: what encodes them.
        sinks: where latents and pictures go; they are opened and closed here.
        max_frames: stop after this many latents.
        max_seconds: stop after this time.
        every_frame: encode and record every frame, also of a live source; None: of file sources only.
        timeout_s: how long the source may take for one frame.
        stats: filled as the run goes, for a display to read; None makes one.
        stop: ends the run from outside, see Stop.

    Returns:
        The statistics of the run.

    Raises:
        SourceError: the source failed, stalled, or gave no frame at all.
        FrameError: BAD_FRAMES_IN_A_ROW frames in a row, or all frames, were unusable.
        RecordError: a sink failed. In each case what came before is written and closed.
    """
    stats = Stats() if stats is None else stats
    stop = Stop() if stop is None else stop
    every = not source.live if every_frame is None else every_frame
    try:
        with Capture(source, every_frame=every, timeout_s=timeout_s) as capture:
            for sink in sinks:
                sink.open(RunInfo(source.name, source.live, model.spec))
            with Writer(sinks, stats) as writer:
                for frame in _frames(capture, source, stats, stop, max_frames, max_seconds):
                    try:
                        encoded = model.encode_frame(frame)
                    except FrameError as error:
                        stats.frame_skipped(str(error))
                        continue
                    stats.frame_encoded(
                        encoded.preprocess_ms, encoded.encode_ms, _latency_ms(frame, source.live)
                    )
                    if sinks and (every or writer.has_room()):
                        decoded = _decode(model, encoded.latent, stats) if writer.needs_pictures else None
                        writer.put(Row.of(frame, encoded.latent, decoded))
                    elif sinks:
                        stats.not_recorded += 1
        if stats.encoded == 0 and stop.reason == "end of source":
            raise _nothing_encoded(source, stats)
        stats.stop(stop.reason)
    except BaseException as error:
        stats.error = str(error) or type(error).__name__
        stats.stop("error")
        raise
    return stats


def _frames(
    capture: Capture,
    source: Source,
    stats: Stats,
    stop: Stop,
    max_frames: int | None,
    max_seconds: float | None,
) -> Iterator[Frame]:
    """The frames to encode, until something ends the run; what has to be counted on the way is counted."""
    began_s = waiting_s = time.monotonic()
    encoded = bad_in_a_row_from = 0
    while not stop.requested:
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
                item = capture.take(_POLL_S)
            except EndOfSource:
                stop.request("end of source")
                break
            stats.dropped = capture.dropped + source.dropped
            now_s = time.monotonic()
            if item is None:
                if now_s - waiting_s > STALL_TIMEOUT_S:
                    raise stalled(source, now_s - waiting_s)
            elif isinstance(item, FrameError):
                stats.frame_skipped(str(item))
                waiting_s = now_s
            else:
                stats.time("capture_wait", (now_s - waiting_s) * 1e3)
                yield item
                waiting_s = time.monotonic()


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
    return SourceError(f"{source.name} ended before its first frame; wanted at least one frame.")


class Stop:
    """A request to end the run; the first reason stays. May be set from any thread or a signal handler."""

    def __init__(self) -> None:
        self.reason = ""

    @property
    def requested(self) -> bool:
        return bool(self.reason)

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
