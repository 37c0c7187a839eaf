"""Reading a source in its own thread, so that frames go on arriving while one is being encoded."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from .errors import FrameError, SourceError, SourceLost
from .frame import Frame
from .sources.base import Source

QUEUE_FRAMES = 2
STALL_TIMEOUT_S = 30.0
_LOST_TIMEOUT_S = 0.5  # while the source is lost: nobody who ends the run then should wait for it


class EndOfSource(Exception):
    """There are no more frames."""


class Capture:
    """Reads ``source`` until it ends, and closes it, in the thread that read it.

    With ``every_frame`` the thread waits while QUEUE_FRAMES frames stand in the queue. Without, only the
    newest frame is kept, and the frames it replaced are counted: latency cannot grow. A source that is lost
    is read on; that it was lost comes once, in its place between the frames.

    With ``max_fps`` the thread waits with ``every_frame`` until a frame is due before it reads it; without,
    it drops and counts frames that arrive before they are due.

    Attributes:
        dropped: frames replaced by newer ones before they were taken.
        returned_s: ``time.monotonic()`` when the source last answered in whatever way.
    """

    def __init__(
        self, source: Source, *, every_frame: bool, timeout_s: float, max_fps: float | None = None
    ) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._limit = QUEUE_FRAMES if every_frame else 1
        self._every_frame = every_frame
        self._queue: deque[Frame | FrameError | SourceLost] = deque()
        self._lost = False
        self._pace = None if max_fps is None else Pace(max_fps)
        self._changed = threading.Condition()
        self._closing = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edgevae-capture", daemon=True)
        self.dropped = 0
        self.returned_s = time.monotonic()

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, timeout_s: float) -> Frame | FrameError | SourceLost | None:
        """The next frame, or what was wrong with it, or that the source is lost from here to the next frame.

        None when nothing came within ``timeout_s``.

        Raises:
            EndOfSource: after the last frame.
            SourceError: the source failed; frames that came before it have been taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended, timeout_s)
            if self._queue:
                item = self._queue.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            if self._ended:
                raise EndOfSource
            return None

    def close(self) -> None:
        """Stop reading. A source that hangs in its driver is left behind: closing it there could hang too."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._timeout_s + 1.0)

    def _run(self) -> None:
        try:
            while self._read_one():
                pass
        except BaseException as error:
            self._error = error
        finally:
            try:
                self._source.close()
            except BaseException as error:
                self._error = self._error or error
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read_one(self) -> bool:
        item: Frame | FrameError | SourceLost | None
        if self._pace is not None and self._every_frame:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._pace.wait_s(time.monotonic()))
                if self._closing:
                    return False
        try:
            item = self._source.read(_LOST_TIMEOUT_S if self._lost else self._timeout_s)
        except (FrameError, SourceLost) as error:
            item = error
        self.returned_s = time.monotonic()
        if item is None:
            return False
        with self._changed:
            if isinstance(item, SourceLost) and self._lost:
                return not self._closing
            self._lost = isinstance(item, SourceLost) or (self._lost and isinstance(item, FrameError))
            if self._every_frame:
                self._changed.wait_for(lambda: len(self._queue) < self._limit or self._closing)
            elif isinstance(item, Frame) and self._pace is not None and not self._pace.is_due(item):
                self.dropped += 1
                return not self._closing
            elif not isinstance(item, SourceLost):
                self._drop_frames()
            self._queue.append(item)
            self._changed.notify_all()
            return not self._closing

    def _drop_frames(self) -> None:
        """Empty the queue but for the news, of which the last is enough, that the source was lost."""
        lost = [item for item in self._queue if isinstance(item, SourceLost)]
        self.dropped += len(self._queue) - len(lost)
        self._queue = deque(lost[-1:])


class Pace:
    """When frames are due so that there are no more than ``fps`` a second.

    A frame may come a quarter of its time early: a camera of that very rate shakes a little.
    """

    def __init__(self, fps: float) -> None:
        self._period_s = 1.0 / fps
        self._due_s = 0.0

    def is_due(self, frame: Frame) -> bool:
        """Whether a frame that has arrived by itself is to be taken."""
        arrival_s = frame.arrival_ns * 1e-9
        if arrival_s < self._due_s - self._period_s / 4:
            return False
        self._take(arrival_s)
        return True

    def wait_s(self, now_s: float) -> float:
        """How long to wait before the next frame is fetched, which is then taken."""
        wait_s = max(self._due_s - now_s, 0.0)
        self._take(now_s + wait_s)
        return wait_s

    def _take(self, at_s: float) -> None:
        self._due_s = max(self._due_s, at_s - self._period_s) + self._period_s


def stalled(source: Source, waited_s: float) -> SourceError:
    """What to raise when a source neither delivers nor fails."""
    return SourceError(
        f"{source.name} gave no frame for {waited_s:.0f} s and did not say why; check the device or the "
        "network, then start again."
    )
