"""A record as text: one JSON object a line, one line a frame, each line flushed as it is written."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import select
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RowError
from ..files import os_errors_as_sentences, ready_folder
from .base import RecordFile, Row, RunInfo, Sink


class JsonlSink(RecordFile):
    """Lines with ``frame``, ``timestamp_ns``, ``clock``, ``arrival_ns``, ``latent``, ``pose``,
    ``intrinsics``, ``depth_valid``, ``source``, ``model`` and ``model_sha256``; each line stands on its own.

    ``pose`` is a 4x4 list or null, ``intrinsics`` an object or null, ``depth_valid`` a fraction or null. A
    latent's numbers have nine significant digits, which give the same float32 back.

    After a failure the record goes on behind its last whole line, or in a new file if somebody else has
    changed the old one.
    """

    _run: RunInfo
    _file: io.FileIO | None = None
    _bytes = 0  # of whole lines in the file

    def open(self, run: RunInfo) -> None:
        with os_errors_as_sentences(self.path):
            if self.files and self._is_as_left():
                self._file = io.FileIO(self.path, "a")
            else:
                self.name_next()
                self.refuse_existing()
                ready_folder(self.path.parent)
        self._run = run

    def write(self, row: Row) -> None:
        line = self._line(row)
        with os_errors_as_sentences(self.path):
            if self._file is None:
                self._file = self._start(line)
                self._bytes = len(line)
            else:
                self._append(self._file, line)
                self._bytes += len(line)
        self.rows += 1

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with os_errors_as_sentences(self.path):
                file.close()
            self.keep(at_once=True)

    def _line(self, row: Row) -> bytes:
        return json_line(row, self._run)

    def _start(self, line: bytes) -> io.FileIO:
        # Unbuffered: a line reaches the operating system in one write and survives a kill.
        with self.started(lambda name: io.FileIO(name, "w")) as file:
            _write_all(file, line)
        self._inode, self._is_full = _inode(os.fstat(file.fileno())), False
        return file

    def _append(self, file: io.FileIO, line: bytes) -> None:
        try:
            _write_all(file, line)
        except OSError as error:
            with contextlib.suppress(OSError):  # then the size shows it when the record is to go on
                os.ftruncate(file.fileno(), self._bytes)  # half a line must not stand before the next one
            self._is_full = error.errno == errno.EFBIG  # as at 4 GB on a memory card; the next file is not
            raise

    def _is_as_left(self) -> bool:
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            return False
        return not self._is_full and _inode(now) == self._inode and now.st_size == self._bytes


class JsonlPipe(Sink):
    """The lines of a JsonlSink on standard output: ``edgevae stream --record - | jq .frame``."""

    waits_for_reader = True

    def __init__(self) -> None:
        self.path = Path("standard output")
        self._rest = memoryview(b"")  # of the line that is being written

    def open(self, run: RunInfo) -> None:
        self._run = run
        self._file = io.FileIO(1, "w", closefd=False)

    def write(self, row: Row) -> None:
        # After a failure the same row is given once more, of which a part may have gone out already.
        self._rest = self._rest or memoryview(json_line(row, self._run))
        while self._rest:
            try:
                written: int | None = self._file.write(self._rest)
            except BrokenPipeError:
                raise
            except OSError as error:
                with os_errors_as_sentences(self.path):
                    raise error
            if written is None:  # somebody has set the pipe to answer at once
                select.select([], [self._file], [], 1.0)
            self._rest = self._rest[written or 0 :]
        self.rows += 1


def json_line(row: Row, run: RunInfo) -> bytes:
    """The line of ``row``.

    Raises:
        RowError: its latent has a number that JSON does not know.
    """
    if not np.isfinite(row.latent).all():
        raise RowError(f"the latent of frame {row.index} has NaN or infinity, which JSON cannot hold.")
    head = {
        "frame": row.index,
        "timestamp_ns": row.timestamp_ns,
        "clock": row.clock,
        "arrival_ns": row.arrival_ns,
    }
    tail = {
        "pose": None if row.pose is None else row.pose.tolist(),
        "intrinsics": None if row.intrinsics is None else asdict(row.intrinsics),
        "depth_valid": None if np.isnan(row.depth_valid) else round(row.depth_valid, 6),
        "source": run.source,
        "model": run.spec.name,
        "model_sha256": run.spec.sha256,
    }
    # json.dumps would write each number as a float64, with twice the digits in four times the time.
    latent = ("%.9g," * len(row.latent) % tuple(row.latent.tolist()))[:-1]
    return f'{_compact(head)[:-1]},"latent":[{latent}],{_compact(tail)[1:]}\n'.encode()


def _compact(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _inode(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _write_all(file: io.FileIO, line: bytes) -> None:
    """One write as a rule; a raw file may take less, as when the disk is nearly full."""
    view = memoryview(line)
    while view:
        view = view[file.write(view) :]
