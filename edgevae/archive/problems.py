"""The list beside an archive of what could not be read: ``FILE.problems.jsonl``.

It is written as problems occur, so that a kill loses none: when an archive is resumed, the problems before
its last whole row are known from the list, and the later ones are met again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from ..errors import RecordError
from ..files import os_errors_as_sentences, write_whole
from .plan import Place, Plan, Problem

SHOWN = 20


class ProblemList:
    """Appends to the list, and keeps what the end of the run is to say.

    The file exists only if there is a problem. A line has ``source``, ``after_frame`` (-1: before the
    first), ``failed`` (true: nothing more of the source could be read; false: one frame was left out) and
    ``reason``.

    Attributes:
        failed: sources that could not be read, or not to their end.
        first: the first of those problems.
    """

    def __init__(self, archive: Path, plan: Plan) -> None:
        self.path = archive.with_name(f"{archive.name}.problems.jsonl")
        self._plan = plan
        self._file: IO[bytes] | None = None
        self._started = False
        self.failed = 0
        self.first: list[Problem] = []

    def resume(self, place: Place) -> None:
        """Keep of an earlier run's list what comes before the row at ``place``."""
        kept = []
        numbers = {name: i for i, name in enumerate(self._plan.names)}
        with os_errors_as_sentences(self.path):
            lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                fields = json.loads(line)
                problem = Problem(
                    numbers[fields["source"]], fields["after_frame"], fields["reason"], fields["failed"]
                )
            except (ValueError, KeyError, TypeError) as error:
                raise RecordError(f"{self.path} is no list of problems: {error!r}; remove it.") from error
            if (problem.source, problem.after) < (place.source, place.frame):
                kept.append(line)
                self._count(problem)
        if kept:
            write_whole(self.path, b"".join(kept))
            self._started = True

    def add(self, problem: Problem) -> None:
        line = {
            "source": self._plan.names[problem.source],
            "after_frame": problem.after,
            "failed": problem.failed,
            "reason": problem.reason,
        }
        with os_errors_as_sentences(self.path):
            if self._file is None:
                self._file = self.path.open("ab" if self._started else "wb", buffering=0)
                self._started = True
            self._file.write((json.dumps(line) + "\n").encode())
        self._count(problem)

    def close(self, *, keep: bool) -> None:
        """Close the list; without ``keep`` remove it, as there is no archive that it would belong to."""
        if self._file is not None:
            self._file.close()
            if not keep:
                self.path.unlink(missing_ok=True)
        elif not self._started and keep:
            self.path.unlink(missing_ok=True)  # of an archive that has been replaced, or has been mended

    def _count(self, problem: Problem) -> None:
        if problem.failed:
            self.failed += 1
            if len(self.first) < SHOWN:
                self.first.append(problem)
