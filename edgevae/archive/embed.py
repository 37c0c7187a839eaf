"""The loop of ``edgevae embed``: finished frames into an archive, in order, each once."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..errors import EdgevaeError, RecordError, RowError, SourceError
from ..model import ModelSpec
from ..stats import Stats
from ..stream import Stop
from .base import Archive, Found
from .plan import BEGINNING, Block, Finished, Item, Place, Plan, Problem
from .problems import ProblemList

_FLUSH_SECONDS = 0.5


@dataclass
class Tally:
    """What an embedding has done, for a display to read; ``stats`` counts this run's frames.

    Attributes:
        sources: in the plan.
        finished: sources that are done, in this run and before.
        rows: in the archive.
        resumed: rows that were there before this run.
        failed: sources that could not be read, or not to their end.
        problems: the first of those, as sentences.
        problems_path: the list of all problems, None when there is none.
    """

    sources: int
    finished: int = 0
    rows: int = 0
    resumed: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    problems_path: Path | None = None


class EmbedStats(Stats):
    """Counters of an embedding. Its rows come in blocks, so their rate is that of the whole run."""

    @property
    def fps(self) -> float:
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


class Engine(Protocol):
    """What reads and encodes: ``LocalEngine`` or ``RayEngine``."""

    def blocks(self, plan: Plan, place: Place) -> Generator[Block]:
        """The items of ``plan`` behind ``place``, in order; an empty block now and then while it waits."""


def open_archive(path: str | Path, *, overwrite: bool = False) -> Archive:
    """The archive named ``path``: ``.h5`` or ``.hdf5``, ``.jsonl``, or ``.parquet``, which is a folder.

    ``.mcap`` is for one source.

    Raises:
        RecordError: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        from .hdf5 import Hdf5Archive

        return Hdf5Archive(path, overwrite=overwrite)
    if suffix == ".jsonl":
        from .jsonl import JsonlArchive

        return JsonlArchive(path, overwrite=overwrite)
    if suffix == ".parquet":
        from .parquet import ParquetArchive

        return ParquetArchive(path, overwrite=overwrite)
    if suffix == ".mcap":
        from ..sinks import open_record
        from .one_source import OneSourceArchive

        return OneSourceArchive(path, open_record(path, overwrite=overwrite))
    raise RecordError(
        f"cannot embed into {path}: its suffix is '{path.suffix}', wanted .h5 (HDF5), .jsonl (text), "
        ".parquet (a folder of Parquet files) or .mcap."
    )


def embed(
    plan: Plan,
    path: str | Path,
    engine: Engine,
    spec: ModelSpec,
    *,
    resume: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    stats: Stats | None = None,
    stop: Stop | None = None,
    tally: Tally | None = None,
) -> Tally:
    """Write the rows of ``plan`` into the archive ``path``.

    A source that cannot be read, or not to its end, is counted and listed in ``PATH.problems.jsonl``, and
    the others go on. Where there is only one source, or with ``strict``, its error is raised instead.

    Args:
        spec: of the model that ``engine`` runs.
        resume: go on behind the last whole row of an archive of the same sources and model; where there is
            none, begin.
        overwrite: replace an old archive.
        strict: the first source that cannot be read ends the run.
        stats: counts the frames of this run.
        stop: ends the run from outside; what is written by then can be resumed.
        tally: filled as the run goes, for a display to read.

    Returns:
        The tally.

    Raises:
        RecordError: the archive cannot be written, or not resumed; what was written before is kept.
        SourceError: see above.
        EdgevaeError: the model wants a condition, or ``resume`` and ``overwrite`` are both asked for.
    """
    stats = EmbedStats() if stats is None else stats
    stop = Stop() if stop is None else stop
    tally = Tally(len(plan.sources)) if tally is None else tally
    try:
        if spec.condition_dim:
            raise EdgevaeError(
                f"{spec.name} wants a condition of {spec.condition_dim} numbers; no source has one."
            )
        if resume and overwrite:
            raise EdgevaeError(
                "--resume goes on with an archive, --overwrite replaces it; leave out one of them."
            )
        archive = open_archive(path, overwrite=overwrite)
        found = archive.find(plan, spec) if resume else None
        archive.begin(plan, spec, found)
        _Writing(plan, archive, found, stats, tally, strict=strict or len(plan.sources) == 1).run(
            engine, stop
        )
        stats.stop(stop.reason or "end of source")
    except BaseException as error:
        stats.error = str(error) or type(error).__name__
        stats.stop("error")
        raise
    return tally


class _Writing:
    """Takes items in their order and does with each what is to be done."""

    def __init__(
        self, plan: Plan, archive: Archive, found: Found | None, stats: Stats, tally: Tally, *, strict: bool
    ) -> None:
        self._plan, self._archive, self._stats, self._tally = plan, archive, stats, tally
        self._strict = strict
        self._problems = ProblemList(archive.path, plan)
        self._last = BEGINNING
        if found is not None:
            self._last = found.place
            self._problems.resume(found.place)
            tally.resumed, tally.finished = found.rows, found.place.source
        self._count()

    def run(self, engine: Engine, stop: Stop) -> None:
        try:
            with closing(engine.blocks(self._plan, self._last)) as blocks:
                flushed_s = 0.0
                for block in blocks:
                    for item in block:
                        self._take(item)
                    if time.monotonic() - flushed_s >= _FLUSH_SECONDS:
                        self._archive.flush()
                        flushed_s = time.monotonic()
                    self._count()
                    if stop.requested:
                        break
        finally:
            try:
                self._archive.close()
            finally:
                self._problems.close(keep=self._archive.rows > 0)
                self._count()

    def _take(self, item: Item) -> None:
        if isinstance(item, Finished):
            self._tally.finished += 1
        elif isinstance(item, Problem):
            if item.failed and self._strict:
                raise SourceError(item.reason)
            if not item.failed:
                self._stats.frame_skipped(item.reason)
            self._problems.add(item)
        else:
            if item.place <= self._last:
                raise RecordError(
                    f"frame {item.row.index} of {self._plan.names[item.source]} came after frame "
                    f"{self._last.frame} of {self._plan.names[self._last.source]}; frames must count upwards."
                )
            began_s = time.perf_counter()
            try:
                self._archive.add(item.source, item.row)
            except RowError as error:  # numbers that the format cannot hold
                self._stats.frame_skipped(str(error))
                self._problems.add(Problem(item.source, item.row.index, str(error), failed=False))
                return
            self._last = item.place
            self._stats.time("sink", (time.perf_counter() - began_s) * 1e3)
            self._stats.frame_encoded(item.preprocess_ms, item.encode_ms, item.end_to_end_ms)
            self._stats.dropped = item.dropped

    def _count(self) -> None:
        tally, problems = self._tally, self._problems
        tally.rows = self._archive.rows
        tally.failed = problems.failed
        tally.problems = [problem.reason for problem in problems.first]
        tally.problems_path = problems.path if problems.path.exists() else None
