"""What a bench found: tables for people, plain types for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """One engine at one operation.

    Attributes:
        operation: "encode" (to the mean), "posterior" (mean and raw scale), "decode", or "pack WxH" (one
            camera frame to network input).
        engine: its name.
        median_ms, p99_ms: of one call with the whole batch.
        ratio: time of this engine by that of edgevae in the same round, median over the rounds: above 1 is
            slower than edgevae.
        error: largest difference from a float64 run: for "encode" and "posterior" of a latent, relative to
            its 2-norm, for "decode" absolute; for "pack" from edgevae. None without PyTorch.
        mean_error: for "decode", the mean absolute difference.
        cosine: for "encode" and "posterior", the smallest cosine between an answer and the float64 run's.
    """

    operation: str
    engine: str
    median_ms: float
    p99_ms: float
    ratio: float
    error: float | None = None
    mean_error: float | None = None
    cosine: float | None = None

    def accuracy(self, precision: str) -> str:
        """The error as the tables show it: for int8 the cosine of latents, and two errors of pictures."""
        if self.error is None:
            return "-"
        if precision != "int8" or self.operation.startswith("pack"):
            return f"{self.error:.1e}"
        if self.cosine is not None:
            return f"cosine {self.cosine:.5f}"
        return f"{self.error:.1e}, mean {self.mean_error:.1e}"


@dataclass(frozen=True)
class EngineFacts:
    """What an engine takes beside time.

    Attributes:
        engine, version: its name, and that of the package.
        startup_s: a new process, from its start to its first batch of latents, encoder and decoder loaded.
        peak_mb: resident memory of that process until then; None where the system does not tell.
        weights_mb: the files with the weights of the encoder (with its raw scales) and the decoder.
    """

    engine: str
    version: str
    startup_s: float
    peak_mb: float | None
    weights_mb: float


@dataclass(frozen=True)
class Setting:
    """What figures were taken with."""

    model: str
    path: str
    sha256: str
    processor: str
    isa: str
    precision: str
    threads: int
    batch: int
    rounds: int

    def title(self) -> str:
        """One line."""
        plural = "s" if self.threads > 1 else ""
        return (
            f"{self.model} ({self.path}), {self.precision}, {self.threads} thread{plural}, "
            f"batch {self.batch}, {self.rounds} rounds, {self.isa} on {self.processor}"
        )


@dataclass(frozen=True)
class BenchReport(Setting):
    """All timings. ``note`` says what was left out, and why."""

    note: str
    timings: tuple[Timing, ...]
    engines: tuple[EngineFacts, ...]

    def document(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        rows = {
            "timings": [asdict(timing) for timing in self.timings],
            "engines": [asdict(facts) for facts in self.engines],
        }
        return asdict(self) | rows

    @staticmethod
    def from_document(document: dict[str, Any]) -> BenchReport:
        """What :meth:`document` gave.

        Raises:
            TypeError, KeyError: it is something else.
        """
        rows = {
            "timings": tuple(Timing(**timing) for timing in document["timings"]),
            "engines": tuple(EngineFacts(**facts) for facts in document["engines"]),
        }
        return BenchReport(**(document | rows))

    def rows(self) -> list[list[str]]:
        """The table of timings as text, its head first."""
        rows = [["operation", "engine", "median ms", "p99 ms", "x edgevae", "error"]]
        for timing in self.timings:
            times = (f"{timing.median_ms:.3f}", f"{timing.p99_ms:.3f}", f"{timing.ratio:.2f}")
            rows.append([timing.operation, timing.engine, *times, timing.accuracy(self.precision)])
        return rows

    def engine_rows(self) -> list[list[str]]:
        """The table of engines as text, its head first."""
        rows = [["engine", "version", "start-up s", "peak MB", "weights MB"]]
        for facts in self.engines:
            peak = "-" if facts.peak_mb is None else f"{facts.peak_mb:.0f}"
            weights = f"{facts.weights_mb:.1f}" if facts.weights_mb >= 1 else f"{facts.weights_mb:.3f}"
            rows.append([facts.engine, facts.version, f"{facts.startup_s:.2f}", peak, weights])
        return rows

    def __str__(self) -> str:
        parts = [self.title(), aligned(self.rows()), "", aligned(self.engine_rows())]
        return "\n".join([*parts, self.note] if self.note else parts)

    def markdown(self) -> str:
        """Both tables in Markdown."""
        parts = [f"{self.title()}\n", table(self.rows()), "", table(self.engine_rows())]
        return "\n".join([*parts, "", self.note, ""] if self.note else [*parts, ""])


def table(rows: list[list[str]]) -> str:
    """A table in Markdown; ``rows`` begins with the head."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def aligned(rows: list[list[str]], names: int = 2) -> str:
    """A table for a terminal: ``names`` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
