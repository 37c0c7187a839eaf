"""A live source that is opened anew whenever its device goes away."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from ..errors import FrameError, SourceError, SourceLost
from ..frame import Frame
from .base import Source

RETRY_FIRST_S = 0.1
RETRY_LONGEST_S = 5.0
PATIENCE_S = 3.0
BAD_FRAMES_IN_A_ROW = 10
_JOIN_S = 5.0


def reconnecting(open_it: Callable[[], Source]) -> Source:
    """What ``open_it`` opens; a live source comes back as a ReconnectingSource.

    Raises:
        SourceError: it cannot be opened. A camera that was never there is not waited for.
    """
    source = open_it()
    return ReconnectingSource(source, open_it) if source.live else source


class ReconnectingSource(Source):
    """Reads a live source; when that fails, closes it and opens it again until it is back.

    The source counts as lost when it raises SourceError (a mere lack of frames is forgiven for PATIENCE_S),
    or after BAD_FRAMES_IN_A_ROW corrupt frames. It is closed, and opened again after 0.1 s, then after twice
    as long each time, 5 s at the most, in a thread of its own; its first good frame ends the loss. Numbers of
    frames go on rising; the new device may give another size.

    Args:
        source: the source as first opened.
        reopen: opens it again; raises SourceError while it is away.
    """

    def __init__(self, source: Source, reopen: Callable[[], Source]) -> None:
        self.name, self.live, self.fps = source.name, source.live, source.fps
        self._source: Source | None = source
        self._reopen = reopen
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._delay_s = RETRY_FIRST_S
        self._why = ""  # the source is lost; empty while it is not
        self._lost_s = 0.0  # since when
        self._answered_s = time.monotonic()  # the last good frame, or opening
        self._bad_in_a_row = 0
        self._next_index = self._first_index = 0
        self._dropped_before = 0
        self._recoveries = 0
        self._lost_seconds = 0.0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame of the source.

        Raises:
            SourceLost: the source has just been lost, or is not back within ``timeout_s``.
            SourceError: this object is closed.
            FrameError: this one frame is unusable.
        """
        began_s = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._source is not None or self._closing, timeout_s)
            source = self._source
        if self._closing:
            raise SourceError(f"{self.name} is closed; open it again with open_source.")
        if source is None:
            raise SourceLost(self._why)
        try:
            frame = source.read(max(timeout_s - (time.monotonic() - began_s), 0.0))
        except SourceLost:
            raise
        except SourceError as error:
            now_s = time.monotonic()
            if now_s - began_s < 0.9 * timeout_s or now_s - self._answered_s >= PATIENCE_S:
                self._lose(source, str(error))
            raise SourceLost(str(error)) from error
        except FrameError as error:
            self._bad_in_a_row += 1
            if self._bad_in_a_row >= BAD_FRAMES_IN_A_ROW:
                why = f"{self.name} gave {self._bad_in_a_row} unusable frames in a row; the last: {error}"
                self._lose(source, why)
                raise SourceLost(why) from error
            raise
        finally:
            if self._source is source:
                self.dropped = self._dropped_before + source.dropped
        if frame is not None:
            self._got(frame)
        return frame

    def counts(self) -> dict[str, float]:
        """What the source counts, and ``recoveries`` and ``lost_seconds``."""
        with self._changed:
            source, lost_s = self._source, self._lost_seconds
            if self._why:
                lost_s += time.monotonic() - self._lost_s
        inner = {} if source is None else source.counts()
        return {**inner, "recoveries": self._recoveries, "lost_seconds": round(lost_s, 3)}

    def close(self) -> None:
        """Close the source; one that hangs while it is opened again is closed by its thread as it answers."""
        with self._changed:
            self._closing = True
            source, self._source = self._source, None
            self._changed.notify_all()
        if source is not None:
            source.close()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _got(self, frame: Frame) -> None:
        frame.index += self._first_index
        self._next_index = frame.index + 1
        self._answered_s = time.monotonic()
        self._bad_in_a_row = 0
        if self._why:
            with self._changed:
                self._recoveries += 1
                self._lost_seconds += self._answered_s - self._lost_s
                self._why = ""
            self._delay_s = RETRY_FIRST_S

    def _lose(self, source: Source, why: str) -> None:
        with self._changed:
            if self._closing:
                return
            if not self._why:
                self._lost_s = time.monotonic()
            self._source, self._why = None, why
            self._first_index = self._next_index
            self._bad_in_a_row = 0
            self.dropped = self._dropped_before = self._dropped_before + source.dropped
            self._thread = threading.Thread(
                target=self._bring_back, args=(source,), name=f"edgevae-reconnect {self.name}", daemon=True
            )
            self._thread.start()

    def _bring_back(self, old: Source) -> None:
        with contextlib.suppress(Exception):  # it has failed already
            old.close()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._delay_s)
                if self._closing:
                    return
            self._delay_s = min(2 * self._delay_s, RETRY_LONGEST_S)
            try:
                new = self._reopen()
            except Exception as error:  # a thread's exception would be lost, and the device may yet return
                self._why = str(error) or type(error).__name__
                continue
            if not new.live:
                new.close()
                self._why = f"{self.name} was live and is a file now."
                continue
            with self._changed:
                if not self._closing:
                    self._source, self._answered_s = new, time.monotonic()
                    self._changed.notify_all()
                    return
            new.close()
            return
