"""The training task: what one step does, the learning rate over the run, what is logged and kept."""

from __future__ import annotations

import math
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from edgevae.errors import EdgevaeError

from . import checkpoint, models
from .losses import LossOptions, vae_loss
from .metrics import Reconstruction

Batch = dict[str, Tensor]


class TrainingError(EdgevaeError):
    """A run that cannot go on."""


@dataclass
class OptimizerOptions:
    """AdamW (Adam without weight decay) and the learning rate over the run.

    Attributes:
        lr: the highest learning rate.
        weight_decay: of AdamW.
        schedule: "constant", or "cosine": linear rise during ``warmup`` of the run, then a cosine down to
            zero.
        warmup: part of the run, 0 to 1.
        budget_min: the run ends after so many minutes of training, if its epochs have not ended before, and
            the schedule follows whichever comes first; 0 for no bound. Minutes of a run that is resumed add
            up.
    """

    lr: float = 1e-4
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.02
    budget_min: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is {self.schedule!r}, wanted constant or cosine")

    def factor(self, progress: float) -> float:
        """What ``lr`` is multiplied by at ``progress`` (0 to 1) of the run."""
        if self.schedule == "constant":
            return 1.0
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        t = min(1.0, (progress - self.warmup) / max(1e-9, 1 - self.warmup))
        return 0.5 * (1 + math.cos(math.pi * t))


class VAETask(L.LightningModule):
    """Trains a model of the registry on frames.

    Args:
        model: its name in the registry.
        options: its options, as for ``training.models.build``.
        loss: likelihood and KL weight.
        optimizer: learning rate and schedule.
    """

    def __init__(
        self,
        model: str = "rgbd-vae",
        options: dict[str, Any] | None = None,
        loss: LossOptions | None = None,
        optimizer: OptimizerOptions | None = None,
    ) -> None:
        super().__init__()
        self.net = models.build(model, **(options or {}))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss, self.optimizer = loss or LossOptions(), optimizer or OptimizerOptions()
        self.scores = torch.nn.ModuleDict()  # of name: Reconstruction
        self.provenance: dict[str, Any] = {"metrics": {}}
        self._elapsed_s = 0.0  # of training, over all resumptions
        self._tick_s: float | None = None

    # The run

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.optimizer.weight_decay else torch.optim.Adam
        return kind(
            self.net.parameters(),
            lr=self.optimizer.lr,
            weight_decay=self.optimizer.weight_decay,
            fused=True,
        )

    def progress(self) -> float:
        """How much of the run lies behind, 0 to 1, by steps or by time, whichever is further."""
        steps = float(self.trainer.estimated_stepping_batches)
        done = self.trainer.global_step / steps if 0 < steps < math.inf else 0.0
        if self.optimizer.budget_min:
            done = max(done, self._elapsed_s / (60 * self.optimizer.budget_min))
        return min(1.0, done)

    def on_train_start(self) -> None:
        self._tick_s = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        self._elapsed_s += 0.0 if self._tick_s is None else now - self._tick_s
        self._tick_s = now
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.optimizer.lr * self.optimizer.factor(self.progress())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = batch["input"].contiguous(memory_format=torch.channels_last)
        out = self.net(x)
        loss = vae_loss(
            out.y,
            out.mean,
            out.std,
            batch["target"],
            batch["valid"],
            batch["seen"],
            self.loss,
            self.trainer.global_step,
        )
        if not torch.isfinite(loss.total):
            raise TrainingError(
                f"the loss is {loss.total.item()} at step {self.trainer.global_step} (likelihood "
                f"{loss.nll.item():.4g}, KL {loss.kl.item():.4g}); lower --model.optimizer.lr and resume "
                "with --ckpt_path last."
            )
        sigmas = dict(zip(("color", "depth", "guessed"), loss.sigmas.tolist(), strict=True))
        self.log("train/loss", loss.total.detach(), prog_bar=True, on_step=False, on_epoch=True)
        self.log("train/kl", loss.kl, prog_bar=True, on_step=False, on_epoch=True)
        self.log("train/nll", loss.nll, on_step=False, on_epoch=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=False, on_epoch=True)
        for name, sigma in sigmas.items():
            if math.isfinite(sigma):
                self.log(f"train/sigma_{name}", sigma, on_step=False, on_epoch=True)
        return loss.total

    def on_train_epoch_end(self) -> None:
        if self.optimizer.budget_min and self.progress() >= 1.0:
            self.trainer.should_stop = True

    # Validation and test: decode the posterior mean

    def on_validation_start(self) -> None:
        self._keep_scores(self.trainer.datamodule.names)  # type: ignore[attr-defined]

    def on_test_start(self) -> None:
        names = self.trainer.datamodule.names  # type: ignore[attr-defined]
        self._keep_scores([*names, *(f"{name}-rgb-only" for name in names)] if self._has_depth() else names)

    def _keep_scores(self, names: list[str]) -> None:
        if list(self.scores) != names:
            self.scores = torch.nn.ModuleDict({name: Reconstruction(self.net.input) for name in names})
            self.scores.to(self.device)

    def _has_depth(self) -> bool:
        return self.net.input.depth is not None

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._score(batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._score(batch, dataloader_idx)
        depth = self.net.input.depth
        if depth is not None:
            x = batch["input"].clone()
            x[:, 3] = depth.no_reading
            self._score(batch | {"input": x}, len(self.scores) // 2 + dataloader_idx)

    def _score(self, batch: Batch, index: int) -> None:
        y = self.net(batch["input"].contiguous(memory_format=torch.channels_last)).y
        self._scores()[index].update(y, batch["target"], batch["valid"])

    def _scores(self) -> list[Reconstruction]:
        return cast(list[Reconstruction], list(self.scores.values()))

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, stage: str) -> None:
        """Figures of each set, and ``stage/mse_per_image``: their mean over all images with depth."""
        metrics: dict[str, float] = {}
        images = self.trainer.datamodule.held_images  # type: ignore[attr-defined]
        total = 0.0
        for i, (name, score) in enumerate(zip(self.scores, self._scores(), strict=True)):
            figures = score.compute()
            score.reset()
            metrics |= {f"{stage}/{name}/{figure}": value for figure, value in figures.items()}
            if i < len(images):
                total += images[i] * figures["mse_per_image"]
        metrics[f"{stage}/mse_per_image"] = total / sum(images)
        self.log_dict(metrics)
        if not self.trainer.sanity_checking:
            self.provenance["metrics"] |= {
                key.replace("/", "_"): round(value, 6) for key, value in metrics.items()
            }
            rank_zero_info(
                f"epoch {self.trainer.current_epoch}: {stage} MSE per image {total / sum(images):.1f}"
            )

    # What a checkpoint holds beside the weights

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        provenance = (
            self.provenance
            | {
                "data": self.trainer.datamodule.provenance(),  # type: ignore[attr-defined]
                "command": "python -m training " + shlex.join(sys.argv[1:]),
                "seed": int(torch.initial_seed()),
                "created": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
                "epochs": self.trainer.current_epoch + 1,
                "training_minutes": round(self._elapsed_s / 60, 1),
            }
        )
        checkpoint_[checkpoint.KEY] = checkpoint.describe(self.net, provenance)
        checkpoint_[checkpoint.KEY]["elapsed_s"] = self._elapsed_s

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        self._elapsed_s = float(checkpoint_[checkpoint.KEY]["elapsed_s"])
