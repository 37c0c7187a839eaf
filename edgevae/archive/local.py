"""The engine on this machine: a thread a source, each with a model of its own, rows in the plan's order."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator

from ..model import Model
from .encode import encode_source
from .plan import Block, Finished, Place, Plan

AHEAD_ROWS = 16384
"""Rows of later sources that may wait for their turn: 30 MB. Their threads pause beyond."""
_QUEUE_ROWS = 512  # and of the source whose turn it is
_POLL_S = 0.1
_JOIN_S = 3.0
MAX_WORKERS = 8


class LocalEngine:
    """Reads several sources at a time.

    Args:
        load: makes the model of one worker, which is to run on the given number of threads.
        workers: how many sources are read at a time; None for one a core, at most 8.
    """

    def __init__(self, load: Callable[[int], Model], *, workers: int | None = None) -> None:
        self._load = load
        self._workers = workers

    def blocks(self, plan: Plan, place: Place) -> Generator[Block]:
        """The items of ``plan`` behind ``place``; an empty block when nothing came for a tenth of a second.

        Raises:
            Exception: what ended a worker; what is wrong with a source is a ``Problem`` instead.
        """
        cores = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
        count = min(self._workers or cores, len(plan.sources) - place.source)
        shelf = _Shelf(place.source, len(plan.sources))

        def work(model: Model) -> None:
            try:
                while (number := shelf.next_source()) is not None:
                    for block in encode_source(plan.task(number, place), model, shelf.stopped):
                        shelf.put(number, block)
            except BaseException as error:
                shelf.fail(error)

        pool = [
            threading.Thread(target=work, args=(model,), name=f"edgevae-embed-{i}", daemon=True)
            for i, model in enumerate([self._load(max(1, cores // count)) for _ in range(count)])
        ]
        for thread in pool:
            thread.start()
        try:
            while (block := shelf.take(_POLL_S)) is not None:
                yield block
        finally:
            shelf.stop()
            deadline_s = time.monotonic() + _JOIN_S
            for thread in pool:  # one that hangs in a file system is left behind
                thread.join(max(0.0, deadline_s - time.monotonic()))


class _Shelf:
    """Where blocks of several sources wait until it is their source's turn."""

    def __init__(self, first: int, end: int) -> None:
        self._changed = threading.Condition()
        self._blocks: dict[int, deque[Block]] = {}
        self._rows = 0
        self._turn = self._next = first
        self._end = end
        self._error: BaseException | None = None
        self.stopping = False

    def next_source(self) -> int | None:
        """The next source that nobody reads yet; None when there is none. Sources are given out in order."""
        with self._changed:
            if self.stopping or self._next >= self._end:
                return None
            self._next += 1
            self._blocks[self._next - 1] = deque()
            return self._next - 1

    def put(self, source: int, block: Block) -> None:
        """Add a block, waiting for room. The source whose turn it is never waits for later ones."""

        def room() -> bool:
            limit = _QUEUE_ROWS if source == self._turn else AHEAD_ROWS
            rows = sum(map(len, self._blocks[source])) if source == self._turn else self._rows
            return rows < limit or self.stopping

        with self._changed:
            self._changed.wait_for(room)
            self._blocks[source].append(block)
            self._rows += len(block)
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Block | None:
        """The next block in order; an empty one after ``timeout_s``, None behind the last source."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or self._turn >= self._end or self._blocks.get(self._turn), timeout_s
            )
            if self._error is not None:
                raise self._error
            if self._turn >= self._end:
                return None
            waiting = self._blocks.get(self._turn)
            if not waiting:
                return []
            block = waiting.popleft()
            self._rows -= len(block)
            if block and isinstance(block[-1], Finished):
                del self._blocks[self._turn]
                self._turn += 1
            self._changed.notify_all()
            return block

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stopped(self) -> bool:
        return self.stopping

    def stop(self) -> None:
        with self._changed:
            self.stopping = True
            self._changed.notify_all()
