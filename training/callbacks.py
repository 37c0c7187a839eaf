"""What a run does beside its steps, as its ``run:`` section says: folder, loggers, checkpoints, averaging."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from edgevae.files import ready_folder, write_whole

from .epoch_table import EpochTable
from .pictures import Pictures
from .runs import CHECKPOINTS, CONFIG, METRICS, TESTED, RunError, RunOptions


def loggers(options: RunOptions) -> list[Logger]:
    folder = Path(options.folder)
    return [
        EpochTable(folder / METRICS),
        TensorBoardLogger(save_dir=str(folder), name="tensorboard", version=""),
    ]


def callbacks(options: RunOptions) -> list[L.Callback]:
    folder = Path(options.folder)
    made: list[L.Callback] = []
    if options.average:
        made.append(EMAWeightAveraging(decay=options.average, update_every_n_steps=options.average_every))
    if options.pictures_every:
        made.append(Pictures(str(folder / "pictures"), options.pictures_every))
    kept = {"dirpath": folder / CHECKPOINTS, "enable_version_counter": False}
    made.append(ModelCheckpoint(filename="best", monitor=options.monitor, **kept))
    # Of its own: ``save_last`` writes the last one only where it is the best one, too.
    made.append(ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **kept))
    if options.keep_every:
        made.append(KeptCheckpoints(folder / CHECKPOINTS, options.keep_every))
    if options.early_stop:
        made.append(EarlyStopping(options.monitor, patience=options.early_stop))
    return made


class KeptCheckpoints(L.Callback):
    """``epoch-0010.ckpt`` after ten epochs and so on; never deleted."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        if epochs % self.every == 0 and not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"epoch-{epochs:04d}.ckpt", weights_only=False)


@rank_zero_only
def make_room(options: RunOptions) -> None:
    """Ready the folder of a new run.

    Raises:
        RunError: another run is there and may not be deleted.
        RecordError: the folder cannot be written.
    """
    folder = Path(options.folder)
    if (folder / CONFIG).exists():
        if not options.overwrite:
            raise RunError(
                f"{folder} holds a run; go on with it by --ckpt_path last, give another --run.folder, or "
                "delete it by --run.overwrite true."
            )
        for name in (CONFIG, METRICS, TESTED):
            (folder / name).unlink(missing_ok=True)
        for name in (CHECKPOINTS, "tensorboard", "pictures", "report"):
            shutil.rmtree(folder / name, ignore_errors=True)
    ready_folder(folder)


class SaveRunConfig(SaveConfigCallback):
    """Keeps the whole config in the run's folder once training begins."""

    def __init__(self, *args: Any, folder: str, **kwargs: Any) -> None:
        super().__init__(*args, save_to_log_dir=False, **kwargs)
        self.folder = Path(folder)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        write_whole(self.folder / CONFIG, text.encode())
