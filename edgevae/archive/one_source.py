"""A record of ``edgevae stream`` that holds one source, and cannot be resumed."""

from __future__ import annotations

from pathlib import Path

from ..errors import RecordError
from ..model import ModelSpec
from ..sinks import Sink
from ..sinks.base import Row, RunInfo
from .base import Archive, Found
from .plan import Plan


class OneSourceArchive(Archive):
    """Writes through ``sink``, whose rows have no place for the name of a source."""

    def __init__(self, path: Path, sink: Sink) -> None:
        self.path = path
        self._sink = sink

    def find(self, plan: Plan, spec: ModelSpec) -> Found | None:
        raise RecordError(f"{self.path} cannot be resumed; choose a .h5, .jsonl or .parquet file.")

    def begin(self, plan: Plan, spec: ModelSpec, found: Found | None) -> None:
        if len(plan.sources) > 1:
            raise RecordError(
                f"{self.path} holds one source, got {plan.title}; choose a .h5, .jsonl or .parquet file."
            )
        self._sink.open(RunInfo(plan.title, False, spec))

    def add(self, source: int, row: Row) -> None:
        self._sink.write(row)
        self.rows = self._sink.rows

    def flush(self) -> None:
        self._sink.flush()
        self.rows = self._sink.rows

    def close(self) -> None:
        self._sink.close()
        self.rows = self._sink.rows
