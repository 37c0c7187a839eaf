"""The logger behind ``metrics.csv``: one row an epoch, whatever is logged when, and none lost on resuming."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from edgevae.files import replacing

from .runs import read_table


class EpochTable(Logger):
    """Keeps ``path`` complete: the file is replaced as a whole whenever an epoch has new figures.

    A run that is resumed goes on in the same table; epochs it repeats are written anew, and those beyond its
    first one are dropped.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: dict[int, dict[str, float]] | None = None

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config is kept beside the table."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        figures = {name: float(value) for name, value in metrics.items() if "/" in name}
        if "epoch" not in metrics or not figures:
            return
        epoch = int(metrics["epoch"]) + 1
        if self._rows is None:
            before = read_table(self.path) if self.path.exists() else []
            self._rows = {int(row["epoch"]): row for row in before if row["epoch"] < epoch}
        row = self._rows.setdefault(epoch, {"epoch": epoch})
        if step is not None:
            row["step"] = step + 1
        row.update(figures)
        self._write()

    def _write(self) -> None:
        assert self._rows is not None
        columns = sorted({name for row in self._rows.values() for name in row} - {"epoch", "step"})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            table = csv.DictWriter(file, ["epoch", "step", *columns])
            table.writeheader()
            for row in self._rows.values():
                table.writerow({name: f"{value:.9g}" for name, value in row.items()})
