"""A source whose frames are made in memory, and misbehaves on request."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from edgevae.errors import FrameError
from edgevae.frame import Frame, Intrinsics
from edgevae.sources.base import Source


def make_frame(index: int, *, clock: str = "file", depth: bool = True, pose: bool = True) -> Frame:
    """A small frame whose colour, depth, time and pose all follow from its number."""
    rng = np.random.default_rng(index)
    rgb = rng.integers(0, 256, (24, 32, 3), np.uint8)
    depth_mm = rng.integers(500, 4000, (24, 32), np.uint16)
    depth_mm[:6] = 0
    camera_to_world = np.eye(4)
    camera_to_world[2, 3] = index
    return Frame(
        rgb,
        depth_mm if depth else None,
        timestamp_ns=time.time_ns() if clock == "host" else 1_000_000_000 + index * 33_000_000,
        clock=clock,
        index=index,
        intrinsics=Intrinsics(30.0, 31.0, 15.5, 11.5, 32, 24),
        pose=camera_to_world if pose else None,
    )


class MemorySource(Source):
    """``count`` frames; ``actions`` maps a frame's number to what is done in its place."""

    def __init__(
        self,
        count: int,
        *,
        live: bool = False,
        interval_s: float = 0.0,
        actions: dict[int, Callable[[], Frame | None]] | None = None,
        **frame: bool,
    ) -> None:
        self.name = "memory"
        self.length = count
        self.live = live
        self.closed = 0
        self._interval_s = interval_s
        self._actions = actions or {}
        self._frame = frame
        self._next = 0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        index, self._next = self._next, self._next + 1
        if index >= (self.length or 0):
            return None
        if self._interval_s:
            time.sleep(self._interval_s)
        if index in self._actions:
            return self._actions[index]()
        return make_frame(index, clock="host" if self.live else "file", **self._frame)

    def close(self) -> None:
        self.closed += 1


def raising(error: BaseException) -> Callable[[], Frame | None]:
    """An action that raises."""

    def action() -> Frame | None:
        raise error

    return action


def corrupt(*indices: int) -> dict[int, Callable[[], Frame | None]]:
    """Actions that make the frames of these numbers corrupt."""
    return {index: raising(FrameError(f"frame {index} is corrupt.")) for index in indices}
