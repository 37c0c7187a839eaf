"""``python -m training COMMAND``: runs by Lightning's command line, and what is made of them."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from edgevae.ending import Ended, ending_on_signals
from edgevae.errors import EdgevaeError

from . import callbacks
from .data import FramesDataModule
from .runs import CHECKPOINTS, RunOptions
from .task import VAETask

# What is not Lightning's: the module of that name has ``main``.
OTHERS = {
    "report": "curves, pictures and latents of a run as PNG files and one page",
    "evaluate": "a model on frames: figures, pictures, and whether it knows what it does not know",
    "calibrate": "write into a model file how far off it is and what it has seen",
    "card": "write into a model file what it is for, and figures measured of it",
    "compare": "runs beside each other, and beside principal components",
    "throughput": "does loading data hold up training?",
}
USAGE = f"""usage: python -m training COMMAND ...

  fit         train what a config describes: fit --config training/configs/NAME.yaml
  test        score a checkpoint: test --config CONFIG --ckpt_path CHECKPOINT
{"".join(f"  {name:<12}{about}{chr(10)}" for name, about in OTHERS.items())}
COMMAND --help says more."""


class TrainingCLI(LightningCLI):
    """Lightning's command line with a ``run:`` section in place of lists of loggers and callbacks."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunOptions, "run")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self.config_init[self.subcommand]
        options, trainer = config.run, config.trainer
        self.model.run = options
        # A trial of a few batches keeps nothing.
        if self.subcommand == "fit" and not trainer.fast_dev_run:
            if config.ckpt_path is None:
                callbacks.make_room(options)
            self.save_config_callback = callbacks.SaveRunConfig
            self.save_config_kwargs = {"folder": options.folder}
            trainer.callbacks = [*(trainer.callbacks or ()), *callbacks.callbacks(options)]
            own = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
            trainer.logger = callbacks.loggers(options) + [each for each in own if isinstance(each, Logger)]
        else:
            self.save_config_callback = None
            trainer.logger = False
        return super().instantiate_trainer(**kwargs)

    def fit(self, **arguments: Any) -> None:
        try:
            self.trainer.fit(**arguments)
        except Ended as end:
            last = Path(self.model.run.folder) / CHECKPOINTS / "last.ckpt"
            if last.exists():
                end.args = (f"{str(end).rstrip('.')}; {last} is whole, go on with --ckpt_path last.",)
            raise


def _quiet(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is about the run, not about products or devices nobody asked for."""
    told = record.getMessage()
    return not told.startswith(("\N{ELECTRIC LIGHT BULB}", "GPU available", "TPU available"))


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; an error the user can mend ends in one sentence and exit code 2."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_quiet)
    warnings.simplefilter("ignore", PossibleUserWarning)  # more workers than the config says
    warnings.filterwarnings("ignore", "`isinstance\\(treespec")  # Lightning's own use of torch
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    try:
        if words[0] in OTHERS:
            return int(importlib.import_module(f".{words[0]}", __package__).main(words[1:]))
        TrainingCLI(
            VAETask,
            FramesDataModule,
            args=arguments,
            seed_everything_default=0,
            trainer_defaults={"enable_model_summary": False},
            parser_kwargs={"prog": "python -m training"},
        )
    except EdgevaeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def process() -> int:
    """Run the command that the process was started with; a signal ends it with one sentence."""
    try:
        with ending_on_signals():
            return main()
    except Ended as end:
        print(end, file=sys.stderr)
        return end.exit_code


if __name__ == "__main__":
    sys.exit(process())
