"""A run on disk: where ``fit`` puts what it makes, and how ``report`` and ``compare`` read it.

``FOLDER/config.yaml``: everything that was set. ``metrics.csv``: a row an epoch. ``checkpoints/``:
``best.ckpt``, ``last.ckpt`` and, every so many epochs, ``epoch-0010.ckpt``. ``test.json``: what ``test``
found last. ``tensorboard/``, ``pictures/``, ``report/``.
Epochs are counted from 1: row 10 and ``epoch-0010`` are what ten epochs gave.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from edgevae.errors import EdgevaeError
from edgevae.preprocess import InputSpec

from . import checkpoint, models
from .data import FramesDataModule

CONFIG, METRICS, TESTED, CHECKPOINTS = "config.yaml", "metrics.csv", "test.json", "checkpoints"
WANTED = "wanted the folder of a run of 'python -m training fit'"


class RunError(EdgevaeError):
    """A run that cannot be read, continued, or written."""


@dataclass
class RunOptions:
    """Where a run goes and what is kept of it.

    Attributes:
        folder: for everything the run makes.
        monitor: the metric whose smallest value makes ``best.ckpt``, and that ``early_stop`` watches.
        keep_every: epochs from one kept checkpoint to the next; 0 for none but the best and the last.
        early_stop: the run ends when ``monitor`` has not improved in so many validations; 0 for never.
        average: decay of an exponential moving average of the weights, which is what is validated and kept; 0
            for none.
        average_every: optimizer steps from one averaging to the next.
        pictures_every: epochs between pictures of held-out images beside their reconstructions; 0 for none.
        overwrite: a run in ``folder`` is deleted instead of refused.
    """

    folder: str = "runs/run"
    monitor: str = "val/mse_per_image"
    keep_every: int = 0
    early_stop: int = 0
    average: float = 0.0
    average_every: int = 1
    pictures_every: int = 10
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.average < 1:
            raise ValueError(f"run.average is {self.average}, wanted a decay from 0 to below 1")
        for name, least in (
            ("keep_every", 0),
            ("early_stop", 0),
            ("average_every", 1),
            ("pictures_every", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"run.{name} is {getattr(self, name)}, wanted {least} or more")


@dataclass(frozen=True)
class Run:
    """A run that was begun.

    Attributes:
        folder: of the run.
        config: all that was set, as in ``config.yaml``.
    """

    folder: Path
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def epochs(self) -> dict[int, Path]:
        """The kept checkpoints, by the epochs that lay behind, ascending."""
        found = {}
        for path in (self.folder / CHECKPOINTS).glob("epoch-*.ckpt"):
            if match := re.fullmatch(r"epoch-(\d+)", path.stem):
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    def checkpoint(self, which: str | int = "best") -> Path:
        """The file of the "best", the "last" or a kept checkpoint.

        Raises:
            RunError: the run has none by that name.
        """
        path = self.folder / CHECKPOINTS / f"{which}.ckpt"
        if not isinstance(which, str):
            path = self.epochs().get(which, self.folder / CHECKPOINTS / f"epoch-{which:04d}.ckpt")
        if not path.is_file():
            here = sorted(path.stem for path in (self.folder / CHECKPOINTS).glob("*.ckpt"))
            raise RunError(
                f"{path} does not exist; {self.folder} has "
                f"{'checkpoints ' + ', '.join(here) if here else 'no checkpoint, did its first epoch end?'}"
            )
        return path

    def net(self, which: str | int = "best") -> models.VAE:
        """The model of a checkpoint, in eval mode.

        Raises:
            RunError: the run has no such checkpoint.
            ModelFileError: it cannot be read.
        """
        return checkpoint.load(self.checkpoint(which))

    def metrics(self) -> list[dict[str, float]]:
        """What was measured, by epoch; a figure that an epoch lacks is absent.

        Raises:
            RunError: the table is missing or damaged.
        """
        path = self.folder / METRICS
        try:
            return read_table(path)
        except FileNotFoundError:
            raise RunError(f"{path} does not exist; the run has not finished an epoch.") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}); wanted numbers under names.") from None

    def datamodule(self, net: models.VAE) -> FramesDataModule:
        """The data of the run, set up for ``net``.

        Raises:
            RunError: the config describes no data.
            SourceError: the data is gone or has changed its shape.
        """
        return datamodule(self.config, self.folder / CONFIG, net.input)


def datamodule(config: dict[str, Any], path: Path, spec: InputSpec) -> FramesDataModule:
    """The data of a config, set up to be scored, packed for ``spec``.

    Args:
        config: of a run, or of ``python -m training fit``; all but its section ``data`` is ignored.
        path: of its file, for errors.
        spec: what the model takes.

    Raises:
        RunError: the config describes no data.
        SourceError: the data is gone or has changed its shape.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FramesDataModule, "data")
    try:
        made = parser.instantiate_classes(parser.parse_object({"data": config.get("data")}))
    except Exception as error:  # of the parser, of many kinds
        reason = " ".join(str(error).split())
        raise RunError(f"{path} describes no data set: {reason[:300]}") from None
    module: FramesDataModule = made.data
    module.spec = spec
    module.setup("test")
    return module


def open_run(folder: str | Path) -> Run:
    """The run in a folder.

    Raises:
        RunError: there is none.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not folder.is_dir():
        raise RunError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}; {WANTED}.")
    if not path.exists():
        raise RunError(f"{folder} holds no {CONFIG}; {WANTED}.")
    config = read_config(path, WANTED)
    if not isinstance(config, dict) or not {"model", "data"} <= set(config):
        raise RunError(f"{path} has no model and data; {WANTED}.")
    return Run(folder, config)


def read_config(path: Path, wanted: str) -> Any:
    """What a YAML file says.

    Raises:
        RunError: it cannot be read; ends in ``wanted``.
    """
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}); {wanted}.") from None


def read_table(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV file of numbers, without their empty cells."""
    with path.open(newline="") as file:
        return [
            {name: float(cell) for name, cell in row.items() if name and cell} for row in csv.DictReader(file)
        ]
