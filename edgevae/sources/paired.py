"""Colour of one device with the depth of another, paired by time and, with a calibration, registered."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError, SourceError, SourceLost
from ..frame import Frame
from .base import Source
from .calibration import read_calibration
from .matching import COLOR, DEPTH, Matcher, Pair
from .opencv_quiet import load_cv2
from .registration import Registration

_NAMES = ("colour", "depth")
_QUEUE_FRAMES = 2  # of a recording, read ahead
_ERRORS = 16  # unusable frames that may wait to be reported
_LOST_PAUSE_S = 0.02
_BETWEEN_FRAMES_S = 0.2  # a thread whose source delivers ends within this
# A host stamp this far from the frame's arrival was taken on another clock. Several in a row, because a clock
# that is set in between makes one frame look so.
_EARLIEST_NS, _LATEST_NS = -100_000_000, 2_000_000_000
_ODD_STAMPS = 8

_log = logging.getLogger(__name__)

Item = Frame | Exception | None


class PairedSource(Source):
    """Frames with the colour of one source and the depth of another; each is read in a thread of its own.

    Two frames are a pair when each is the other's nearest in time and they are no further apart than half a
    frame period of the slower source (measured over its last 31 frames, nominal before the eighth).

    Live sources: stamps are compared where both are on the clock "host", that is times of exposure; else, or
    where the stamps cannot be that, times of arrival, which is said once. ``read`` gives the newest pair; a
    pair that was replaced before it was read counts as ``dropped``. Recordings: every pair, in order, by the
    recorded stamps; if only one of them has absolute times, both are counted from their first frames, which
    is said once. The same recordings always give the same pairs and counts.

    A frame has the colour frame's ``index``, ``timestamp_ns``, ``clock``, intrinsics and pose, and the later
    ``arrival_ns`` of both. With a calibration depth is registered to colour, in metres; without, it is only
    brought to colour's size, which is said once.

    What is said goes to the logger "edgevae.sources.paired".

    Args:
        color: gives the colour; its own depth is not looked at.
        depth: gives the depth; its own colour is not looked at. Both are closed with this source, each in
            the thread that read it.
        calibration: a file as docs/calibration.md describes, or None.

    Raises:
        SourceError: one source is live and the other is not, or the calibration cannot be used.
    """

    def __init__(self, color: Source, depth: Source, *, calibration: str | Path | None = None) -> None:
        self.name = f"{color.name} + {depth.name}"
        self._sources = color, depth
        self._registration: Registration | None = None
        try:
            if color.live != depth.live:
                kinds = [f"{s.name} is {'live' if s.live else 'recorded'}" for s in self._sources]
                raise SourceError(
                    f"{' and '.join(kinds)}: their times have nothing in common; wanted two live sources, or "
                    "two recorded ones."
                )
            if calibration is not None:
                file = read_calibration(calibration)
                self._registration = Registration(file)
                if file.warning:
                    _log.warning("%s", file.warning)
        except BaseException:
            color.close()
            depth.close()
            raise
        if self._registration is None:
            _log.warning(
                "%s: depth is paired with colour by time only and need not fit it pixel for pixel; "
                "--calibration FILE registers it",
                self.name,
            )
        self.live = color.live
        rates = [source.fps for source in self._sources if source.fps]
        self.fps = min(rates) if rates else None
        self._matcher: Matcher[Frame] = Matcher(live=self.live, color_fps=color.fps, depth_fps=depth.fps)
        self._changed = threading.Condition()  # guards all that follows
        self._threads: list[threading.Thread] = []
        self._timeout_s = 5.0
        self._closed = False
        self._stopping = False  # the threads
        self._ready: deque[Pair[Frame] | FrameError] = deque()
        self._queues: tuple[deque[Item], deque[Item]] = deque(), deque()  # of recordings
        self._lost: list[SourceLost | None] = [None, None]  # until the side's next frame
        self._lost_untold = [False, False]
        self._failure: Exception | None = None
        self._bad = [0, 0]
        self._given = 0
        self._spent_ns = 0
        self._clock = _HostClock() if self.live else None
        self._aligned = self.live

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The newest pair of live sources, the next of recordings; None when no pair can come any more.

        Raises:
            FrameError: a frame of one side is unusable; the next call goes on behind it.
            SourceLost: the device of one side is gone and being looked for, the other is read on.
            SourceError: no pair within ``timeout_s``, one side failed, two recordings have no pair at all, or
                frames have another size than the calibration.
        """
        with self._changed:
            self._timeout_s = timeout_s
            self._start()
            item = self._wait(timeout_s)
            if item is None:
                return None
            if isinstance(item, FrameError):
                raise item
            self._given += 1
            spent_ns, self._spent_ns = self._spent_ns, 0
        began_ns = time.perf_counter_ns()
        frame = self._join(item)
        frame.pair_ms = (spent_ns + time.perf_counter_ns() - began_ns) / 1e6
        return frame

    def counts(self) -> dict[str, float]:
        """What became of the frames, and how well the pairs fit.

        ``paired``: pairs given; ``pairs_dropped``: pairs that newer ones replaced. Of each side, beginning
        with ``color_`` or ``depth_``: ``in``: usable frames that came; ``unpaired``: those that stayed alone;
        ``bad``: unusable ones; ``dropped`` and what else the side's source counts, its ``recoveries`` and
        ``lost_seconds`` also summed over both. ``pair_limit_ms``;
        ``skew_ms_median`` (of the last 512 pairs) and ``skew_ms_max``: the depth's time less the colour's.

        When the source is closed or has ended, ``in`` is ``paired`` + ``pairs_dropped`` + ``unpaired``.
        """
        with self._changed:
            matcher = self._matcher
            counts: dict[str, float] = {"paired": self._given, "pairs_dropped": self.dropped}
            for name, source, side, bad in zip(
                ("color", "depth"), self._sources, matcher.sides, self._bad, strict=True
            ):
                counts[f"{name}_in"] = side.arrived
                counts[f"{name}_unpaired"] = side.unpaired
                counts[f"{name}_bad"] = bad
                counts[f"{name}_dropped"] = source.dropped
                for key, value in source.counts().items():
                    counts[f"{name}_{key}"] = value
                    if key in ("recoveries", "lost_seconds"):
                        counts[key] = counts.get(key, 0) + value
            return {**counts, **matcher.counts()}

    def close(self) -> None:
        """Stop both threads, which close their sources; one that hangs in its driver is left behind.

        A live source that waits for a frame is closed from here, which wakes it.
        """
        with self._changed:
            self._closed = self._stopping = True
            self._drop_ready()
            self._matcher.finish()
            threads, timeout_s = self._threads, self._timeout_s
            self._changed.notify_all()
        if not threads:
            for source in self._sources:
                source.close()
        until_s = time.monotonic() + timeout_s + 0.5
        for thread, source in zip(threads, self._sources, strict=False):
            thread.join(_BETWEEN_FRAMES_S)
            if thread.is_alive() and self.live:
                source.close()
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    # In the caller's thread.

    def _start(self) -> None:
        if not self._threads and not self._closed:
            for side, name in enumerate(_NAMES):
                thread = threading.Thread(
                    target=self._run, args=(side,), name=f"edgevae-pair-{name}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _wait(self, timeout_s: float) -> Pair[Frame] | FrameError | None:
        until_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        while True:
            if self._closed:
                raise SourceError(f"{self.name} is closed; open it again with open_source.")
            if self.live or not self._ready:
                self._match()
            if self._ready:
                return self._ready.popleft()
            self._tell_lost(self._lost_untold)
            if self._failure is not None and (self.live or self._matcher.finished):
                raise self._failure
            if self._matcher.finished:
                self._end()
                return None
            now_ns = time.monotonic_ns()
            if now_ns >= until_ns:
                self._tell_lost((True, True))
                raise self._no_pair(f"within {timeout_s:g} s")
            wake_ns = self._matcher.wake_ns
            self._changed.wait((min(until_ns, wake_ns or until_ns) - now_ns) / 1e9)

    def _tell_lost(self, which: Sequence[bool]) -> None:
        """Raise that a side is lost, if it is."""
        for side, (wanted, lost) in enumerate(zip(which, self._lost, strict=True)):
            if wanted and lost is not None:
                self._lost_untold[side] = False
                raise lost

    def _end(self) -> None:
        self._stopping = True
        self._changed.notify_all()
        self._matcher.finish()  # what still waits stays alone
        if not self._given and not self._matcher.paired and not any(self._bad):
            raise self._no_pair("at all")

    def _no_pair(self, when: str) -> SourceError:
        color, depth = (side.arrived for side in self._matcher.sides)
        limit_ms = self._matcher.limit_ns / 1e6
        advice = (
            "check both devices and how their clocks are set"
            if self.live
            else "check that both were recorded at the same time, and their stamps"
        )
        return SourceError(
            f"{self.name} gave no pair {when}: {color} colour and {depth} depth frames came, lately none "
            f"within {limit_ms:.1f} ms of each other; {advice}."
        )

    def _match(self) -> None:
        """Decide what can be decided by now."""
        began_ns = time.perf_counter_ns()
        if self.live:
            if pairs := self._matcher.match(time.monotonic_ns()):
                self._drop_ready()
                self.dropped += len(pairs) - 1
                self._ready.append(pairs[-1])
        else:
            while not self._ready and not self._matcher.finished and self._pull():
                self._ready.extend(self._matcher.match())
        self._spent_ns += time.perf_counter_ns() - began_ns

    def _drop_ready(self) -> None:
        """Newer pairs replace those that nobody has read; what was wrong with a frame is still told."""
        errors = [item for item in self._ready if isinstance(item, FrameError)]
        self.dropped += len(self._ready) - len(errors)
        self._ready = deque(errors)

    def _pull(self) -> bool:
        """Give the matcher the recorded frames it wants, in an order that does not depend on the threads.

        Returns whether it has them all.
        """
        for side in (COLOR, DEPTH):
            while self._matcher.wants(side):
                if not self._queues[side]:
                    return False
                item = self._queues[side].popleft()
                self._changed.notify_all()
                if isinstance(item, Frame):
                    self._matcher.add(side, item.timestamp_ns, 0, item)
                elif isinstance(item, FrameError):
                    self._bad[side] += 1
                    self._ready.append(item)
                else:  # an error that ends a side is raised when what came before it has been paired
                    self._failure = self._failure or item
                    self._matcher.end(side)
        if not self._aligned:
            self._aligned = True
            if self._matcher.align():
                _log.warning(
                    "%s: only one of the two has absolute times; both are counted from their first frames",
                    self.name,
                )
        return True

    def _join(self, pair: Pair[Frame]) -> Frame:
        color, depth = pair.color, pair.depth
        intrinsics, camera_to_world = color.intrinsics, color.pose
        image: npt.NDArray[Any]
        measured = depth.measured
        if self._registration is not None:
            self._registration.check_sizes(color, depth)
            depth_m = depth.depth_m()
            assert depth_m is not None
            image = self._registration.register(depth_m)
            if measured is not None:
                # nothing that a filter invented stands where the sensor's own readings alone give the same
                measured = (image > 0) & (
                    self._registration.register(np.where(measured, depth_m, 0)) == image
                )
            calibration = self._registration.calibration
            intrinsics = calibration.color
            if camera_to_world is None and depth.pose is not None:
                camera_to_world = depth.pose @ np.linalg.inv(calibration.color_from_depth)
        else:
            assert depth.depth is not None
            image = depth.depth
            image = _resized(image, color)
            if measured is not None:
                measured = _resized(measured.astype(np.uint8), color).astype(np.bool_)
        return Frame(
            rgb=color.rgb,
            depth=image,
            measured=measured,
            depth_scale=depth.depth_scale,
            timestamp_ns=color.timestamp_ns,
            clock=color.clock,
            index=color.index,
            arrival_ns=max(color.arrival_ns, depth.arrival_ns),
            intrinsics=intrinsics,
            pose=camera_to_world,
        )

    # In the thread of one side.

    def _run(self, side: int) -> None:
        source = self._sources[side]
        try:
            while self._read_one(side, source):
                pass
        except Exception as error:
            self._hand_over(side, error)
        finally:
            try:
                source.close()
            except Exception as error:
                self._hand_over(side, error)

    def _read_one(self, side: int, source: Source) -> bool:
        item: Item
        try:
            item = source.read(self._timeout_s)
            if item is not None and side == DEPTH and item.depth is None:
                item = FrameError(f"frame {item.index} of {source.name} carries no depth.")
        except FrameError as error:
            item = error
        except SourceLost as lost:
            with self._changed:
                self._lost[side], self._lost_untold[side] = lost, True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping, _LOST_PAUSE_S)
                return not self._stopping
        return self._hand_over(side, item)

    def _hand_over(self, side: int, item: Item) -> bool:
        """Returns whether to read on."""
        with self._changed:
            if not self.live:
                queue = self._queues[side]
                self._changed.wait_for(lambda: len(queue) < _QUEUE_FRAMES or self._stopping)
            if self._stopping:
                return False
            if self.live:
                self._take_live(side, item)
            else:
                queue.append(item)
            self._changed.notify_all()
            return item is not None

    def _take_live(self, side: int, item: Item) -> None:
        self._lost[side] = None
        if item is None:
            self._matcher.end(side)
        elif isinstance(item, FrameError):
            self._bad[side] += 1
            if len(self._ready) < _ERRORS:
                self._ready.append(item)
        elif isinstance(item, Exception):
            self._failure = self._failure or item
        else:
            assert self._clock is not None
            if self._clock.leaves_host(side, item):
                self._matcher.use_arrival()
                _log.warning("%s: %s; frames are paired by their arrival", self.name, self._clock.why)
            self._matcher.add(side, self._clock.stamp_ns(item), item.arrival_ns, item)
        self._match()


