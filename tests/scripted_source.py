"""A source that gives what a test hands it, when it hands it over; and one that plays a list."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence

import numpy as np

from edgevae.errors import SourceError
from edgevae.frame import Frame, Intrinsics
from edgevae.sources.base import Source

MS = 1_000_000
Step = Frame | Exception | None


class LiveSource(Source):
    """A device: ``give`` makes a frame arrive (None: the end; an exception: is raised)."""

    def __init__(self, name: str, fps: float | None = 30.0) -> None:
        self.name, self.live, self.fps = name, True, fps
        self.closed = 0
        self.reading = 0
        self._steps: queue.Queue[Step] = queue.Queue()

    def give(self, *steps: Step) -> None:
        for step in steps:
            self._steps.put(step)

    @property
    def drained(self) -> bool:
        return self._steps.empty()

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        self.reading += 1
        try:
            step = self._steps.get(timeout=timeout_s)
        except queue.Empty:
            raise SourceError(f"{self.name} gave no frame within {timeout_s:g} s.") from None
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.closed += 1
        self.give(SourceError(f"{self.name} is closed."))  # wakes who waits


class Recording(Source):
    """Gives ``steps`` one by one, each after a pause of ``pause_s`` (of its number, if that is a list)."""

    def __init__(self, name: str, steps: Sequence[Step], pause_s: Sequence[float] = (0.0,)) -> None:
        self.name, self.fps = name, 30.0
        self.closed = 0
        self._steps, self._pause_s = list(steps), pause_s
        self._next = 0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        place, self._next = self._next, self._next + 1
        time.sleep(self._pause_s[place % len(self._pause_s)])
        step = self._steps[place] if place < len(self._steps) else None
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.closed += 1


def color_frame(number: int, stamp_ns: int, **more: object) -> Frame:
    """8x6 pixels of the value ``number``."""
    rgb = np.full((6, 8, 3), number % 256, np.uint8)
    about: dict[str, object] = {"clock": "file", "intrinsics": Intrinsics(9.0, 9.0, 3.5, 2.5, 8, 6), **more}
    return Frame(rgb, timestamp_ns=stamp_ns, index=number, **about)  # type: ignore[arg-type]


def depth_frame(number: int, stamp_ns: int, *, size: tuple[int, int] = (6, 8), **more: object) -> Frame:
    """Depth of 1000 + ``number`` units of 0.5 mm, black in colour; its first row has no reading."""
    depth = np.full(size, 1000 + number, np.uint16)
    depth[0] = 0
    about: dict[str, object] = {"clock": "file", "depth_scale": 0.0005, **more}
    rgb = np.zeros((*size, 3), np.uint8)
    return Frame(rgb, depth, timestamp_ns=stamp_ns, index=number, **about)  # type: ignore[arg-type]


class Moment:
    """Stamps and arrivals of live frames around now, as two devices on one machine would have them."""

    def __init__(self) -> None:
        self._stamp_ns, self._arrival_ns = time.time_ns(), time.monotonic_ns()

    def at(
        self, ms: float, *, delay_ms: float = 0.0, clock: str = "host", off_ms: float = 0.0
    ) -> dict[str, object]:
        """Of a frame exposed ``ms`` after the moment; ``off_ms``: how wrong its clock is."""
        return {
            "stamp_ns": self._stamp_ns + round((ms + off_ms) * MS),
            "arrival_ns": self._arrival_ns + round((ms + delay_ms) * MS),
            "clock": clock,
        }
