"""``python -m training fit|validate|test --config training/configs/NAME.yaml``: a Lightning command line."""

from __future__ import annotations

import sys

import lightning as L
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

from edgevae.errors import EdgevaeError

from .data import FramesDataModule
from .task import VAETask


class SaveRunConfig(SaveConfigCallback):
    """Keeps the whole config beside the logs of a fit; without logs there is no place that is ours."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; an error the user can mend ends in one sentence and exit code 2."""
    try:
        LightningCLI(
            VAETask,
            FramesDataModule,
            args=arguments,
            seed_everything_default=0,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "python -m training"},
        )
    except EdgevaeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
