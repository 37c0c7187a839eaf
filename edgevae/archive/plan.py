"""What is to be embedded, in which order, and how far an archive has come."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import SourceError
from ..sinks.base import Row
from ..sources.opencv import without_password
from ..words import printable


@dataclass(frozen=True)
class Plan:
    """Sources in the order their rows are to have.

    Attributes:
        sources: URIs as ``edgevae stream --camera`` takes them; each of them once.
        depth, calibration: as in ``open_source``, for all of them.

    Raises:
        SourceError: there are none, or one is named twice.
    """

    sources: tuple[str, ...]
    depth: str | None = None
    calibration: str | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise SourceError("no source to embed; name at least one, or a list of them by --from-list FILE.")
        seen: set[str] = set()
        for uri in self.sources:
            if uri in seen:
                raise SourceError(f"source '{uri}' is named twice; its frames would be counted twice.")
            seen.add(uri)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The sources as records name them: without a password in a URL, and in UTF-8."""
        return tuple(printable(without_password(uri)) for uri in self.sources)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names in their order and of how depth is had: equal plans give equal rows."""
        how = [self.depth, *([self.calibration] if self.calibration else [])]
        return hashlib.sha256(json.dumps([how, self.names]).encode()).hexdigest()

    def task(self, source: int, place: Place) -> Task:
        """What is to be done with a source when the archive has come to ``place``."""
        after = place.frame if source == place.source else -1
        alone = len(self.sources) == 1 and after < 0
        return Task(source, self.sources[source], self.depth, self.calibration, after, alone)

    @property
    def title(self) -> str:
        """For people: the only source's name, or how many there are."""
        return self.names[0] if len(self.names) == 1 else f"{len(self.names)} sources"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A frame of a plan: the source's number and the frame's number in it. Rows are in this order."""

    source: int
    frame: int


@dataclass(frozen=True, slots=True)
class Task:
    """One source to be encoded.

    Attributes:
        source: its number in the plan.
        after: leave out frames up to this number: they have been done before.
        alone: it is the only one, and begins at its beginning; only then may it be live.
    """

    source: int
    uri: str
    depth: str | None
    calibration: str | None
    after: int
    alone: bool


BEGINNING = Place(0, -1)


@dataclass(frozen=True, slots=True)
class Done:
    """A frame that has become a row.

    Attributes:
        source: number of its source in the plan.
        dropped: frames that a live source has dropped so far.
    """

    source: int
    row: Row
    preprocess_ms: float
    encode_ms: float
    end_to_end_ms: float
    dropped: int = 0

    @property
    def place(self) -> Place:
        return Place(self.source, self.row.index)


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be read.

    Attributes:
        source: number of the source in the plan.
        after: number of the last frame that was read before, -1 for none.
        reason: one sentence.
        failed: the source ended with it; otherwise one frame was left out.
    """

    source: int
    after: int
    reason: str
    failed: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """All of a source has been read, or as much as could be."""

    source: int


Item = Done | Problem | Finished
Block = list[Item]
"""Some items in their order; an empty one says that nothing is ready yet."""


def read_list(path: str) -> list[str]:
    """Source URIs from a text file, one a line; empty lines and lines that begin with # are left out.

    Args:
        path: of the file; "-" for standard input.

    Raises:
        SourceError: it cannot be read or is no text.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read the list {path}: {error}; wanted one source a line.") from error
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
