"""The training task: what one step does, the learning rate over the run, what is logged and kept."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric

from edgevae.errors import EdgevaeError
from edgevae.files import write_json
from edgevae.preprocess import withhold

from . import checkpoint, models
from .linear_start import linear_start
from .losses import Likelihood, Loss, LossOptions, vae_loss
from .metrics import LatentFigures, Reconstruction
from .models import Output
from .runs import CHECKPOINTS, TESTED, RunOptions

Batch = dict[str, Tensor]


class TrainingError(EdgevaeError):
    """A run that cannot go on."""


def seed() -> int:
    """Of the run, as Lightning leaves it for every process."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


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
        start: of the weights: "random", or "linear" (rgbd-vae): as principal components of training frames,
            see ``training.linear_start``.
        start_frames: how many frames a linear start looks at.
        freeze_norm: BatchNorm keeps the statistics of a linear start. Those of a batch tell how much depth is
            missing from its other frames, and a network that measures cannot have its zero moved by that.
    """

    def __init__(
        self,
        model: str = "rgbd-vae",
        options: dict[str, Any] | None = None,
        loss: LossOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        start: str = "random",
        start_frames: int = 4096,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        if start not in ("random", "linear"):
            raise ValueError(f"start is {start!r}, wanted random or linear")
        if freeze_norm and start != "linear":
            raise ValueError("freeze_norm keeps statistics that start: random has not; set start: linear")
        self.start, self.start_frames, self.freeze_norm = start, start_frames, freeze_norm
        self.net = models.build(model, **(options or {}))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.likelihood = Likelihood(loss or LossOptions())
        self.optimizer = optimizer or OptimizerOptions()
        self.run = RunOptions()  # the command line's, where there is one
        self.scores = torch.nn.ModuleDict()  # of name: Reconstruction
        self.latents = LatentFigures()
        self.losses = torch.nn.ModuleDict({name: MeanMetric() for name in ("loss", "nll", "kl")})
        self.provenance: dict[str, Any] = {"metrics": {}}
        self._elapsed_s = 0.0  # of training, over all resumptions
        self._resumed = False
        self._tick_s: float | None = None

    # The run

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.optimizer.weight_decay else torch.optim.Adam
        return kind(
            self.parameters(), lr=self.optimizer.lr, weight_decay=self.optimizer.weight_decay, fused=True
        )

    def progress(self) -> float:
        """How much of the run lies behind, 0 to 1, by steps or by time, whichever is further."""
        steps = float(self.trainer.estimated_stepping_batches)
        done = self.trainer.global_step / steps if 0 < steps < math.inf else 0.0
        if self.optimizer.budget_min:
            done = max(done, self._elapsed_s / (60 * self.optimizer.budget_min))
        return min(1.0, done)

    def setup(self, stage: str) -> None:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        wanted, classes = self.net.condition_dim, datamodule.classes
        if wanted and wanted != len(classes):
            raise TrainingError(
                f"the model is conditioned on {wanted} classes, the data has {len(classes)}"
                f"{' (' + ', '.join(classes[:12]) + ')' if classes else ''}; set the model's number of "
                "classes to the data's, or take sets with labels."
            )

    def on_fit_start(self) -> None:
        """Begin with the weights asked for, unless a checkpoint has brought its own by now."""
        if self.start == "linear" and not self._resumed:
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            rank_zero_info(f"weights start as principal components of {self.start_frames} training frames")
            linear_start(self.net, datamodule.drawn(self.start_frames), self.start_frames)
            if self.trainer.world_size > 1:  # each process has seen frames of its own
                self.net.load_state_dict(self.trainer.strategy.broadcast(self.net.state_dict()))

    def train(self, mode: bool = True) -> VAETask:
        super().train(mode)
        for module in self.net.modules():
            if self.freeze_norm and isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        return self

    def on_train_start(self) -> None:
        self.train()  # Lightning takes modules as they were made
        self._tick_s = None
        size = self.net.input
        parameters = sum(p.numel() for p in self.net.parameters())
        rank_zero_info(
            f"{self.net.name}: {parameters / 1e6:.2f} million parameters, {size.channels}x{size.height}x"
            f"{size.width} to {self.net.latent_dim} numbers and back; the run goes to {self.run.folder}"
        )

    def on_train_epoch_start(self) -> None:
        # An epoch's noise follows from the seed and its number: a run that is resumed repeats the one that
        # was never stopped.
        words = (seed(), self.current_epoch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        self._elapsed_s += 0.0 if self._tick_s is None else now - self._tick_s
        self._tick_s = now
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.optimizer.lr * self.optimizer.factor(self.progress())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._loss(self.reconstruct(batch), batch, self.trainer.global_step)
        if not torch.isfinite(loss.total):
            raise self._lost(f"the loss is {loss.total.item()}", loss)
        self._last_loss = loss
        shown = {"train/loss": loss.total.detach()}
        if self.net.posterior:
            shown["train/kl"] = loss.kl
        self.log_dict(shown, prog_bar=True, on_step=False, on_epoch=True)
        rest = {f"train/sigma_{name}": sigma for name, sigma in loss.sigmas.items()}
        rest |= {"train/nll": loss.nll, "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        if self.net.posterior:
            rest["train/kl_weight"] = self.likelihood.options.kl.weight(self.trainer.global_step)
        self.log_dict(rest, on_step=False, on_epoch=True)
        return loss.total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a gradient that is no number reaches the weights; every process sees the same one."""
        if self.trainer.precision == "16-mixed":
            return  # its scaler skips such steps and goes on with a smaller scale
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise self._lost(f"the gradient's norm is {norm.item()}", self._last_loss)

    def _lost(self, what: str, loss: Loss) -> TrainingError:
        last = Path(self.run.folder) / CHECKPOINTS / "last.ckpt"
        kept = f"{last} is from before and whole; " if last.exists() else ""
        return TrainingError(
            f"{what} at step {self.trainer.global_step} (likelihood {loss.nll.item():.4g}, KL "
            f"{loss.kl.item():.4g}); {kept}lower --model.optimizer.lr or set --trainer.gradient_clip_val"
            f"{', and go on with --ckpt_path last' if kept else ''}."
        )

    def reconstruct(self, batch: Batch) -> Output:
        """The network's output for a batch, with its labels as condition where it takes one."""
        condition = None
        if self.net.condition_dim:
            condition = models.one_hot(batch["label"], self.net.condition_dim)
        out: Output = self.net(batch["input"].contiguous(memory_format=torch.channels_last), condition)
        return out

    def _loss(self, out: Output, batch: Batch, step: int | None) -> Loss:
        return vae_loss(self.likelihood, out, batch["target"], batch["valid"], batch["seen"], step)

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
        self._judge(self._score(batch, dataloader_idx), batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._judge(self._score(batch, dataloader_idx), batch)
        depth = self.net.input.depth
        if depth is not None:
            x, none = batch["input"].numpy(force=True), np.ones(batch["valid"].shape, np.bool_)
            blind = torch.from_numpy(withhold(x, none, self.net.input)).to(self.device)
            self._score(batch | {"input": blind}, len(self.scores) // 2 + dataloader_idx)

    def _judge(self, out: Output, batch: Batch) -> None:
        """The loss at the posterior mean, and what the latents carry."""
        loss = self._loss(out, batch, None)
        values = {"loss": loss.total, "nll": loss.nll}
        if out.std is not None:
            self.latents.update(out.mean, out.std)
            values["kl"] = loss.kl
        for name, value in values.items():
            cast(MeanMetric, self.losses[name]).update(value, weight=len(batch["input"]))

    def _score(self, batch: Batch, index: int) -> Output:
        out = self.reconstruct(batch)
        self._scores()[index].update(out.y, batch["target"], batch["valid"])
        return out

    def _scores(self) -> list[Reconstruction]:
        return cast(list[Reconstruction], list(self.scores.values()))

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        metrics = self._report("test")
        if self.trainer.is_global_zero:
            write_json(Path(self.run.folder) / TESTED, metrics)

    def _report(self, stage: str) -> dict[str, float]:
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
        for name in ("loss", "nll", *(("kl",) if self.net.posterior else ())):
            metric = cast(MeanMetric, self.losses[name])
            metrics[f"{stage}/{name}"] = float(metric.compute())
            metric.reset()
        if self.net.posterior:
            metrics[f"{stage}/active_units"] = float(self.latents.compute()["active_units"])
            self.latents.reset()
        self.log_dict(metrics)
        if not self.trainer.sanity_checking:
            self.provenance["metrics"] |= {
                key.replace("/", "_"): round(value, 6) for key, value in metrics.items()
            }
            epoch = f"epoch {self.trainer.current_epoch + 1}: " if stage == "val" else ""
            rank_zero_info(
                f"{epoch}{stage} loss {metrics[f'{stage}/loss']:.2f}, MSE per image {total / sum(images):.1f}"
            )
        return metrics

    # What a checkpoint holds beside the weights

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        provenance = (
            self.provenance
            | {
                "data": self.trainer.datamodule.provenance(),  # type: ignore[attr-defined]
                "command": "python -m training " + shlex.join(sys.argv[1:]),
                "seed": seed(),
                "created": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
                "epochs": self.trainer.current_epoch + 1,
                "training_minutes": round(self._elapsed_s / 60, 1),
            }
        )
        checkpoint_[checkpoint.KEY] = checkpoint.describe(self.net, provenance)
        checkpoint_[checkpoint.KEY]["elapsed_s"] = self._elapsed_s

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        self._elapsed_s = float(checkpoint_[checkpoint.KEY]["elapsed_s"])
        self._resumed = True
