"""The threads that feed the sinks: each sink has one, and a queue, so that none delays another or encoding.

A sink that fails is closed, opened again after a while (0.1 s, twice as long each time, 5 s at the most) and
given every row that it has not counted as written. What its queue cannot take meanwhile is lost to it, and
counted. A run that reads files rather waits: PATIENCE_S for a sink that fails, STALL_TIMEOUT_S for one that
hangs in a call. (A pipe is waited for as long as its reader likes, or READER_S after a signal.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import RecordError, RowError
from ..stats import SinkStats, Stats
from .base import Row, RunInfo, Sink

if TYPE_CHECKING:
    from ..stream import Stop

QUEUE_ROWS = 256
QUEUE_PICTURES = 8
FLUSH_SECONDS = 0.25
PATIENCE_S = 5.0
STALL_TIMEOUT_S = 30.0
READER_S = 2.0
RETRY_FIRST_S = 0.1
RETRY_LONGEST_S = 5.0
_POLL_S = 0.1
_NICENESS = 10


class Writer:
    """Opens the sinks, hands every row to all of them, and closes them.

    Args:
        sinks: where rows go.
        run: what they are told when they are opened.
        stats: gets a SinkStats for each.
        wait: whether ``put`` waits for sinks that are slow, hang or fail.
        stop: asked to end the run when a reader has gone away; once it is set, no reader is waited for.
        tell: takes a sentence when a sink fails and when it is back.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        run: RunInfo,
        stats: Stats,
        *,
        wait: bool,
        stop: Stop,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._run = run
        self._wait = wait
        self._feeds = [Feed(sink, run, stats, stop, tell) for sink in sinks]
        self._failure: Exception | None = None  # of a sink, raised by ``check``

    def __enter__(self) -> Writer:
        """Open the sinks.

        Raises:
            RecordError: one cannot be opened; those before it are closed again.
        """
        opened: list[Sink] = []
        try:
            for feed in self._feeds:
                feed.sink.open(self._run)
                opened.append(feed.sink)
        except BaseException:
            for sink in opened:
                with contextlib.suppress(Exception):
                    sink.close()
            raise
        for feed in self._feeds:
            feed.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for feed in self._feeds:
            feed.end()
        for feed in self._feeds:
            feed.join()
        # Another failure than that of a sink is the one to report. That of a sink is worded anew: by now the
        # rows are counted that were still queued when it was raised.
        if error is None or error is self._failure:
            for feed in self._feeds:
                feed.raise_failure()

    def has_room(self, *, pictures: bool = False) -> bool:
        """Whether ``put`` has a use for a row now; with ``pictures``, for one that carries them."""
        feeds = [feed for feed in self._feeds if feed.sink.needs_pictures or not pictures]
        return any(self._wait or feed.has_room() for feed in feeds)

    def put(self, row: Row) -> None:
        """Queue one row for every sink; a sink that needs pictures gets none without."""
        plain = row if row.decoded is None else dataclasses.replace(row, frame=None, decoded=None)
        for feed in self._feeds:
            feed.put(row if feed.sink.needs_pictures else plain, wait=self._wait)

    def source_changed(self, lost: str) -> None:
        """Tell every sink, between rows, that the source was lost, or is back (an empty string)."""
        for feed in self._feeds:
            feed.put_change(lost)

    def check(self) -> None:
        """Raise the failure that leaves the run without a purpose.

        Raises:
            RecordError: no sink works, and none ever did or, with ``wait``, none is waited for any more.
        """
        if all(feed.fails() for feed in self._feeds):
            never_wrote = all(feed.sink.rows == 0 for feed in self._feeds)
            if never_wrote or (self._wait and not any(feed.is_waited_for() for feed in self._feeds)):
                try:
                    for feed in self._feeds:
                        feed.raise_failure()
                except Exception as error:
                    self._failure = error
                    raise