def _resized(image: npt.NDArray[Any], color: Frame) -> npt.NDArray[Any]:
    """``image`` at the size of ``color``, each pixel that of the nearest one."""
    if image.shape == color.rgb.shape[:2]:
        return image
    cv2 = load_cv2()
    size = (color.width, color.height)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST_EXACT))


class _HostClock:
    """Whether both sides' stamps are times of exposure on this machine's clock; arrival counts if not."""

    def __init__(self) -> None:
        self.why = ""
        self._odd = [0, 0]

    def leaves_host(self, side: int, frame: Frame) -> bool:
        """Look at a frame; True for the first that shows that stamps cannot be compared."""
        if self.why:
            return False
        if frame.clock != "host":
            self.why = f"the times of {_NAMES[side]} are on the clock '{frame.clock}', not on this machine's"
            return True
        arrival_ns = frame.arrival_ns + time.time_ns() - time.monotonic_ns()
        age_ns = arrival_ns - frame.timestamp_ns
        self._odd[side] = 0 if _EARLIEST_NS <= age_ns <= _LATEST_NS else self._odd[side] + 1
        if self._odd[side] >= _ODD_STAMPS:
            self.why = f"{_NAMES[side]} arrives {age_ns / 1e9:.1f} s after the times it bears"
            return True
        return False

    def stamp_ns(self, frame: Frame) -> int:
        """The time that frames are compared by."""
        return frame.arrival_ns if self.why else frame.timestamp_ns
