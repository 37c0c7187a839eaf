"""A source of files that begins again when it has ended."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import SourceError
from ..frame import Frame
from .base import Source


class LoopingSource(Source):
    """Gives the frames of a source again and again; a round without a frame is the last.

    Numbers and timestamps go on rising: a round begins one frame's time after the end of the one before.

    Args:
        open_it: opens the source, once a round.

    Raises:
        SourceError: it cannot be opened, or is live and has no end to begin again from.
    """

    def __init__(self, open_it: Callable[[], Source]) -> None:
        self._open = open_it
        self._source = open_it()
        self.name, self.fps = self._source.name, self._source.fps
        if self._source.live:
            self._source.close()
            raise SourceError(f"{self.name} is live and never begins again; leave out --loop.")
        self._step_ns = round(1e9 / (self.fps or 30.0))
        self._last_ns = self._shift_ns = 0
        self._last_index = -1
        self._first_index = 0
        self._in_round = 0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame of this round or the first of the next.

        Raises:
            SourceError: it can no longer be opened or read.
            FrameError: this one frame is unusable.
        """
        while (frame := self._source.read(timeout_s)) is None:
            if self._in_round == 0:
                return None
            self._source.close()
            self._source = self._open()
            self._in_round = 0
            self._first_index = self._last_index + 1
        if self._in_round == 0:
            begins_ns = self._last_ns + self._step_ns if self._last_index >= 0 else frame.timestamp_ns
            self._shift_ns = begins_ns - frame.timestamp_ns
        self._in_round += 1
        frame.index += self._first_index
        frame.timestamp_ns += self._shift_ns
        self._last_index, self._last_ns = frame.index, frame.timestamp_ns
        return frame

    def counts(self) -> dict[str, float]:
        return self._source.counts()

    def close(self) -> None:
        self._source.close()