class Feed:
    """One sink with its thread and its queue.

    The queue holds what the sink has not written yet: first ``_given`` rows that it was given but does not
    count as written, then those that wait. After a failure all of them wait again.
    """

    def __init__(
        self, sink: Sink, run: RunInfo, stats: Stats, stop: Stop, tell: Callable[[str], None]
    ) -> None:
        self.sink = sink
        self.stats = SinkStats(str(sink.path))
        stats.sinks.append(self.stats)
        self._run, self._run_stats, self._stop, self._tell = run, stats, stop, tell
        self._limit = QUEUE_PICTURES if sink.needs_pictures else QUEUE_ROWS
        self._items: deque[Row | str] = deque()
        self._given = 0
        self._counted = sink.rows  # of these, all have left the queue
        self._changed = threading.Condition()
        self._ending = False
        self._over = False  # the sink takes nothing any more
        self._called_s: float | None = None  # since when the sink works on a call
        self._error: Exception | None = None  # the last one
        self._delay_s = RETRY_FIRST_S
        self._was_last_try = False
        self._thread = threading.Thread(target=self._work, name=f"edgevae-sink {sink.path}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def has_room(self) -> bool:
        return not self._over and len(self._items) - self._given < self._limit

    def is_waited_for(self) -> bool:
        """Whether the sink works, or has not failed or hung for long enough to be left behind."""
        return not (self._over or self._hangs() or self.stats.failing_s > PATIENCE_S)

    def fails(self) -> bool:
        """Whether the sink fails or hangs at this moment."""
        return bool(self.stats.failing) or self._hangs()

    def put(self, row: Row, *, wait: bool) -> None:
        """Queue a row, or count it as not recorded."""
        with self._changed:
            has_use = not self.sink.needs_pictures or row.decoded is not None
            while has_use and wait and not self.has_room() and self.is_waited_for() and not self._cut_short():
                self._changed.wait(_POLL_S)
            if has_use and self.has_room():
                self._items.append(row)
                self._changed.notify_all()
            elif self.fails():
                self.stats.lost += 1
            else:
                self.stats.behind += 1

    def put_change(self, lost: str) -> None:
        """Queue a change of the source's state."""
        with self._changed:
            if len(self._items) > self._given and isinstance(self._items[-1], str):
                self._items.pop()  # two changes without a row between them: the later one says it all
            self._items.append(lost)
            self._changed.notify_all()

    def end(self) -> None:
        """No more rows will come: write what is queued, then close."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the end of the sink; one that hangs is left behind with its rows."""
        while self._thread.is_alive():
            self._thread.join(_POLL_S)
            if self._hangs():
                with self._changed:
                    self._over = True
                    self._error = self._stalled()
                    self._lose_rest()
                return

    def raise_failure(self) -> None:
        """Raise why rows are missing, or why the sink fails; nothing if neither is so."""
        if self._error is None and self._hangs():
            self._error = self._stalled()
        if self._error is None or not (self.stats.lost or self.fails()):
            return
        if not isinstance(self._error, RecordError) or not self.stats.lost:
            raise self._error
        rows = "1 row is" if self.stats.lost == 1 else f"{self.stats.lost} rows are"
        name = str(self.sink.path)
        where = "" if name in str(self._error) else f" in {name}"
        raise RecordError(f"{self._error} {rows} missing{where}.") from self._error

    def _stalled(self) -> RecordError:
        seconds = f"{self._hang_limit_s():.0f} s"
        if self.sink.waits_for_reader:
            return RecordError(f"nobody has read {self.sink.path} for {seconds}; end the reader first.")
        return RecordError(f"nothing could be written to {self.sink.path} for {seconds}; check the disk.")

    def _hangs(self) -> bool:
        since_s = self._called_s
        return since_s is not None and time.monotonic() - since_s > self._hang_limit_s()

    def _hang_limit_s(self) -> float:
        if not self.sink.waits_for_reader:
            return STALL_TIMEOUT_S
        return READER_S if self._stop.by_signal else math.inf

    def _cut_short(self) -> bool:
        return self.sink.waits_for_reader and self._stop.by_signal

    def _lose_rest(self) -> None:
        self.stats.lost += sum(isinstance(item, Row) for item in self._items)
        self._items.clear()
        self._given = 0

    # In the sink's thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        _give_way()
        try:
            while True:
                try:
                    self._feed()
                    break
                except BrokenPipeError:
                    self._stop.request("closed output")
                    self._close_quietly()
                    break
                except Exception as error:  # whatever it is: this sink alone has failed
                    self._failed(error)
                    if not self._open_again():
                        break
        finally:
            with self._changed:
                self._over = True
                if self.stats.failing:
                    self._lose_rest()
                self._changed.notify_all()

    def _feed(self) -> None:
        """Give the sink what is queued until the end, then close it.

        Raises:
            RecordError: the sink failed.
        """
        flushed_s = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, FLUSH_SECONDS)
                item = self._items[self._given] if len(self._items) > self._given else None
                if item is None and self._ending:
                    break
                self._given += item is not None
            if isinstance(item, Row):
                self._write(item)
            elif item is not None:
                self._call(self.sink.source_changed, item)
            if time.monotonic() - flushed_s >= FLUSH_SECONDS:
                self._call(self.sink.flush)
                flushed_s = time.monotonic()
            self._settle()
        self._call(self.sink.flush)
        self._call(self.sink.close)
        self._settle()
        self._works()  # also where nothing was left to write

    def _has_work(self) -> bool:
        return self._ending or len(self._items) > self._given

    def _write(self, row: Row) -> None:
        began_s = time.perf_counter()
        try:
            self._call(self.sink.write, row)
        except RowError as error:
            with self._changed:
                self._error = error
                if self._given:  # else it was given up meanwhile, with all its rows
                    self._given -= 1
                    del self._items[self._given]
                    self.stats.lost += 1
            self._tell(f"{self.sink.path}: {error}")
            return
        ms = (time.perf_counter() - began_s) * 1e3
        self._run_stats.time("sink", ms)
        self.stats.time(ms)

    def _settle(self) -> None:
        """Let go of the rows that the sink counts as written."""
        if self.sink.rows > self._counted:
            self._works()
        with self._changed:
            self.stats.rows = self.sink.rows
            while self._given and (isinstance(self._items[0], str) or self._counted < self.sink.rows):
                self._let_go()
            while self._given > self._limit:  # of a sink that counts late: memory has its bounds
                self._let_go()
            self._changed.notify_all()

    def _let_go(self) -> None:
        self._counted += isinstance(self._items.popleft(), Row)
        self._given -= 1

    def _works(self) -> None:
        if self.stats.failing:
            self._tell(f"{self.sink.path} is written again, after {self.stats.failing_s:.1f} s.")
        self.stats.works()
        self._delay_s, self._was_last_try = RETRY_FIRST_S, False

    def _failed(self, error: Exception) -> None:
        self._settle()
        if not self.stats.failing:
            self._tell(f"{self.sink.path} failed and is tried again: {error or type(error).__name__}")
        with self._changed:
            self._error = error
            self._given = 0
            self.stats.fails(str(error) or type(error).__name__)

    def _open_again(self) -> bool:
        """Close, wait, and open until that succeeds; False when the run has ended and the last try failed."""
        while True:
            self._close_quietly()
            with self._changed:
                missed = max(0, self._counted - self.sink.rows)  # let go for memory's sake, and not written
                self.stats.lost += missed
                self._counted -= missed
                self._changed.wait_for(lambda: self._ending, self._delay_s)
                if self._ending and self._was_last_try:
                    return False
                self._was_last_try = self._ending
            self._delay_s = min(2 * self._delay_s, RETRY_LONGEST_S)
            try:
                self._call(self.sink.open, self._run)
                return True
            except Exception as error:
                self._failed(error)

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self._call(self.sink.close)

    def _call(self, method: Callable[..., None], *arguments: object) -> None:
        """Call the sink, and let ``_hangs`` see for how long."""
        self._called_s = time.monotonic()
        try:
            method(*arguments)
        finally:
            self._called_s = None


def _give_way() -> None:
    """Let encoding go first where a sink's thread and the engine want the same core."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
