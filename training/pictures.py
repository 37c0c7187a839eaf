"""A callback that shows held-out frames beside their reconstructions while a model trains."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import default_collate

from edgevae.files import ready_folder, write_whole
from edgevae.pictures import png

from .figures.sheets import sheet
from .task import VAETask


class Pictures(L.Callback):
    """Writes one PNG for each held-out set, and the same to TensorBoard where it logs.

    ``figures.sheets.sheet`` says what is on it.

    Args:
        folder: where the PNG files go, as ``SET-epoch-NNNN.png``.
        every_n_epochs: how often.
        columns: frames of each set, spread evenly over it.
    """

    def __init__(self, folder: str, every_n_epochs: int = 10, columns: int = 8) -> None:
        self.folder, self.every_n_epochs, self.columns = Path(folder), every_n_epochs, columns
        self._epoch = -1

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: VAETask,
        outputs: object,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Inside validation the module holds the averaged weights, where the run keeps such.
        epoch = trainer.current_epoch + 1
        due = self._epoch in (-1, epoch) or epoch - self._epoch >= self.every_n_epochs
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero or not due:
            return
        self._epoch = epoch
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        name, frames = datamodule.names[dataloader_idx], datamodule.val_dataloader()[dataloader_idx].dataset
        chosen = np.unique(np.linspace(0, len(frames) - 1, self.columns).astype(int))
        shown = default_collate([frames[int(i)] for i in chosen])
        with torch.no_grad():
            y = pl_module.reconstruct({key: value.to(pl_module.device) for key, value in shown.items()}).y
        picture = sheet(
            shown["target"].numpy(), y.float().cpu().numpy(), shown["valid"].numpy(), pl_module.net.input
        )
        ready_folder(self.folder)
        write_whole(self.folder / f"{name}-epoch-{epoch:04d}.png", png(picture))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")
