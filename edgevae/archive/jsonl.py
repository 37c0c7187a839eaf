"""An archive as text: each line names its source, as every JSON-lines record of edgevae does.

To resume, the lines are counted and checked, an unfinished last one is cut off, and new ones are appended.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from ..errors import RecordError
from ..files import os_errors_as_sentences
from ..model import ModelSpec
from ..sinks.base import Row, RunInfo
from ..sinks.jsonl import JsonlSink
from .base import Archive, Found, check_same
from .plan import BEGINNING, Place, Plan


class JsonlArchive(JsonlSink, Archive):
    """The lines of ``JsonlSink`` and in each ``sources_sha256``."""

    _plan: Plan
    _whole_bytes: int = 0

    def find(self, plan: Plan, spec: ModelSpec) -> Found | None:
        if not self.path.exists():
            return None
        numbers = {name: i for i, name in enumerate(plan.names)}
        last, rows, self._whole_bytes = BEGINNING, 0, 0
        with os_errors_as_sentences(self.path), self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # the writer was killed in the middle of this line
                rows += 1
                row = self._fields(line, rows)
                check_same(self.path, plan, spec, row.get("sources_sha256"), row.get("model_sha256"))
                place = Place(numbers.get(row["source"], -1), row["frame"])
                if place <= last:
                    raise RecordError(
                        f"{self.path}, line {rows}, has frame {place.frame} of '{row['source']}' out of its "
                        "order; choose another name."
                    )
                last = place
                self._whole_bytes += len(line)
        if rows == 0:
            self.overwrite = True
            return None
        return Found(last, rows)

    def _fields(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            return {**row, "source": str(row["source"]), "frame": int(row["frame"])}
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{self.path}, line {number}, is not a row of a record: {error}.") from error

    def begin(self, plan: Plan, spec: ModelSpec, found: Found | None) -> None:
        self._plan = plan
        if found is None:
            self.open(RunInfo(plan.title, False, spec))
            return
        self.rows, self._bytes = found.rows, self._whole_bytes
        with os_errors_as_sentences(self.path):
            os.truncate(self.path, self._whole_bytes)
            stat = os.stat(self.path)
        self.files, self._inode, self._is_full = [self.path], (stat.st_dev, stat.st_ino), False
        self.open(RunInfo(plan.title, False, spec))

    def add(self, source: int, row: Row) -> None:
        self._run = replace(self._run, source=self._plan.names[source])
        self.write(row)

    def _line(self, row: Row) -> bytes:
        line = super()._line(row).removesuffix(b"}\n")
        return line + f',"sources_sha256":"{self._plan.digest}"}}\n'.encode()
