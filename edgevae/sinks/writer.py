"""The thread that feeds the sinks, so that a slow disk does not hold up encoding."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from ..errors import RecordError
from ..stats import Stats
from .base import Row, Sink

QUEUE_ROWS = 256
QUEUE_PICTURES = 8
FLUSH_SECONDS = 0.25
STALL_TIMEOUT_S = 30.0
_POLL_S = 0.1


class Writer:
    """A bounded queue and one thread in front of ``sinks``, which must be open; it closes them.

    Rows with pictures are large, so fewer of them may wait.
    """

    def __init__(self, sinks: Sequence[Sink], stats: Stats) -> None:
        self._sinks = list(sinks)
        self._stats = stats
        self.needs_pictures = any(sink.needs_pictures for sink in self._sinks)
        self._queue: queue.Queue[Row | None] = queue.Queue(
            QUEUE_PICTURES if self.needs_pictures else QUEUE_ROWS
        )
        self._error: BaseException | None = None
        self._written = 0
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="edgevae-sinks", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except RecordError:
            if error is None:  # otherwise the first failure is the one to report
                raise

    def has_room(self) -> bool:
        """Whether ``put`` would take a row at once.

        Raises:
            RecordError: a sink has failed.
        """
        self._check()
        return not self._queue.full()

    def put(self, row: Row) -> None:
        """Queue one row, waiting for room.

        Raises:
            RecordError: a sink has failed, or wrote nothing for STALL_TIMEOUT_S.
        """
        self._queue_item(row)

    def close(self) -> None:
        """Write what is queued, flush and close every sink.

        Raises:
            RecordError: a sink failed, or wrote nothing for STALL_TIMEOUT_S.
        """
        if self._error is None:
            self._queue_item(None)
        written, since_s = self._written, time.monotonic()
        while self._thread.is_alive():
            self._thread.join(_POLL_S)
            if self._written != written:
                written, since_s = self._written, time.monotonic()
            elif time.monotonic() - since_s > STALL_TIMEOUT_S:
                raise self._stalled()
        self._check()

    def _queue_item(self, item: Row | None) -> None:
        written, since_s = self._written, time.monotonic()
        while True:
            self._check()
            try:
                self._queue.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                if self._written != written:
                    written, since_s = self._written, time.monotonic()
                elif time.monotonic() - since_s > STALL_TIMEOUT_S:
                    raise self._stalled() from None

    def _stalled(self) -> RecordError:
        self._abandoned = True
        paths = " and ".join(str(sink.path) for sink in self._sinks)
        return RecordError(
            f"nothing could be written to {paths} for {STALL_TIMEOUT_S:.0f} s, {self._queue.qsize()} rows "
            "are lost; check the disk."
        )

    def _check(self) -> None:
        if self._error is not None and not self._abandoned:
            raise self._error

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except BaseException as error:
            self._error = error
        for sink in self._sinks:
            try:
                sink.close()
            except BaseException as error:
                self._error = self._error or error

    def _write_until_closed(self) -> None:
        flushed_s = time.monotonic()
        while True:
            try:
                row = self._queue.get(timeout=FLUSH_SECONDS)
                if row is None:
                    return
                began_s = time.perf_counter()
                for sink in self._sinks:
                    sink.write(row)
                self._stats.time("sink", (time.perf_counter() - began_s) * 1e3)
                self._written += 1
            except queue.Empty:
                pass
            if time.monotonic() - flushed_s >= FLUSH_SECONDS:
                for sink in self._sinks:
                    sink.flush()
                flushed_s = time.monotonic()
