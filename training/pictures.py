"""A callback that shows held-out frames beside their reconstructions while a model trains."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from edgevae.errors import RecordError
from edgevae.pictures import DepthScale
from edgevae.preprocess import InputSpec

from .task import VAETask

Image = npt.NDArray[np.uint8]


class Pictures(L.Callback):
    """Writes one PNG for each held-out set, and the same to TensorBoard where it logs.

    Each column is a frame; the rows are colour, its reconstruction, depth, its reconstruction. Depth is
    coloured on one scale for each frame; black has no reading.

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
        items = [frames[int(i)] for i in chosen]
        shown = {key: torch.stack([item[key] for item in items]) for key in ("input", "target", "valid")}
        with torch.no_grad():
            y = pl_module.net(shown["input"].to(pl_module.device)).y
        picture = sheet(shown["target"], y.cpu(), shown["valid"], pl_module.net.input)
        self._write(self.folder / f"{name}-epoch-{epoch:04d}.png", picture)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")

    @staticmethod
    def _write(path: Path, picture: Image) -> None:
        import cv2

        path.parent.mkdir(parents=True, exist_ok=True)
        done, png = cv2.imencode(".png", picture[..., ::-1])
        if not done:
            raise RecordError(
                f"{path} cannot be written: the picture of {picture.shape} does not encode as PNG."
            )
        path.write_bytes(png.tobytes())


def sheet(target: Tensor, y: Tensor, valid: Tensor, spec: InputSpec) -> Image:
    """Pictures of a batch (N, C, h, w) over those of its reconstruction, uint8 (rows * h, N * w, 3)."""
    columns = []
    for want, got, mask in zip(target.numpy(), y.float().numpy(), valid.numpy(), strict=True):
        color = [
            ((image[: min(3, len(image))] + 1) * 127.5).clip(0, 255).astype(np.uint8) for image in (want, got)
        ]
        rows = [np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3)) for image in color]
        if spec.depth is not None:
            metres = [np.where(mask, spec.depth.to_metres(want[3]), np.nan), spec.depth.to_metres(got[3])]
            scale = DepthScale(0.0, 1.0, relative=True)
            if spec.depth.metric:
                scale = DepthScale.covering(metres[0].astype(np.float32))
            rows += [scale.colours(image.astype(np.float32)) for image in metres]
        columns.append(np.concatenate(rows))
    return np.concatenate(columns, axis=1)
