"""A record as text: one JSON object a line, one line a frame, each line flushed as it is written."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from ..errors import RecordError
from ..files import move_into_place, os_errors_as_sentences, ready_folder, temporary_name
from .base import RecordFile, Row, RunInfo


class JsonlSink(RecordFile):
    """Lines with ``frame``, ``timestamp_ns``, ``clock``, ``arrival_ns``, ``latent``, ``pose``,
    ``depth_valid``, ``source``, ``model`` and ``model_sha256``; each line stands on its own.

    ``pose`` is a 4x4 list or null, ``depth_valid`` a fraction or null. A latent's numbers have nine
    significant digits, which give the same float32 back.
    """

    _run: RunInfo
    _file: io.FileIO | None = None

    def open(self, run: RunInfo) -> None:
        self.refuse_existing()
        ready_folder(self.path.parent)
        self._run = run

    def write(self, row: Row) -> None:
        line = self._line(row)
        with os_errors_as_sentences(self.path):
            if self._file is None:
                self._start(line)
            else:
                _write_all(self._file, line)
        self.rows += 1

    def close(self) -> None:
        if self._file is not None:
            with os_errors_as_sentences(self.path):
                self._file.close()

    def _start(self, line: bytes) -> None:
        temporary = temporary_name(self.path)
        # Unbuffered: a line reaches the operating system in one write and survives a kill.
        self._file = io.FileIO(temporary, "w")
        try:
            _write_all(self._file, line)
            self.refuse_existing()
            move_into_place(temporary, self.path, overwrite=self.overwrite)
        except BaseException:
            self._file.close()
            self._file = None
            temporary.unlink(missing_ok=True)
            raise

    def _line(self, row: Row) -> bytes:
        if not np.isfinite(row.latent).all():
            raise RecordError(f"the latent of frame {row.index} has NaN or infinity, which JSON cannot hold.")
        line: dict[str, Any] = {
            "frame": row.index,
            "timestamp_ns": row.timestamp_ns,
            "clock": row.clock,
            "arrival_ns": row.arrival_ns,
            "latent": [float(f"{value:.9g}") for value in row.latent.tolist()],
            "pose": None if row.pose is None else row.pose.tolist(),
            "depth_valid": None if np.isnan(row.depth_valid) else round(row.depth_valid, 6),
            "source": self._run.source,
            "model": self._run.spec.name,
            "model_sha256": self._run.spec.sha256,
        }
        return (json.dumps(line, separators=(",", ":")) + "\n").encode()


def _write_all(file: io.FileIO, line: bytes) -> None:
    """One write as a rule; a raw file may take less, as when the disk is nearly full."""
    view = memoryview(line)
    while view:
        view = view[file.write(view) :]
