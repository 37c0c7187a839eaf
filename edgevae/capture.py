"""Reading a source in its own thread, so that frames go on arriving while one is being encoded."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from .errors import FrameError, SourceError
from .frame import Frame
from .sources.base import Source

QUEUE_FRAMES = 2
STALL_TIMEOUT_S = 30.0


class EndOfSource(Exception):
    """There are no more frames."""


class Capture:
    """Reads ``source`` until it ends, and closes it, in the thread that read it.

    With ``every_frame`` the thread waits while QUEUE_FRAMES frames stand in the queue. Without, only the
    newest frame is kept, and the frames it replaced are counted: latency cannot grow.

    Attributes:
        dropped: frames replaced by newer ones before they were taken.
    """

    def __init__(self, source: Source, *, every_frame: bool, timeout_s: float) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._limit = QUEUE_FRAMES if every_frame else 1
        self._every_frame = every_frame
        self._queue: deque[Frame | FrameError] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edgevae-capture", daemon=True)
        self.dropped = 0

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, timeout_s: float) -> Frame | FrameError | None:
        """The next frame, or what was wrong with it; None when nothing came within ``timeout_s``.

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
        item: Frame | FrameError | None
        try:
            item = self._source.read(self._timeout_s)
        except FrameError as error:
            item = error
        if item is None:
            return False
        with self._changed:
            if self._every_frame:
                self._changed.wait_for(lambda: len(self._queue) < self._limit or self._closing)
            elif self._queue:
                self._queue.clear()
                self.dropped += 1
            self._queue.append(item)
            self._changed.notify_all()
            return not self._closing


def stalled(source: Source, waited_s: float) -> SourceError:
    """What to raise when a source neither delivers nor fails."""
    return SourceError(
        f"{source.name} gave no frame for {waited_s:.0f} s and did not say why; check the device or the "
        "network, then start again."
    )
