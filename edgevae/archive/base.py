"""What an archive is: one record of many sources, which knows where it ends and goes on from there."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import NamedTuple

from ..errors import RecordError
from ..model import ModelSpec
from ..sinks.base import Row
from .plan import Place, Plan


class Found(NamedTuple):
    """How far an archive has come: its last whole row's place, and how many rows it has."""

    place: Place
    rows: int


class Archive(abc.ABC):
    """A growing record whose rows say which source they came from.

    As every record it appears under its name with the first row; with ``overwrite`` it replaces an old one
    only then.

    Attributes:
        rows: in the archive, those found by ``find`` included.
    """

    path: Path
    rows: int = 0

    @abc.abstractmethod
    def find(self, plan: Plan, spec: ModelSpec) -> Found | None:
        """Look at what is there, in order to go on behind it; None when there is nothing yet.

        Raises:
            RecordError: it is damaged, or was made from other sources or with another model.
        """

    @abc.abstractmethod
    def begin(self, plan: Plan, spec: ModelSpec, found: Found | None) -> None:
        """Make ready to write; nothing changes on the disk before the first row.

        Raises:
            RecordError: the path cannot be written, or exists, and neither ``found`` nor ``overwrite`` says
                what to do with it.
        """

    @abc.abstractmethod
    def add(self, source: int, row: Row) -> None:
        """Take one row of the source with this number.

        Raises:
            RecordError: it cannot be written.
        """

    @abc.abstractmethod
    def flush(self) -> None:
        """Hand what is due to the operating system; called about twice a second."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write the rest and close; may be called twice."""


def check_same(path: Path, plan: Plan, spec: ModelSpec, sources_sha256: object, model_sha256: object) -> None:
    """Raise RecordError unless an archive that says this of itself is one of ``plan`` and the model."""
    if not sources_sha256:
        raise RecordError(
            f"{path} was not written by 'edgevae embed': it cannot be resumed; choose another name."
        )
    if model_sha256 != spec.sha256:
        raise RecordError(
            f"{path} was made with the model {str(model_sha256)[:12]}, this one is {spec.name} "
            f"{spec.sha256[:12]}; pass the same by --model, or choose another name."
        )
    if sources_sha256 != plan.digest:
        raise RecordError(
            f"{path} was made from other sources, or from these in another order or with another --depth or "
            "--calibration; name the same as before, or choose another name."
        )
