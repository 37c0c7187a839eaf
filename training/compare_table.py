"""What a comparison found: a table for each held-out set, and which run is best and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from edgevae.bench.report import aligned, table

from .compare_rows import PCA, RUN, Row, cells, significant


@dataclass(frozen=True)
class Setting:
    """What the figures were taken with. ``budget_ms``: of encode and decode together, None for no bound."""

    checkpoint: str
    threads: int
    rounds: int
    isa: str
    processor: str
    budget_ms: float | None

    @property
    def threads_in_words(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}"

    def __str__(self) -> str:
        kept = f"epoch {self.checkpoint}" if self.checkpoint.isdecimal() else self.checkpoint
        return (
            f"Checkpoint: {kept}. Figures: posterior means of held-out images. Milliseconds: one frame in "
            f"the native engine, {self.threads_in_words}, medians of {self.rounds} rounds in turns, × beside "
            f"the fastest; {self.isa} on {self.processor}."
        )


@dataclass(frozen=True)
class Table:
    """All models on one held-out set.

    Attributes:
        name: of the set.
        images: how many it has.
        fingerprint: the same for the same images in the same encoding.
        rows: runs first.
        notes: what a reader must know of single rows, a sentence each.
        setting: of the comparison.
    """

    name: str
    images: int
    fingerprint: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    setting: Setting

    @property
    def title(self) -> str:
        return f"{self.name} ({self.images} held-out image{'s' if self.images != 1 else ''})"

    @property
    def runs(self) -> list[Row]:
        return [row for row in self.rows if row.kind == RUN]

    def within_budget(self) -> list[Row]:
        """The runs that keep to it, best first."""
        budget = math.inf if self.setting.budget_ms is None else self.setting.budget_ms
        return sorted((row for row in self.runs if row.total_ms <= budget), key=lambda row: row.mse)

    def best(self) -> Row | None:
        """The run of least squared error within the budget."""
        return next(iter(self.within_budget()), None)

    def __str__(self) -> str:
        best, (head, *lines) = self.best(), cells(self.rows)
        marked = [["*" if row is best else "", *line] for row, line in zip(self.rows, lines, strict=True)]
        shown = aligned([["", *head], *marked], names=3)
        return "\n".join([self.title, shown, *self.notes, verdict(self)])

    def markdown(self) -> str:
        """A section of a page."""
        best, (head, *lines) = self.best(), cells(self.rows)
        for row, line in zip(self.rows, lines, strict=True):
            if row is best:
                line[0] = f"**{line[0]}**"
        return "\n\n".join([f"## {self.title}", verdict(self), table([head, *lines]), *self.notes])

    def document(self) -> dict[str, Any]:
        """The table as plain JSON types."""
        best = self.best()
        return {
            "set": self.name,
            "images": self.images,
            "fingerprint": self.fingerprint,
            "best": best and best.name,
            "verdict": verdict(self),
            "notes": list(self.notes),
            "rows": [row.document() for row in self.rows],
        }


def document(setting: Setting, tables: Sequence[Table]) -> dict[str, Any]:
    """All tables as plain JSON types."""
    return {"setting": asdict(setting), "tables": [each.document() for each in tables]}


def csv_rows(tables: Sequence[Table]) -> list[list[Any]]:
    """All tables as one, its head first, with a column for each figure that any row has."""
    figures = list(dict.fromkeys(name for each in tables for row in each.rows for name in row.figures))
    plain = [each.name for each in fields(Row) if each.name not in ("figures", "errors")]
    rows: list[list[Any]] = [["set", "images", *plain, *figures]]
    for each in tables:
        for row in each.rows:
            values = [*(getattr(row, name) for name in plain), *(row.figures.get(name) for name in figures)]
            rows.append([each.name, each.images, *("" if value is None else value for value in values)])
    return rows


# --- the verdict -------------------------------------------------------------------------------


def verdict(found: Table) -> str:
    """Which run is best within the budget and why, what a larger budget would buy, and what PCA reaches."""
    budget, candidates = found.setting.budget_ms, found.within_budget()
    within = f" within {budget:g} ms (encode and decode, {found.setting.threads_in_words})" if budget else ""
    if not candidates:
        fastest = min(found.runs, key=lambda row: row.total_ms)
        return f"No run is{within}; the fastest is {fastest.name} with {significant(fastest.total_ms)} ms."
    best, *others = candidates
    if others:
        sentences = [
            f"{best.name} is the best of {len(candidates)} runs{within}: {_beside(best, others[0])}."
        ]
    else:
        sentences = [f"{best.name} is the only run{within}."]
    sentences += _latents([best, *others[:1]])
    better = min(found.runs, key=lambda row: row.mse)
    if better.mse < best.mse:
        takes = significant(better.total_ms)
        sentences.append(f"{better.name} has {_less(better, best)}, and takes {takes} ms.")
    return " ".join([*sentences, *_straight_line(found, best)])


def _beside(best: Row, other: Row) -> str:
    """Error, time and size beside the next best."""
    share = 100 * float(np.mean(best.errors < other.errors))
    return (
        f"it reconstructs with {_less(best, other)} than {other.name}, the next (on {share:.0f} % of the "
        f"images), at {_factor(best.total_ms, other.total_ms)} its time, {_factor(best.macs, other.macs)} "
        f"its products and {_factor(best.latent_dim, other.latent_dim)} its latent size"
    )


def _latents(rows: Sequence[Row]) -> list[str]:
    """How many latents each uses, and what they hold; nothing where the first has no posterior."""
    said = []
    for row, whose in zip(rows, ("its picture", f"that of {rows[-1].name}"), strict=False):
        if "active_units" not in row.figures:
            break
        active, nats = row.figures["active_units"], significant(row.figures["kl"])
        said.append(f"{active:.0f} of {row.latent_dim} latents carry {whose} ({nats} nats)")
    return [f"{', '.join(said)}."] if said else []


def _straight_line(found: Table, best: Row) -> list[str]:
    """What principal components reach with no more numbers than the best run, and whether they beat all."""
    lines = [row for row in found.rows if row.kind == PCA]
    fair = [row for row in lines if row.latent_dim <= best.latent_dim]
    if not fair:
        return []
    line = min(fair, key=lambda row: row.mse)
    if line.mse >= best.mse:
        return [f"{best.name} has {_less(best, line)} than {line.name}, a straight line."]
    all_beaten = len(found.runs) > 1 and all(line.mse < run.mse for run in found.runs)
    beaten = "every run" if all_beaten else "it"
    return [f"A straight line beats {beaten}: {line.name} has {_less(line, best)} than {best.name}."]


def _less(better: Row, worse: Row) -> str:
    """ "21 % less squared error"; a small difference stays one."""
    percent = 100 * (worse.mse - better.mse) / worse.mse if worse.mse else 0.0
    return f"{percent:.0f} % less squared error" if percent >= 10 else f"{percent:.2g} % less squared error"


def _factor(one: float, other: float) -> str:
    return f"{significant(one / other, 2)}x"
