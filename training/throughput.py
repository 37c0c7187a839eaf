"""``python -m training throughput --config ...``: does loading data hold up training?

Steps of a config's own model, precision and processes alternate between two sources of batches: the config's
loader, and one batch that stays in memory. Both go through the same run of the same trainer, in turns of some
steps each, so that whatever else the machine does meets both. What workers prepared while it was the other's
turn is used up before the clock starts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader, IterableDataset

from edgevae.errors import EdgevaeError

from .data import FramesDataModule
from .data.frames import Batch
from .task import VAETask


@dataclass(frozen=True)
class Throughput:
    """What was measured; a turn of each source makes a round.

    Attributes:
        batch_size: frames of a batch.
        loaded_s: seconds a step, with loading, of each round.
        in_memory_s: the same with the batch that stays in memory.
        made_s: seconds to make one batch in one process without training, the median.
    """

    batch_size: int
    loaded_s: list[float]
    in_memory_s: list[float]
    made_s: float

    @property
    def share(self) -> float:
        """Of the throughput without loading that is reached with it: the median over the rounds."""
        return statistics.median(m / s for m, s in zip(self.in_memory_s, self.loaded_s, strict=True))

    def __str__(self) -> str:
        shares = sorted(m / s for m, s in zip(self.in_memory_s, self.loaded_s, strict=True))
        step_s = statistics.median(self.in_memory_s)
        return (
            f"{self.share:.1%} of the throughput of a batch in memory (rounds: {shares[0]:.1%} to "
            f"{shares[-1]:.1%}): {self.batch_size / statistics.median(self.loaded_s):.0f} and "
            f"{self.batch_size / step_s:.0f} frames a second. A step takes {1e3 * step_s:.1f} ms, a batch of "
            f"{self.batch_size} is made in {1e3 * self.made_s:.2f} ms."
        )


class _Turns(IterableDataset[Batch]):
    """Batches of a loader and one in memory by turns, and how long the steps of each turn took."""

    def __init__(self, loader: DataLoader[Batch], rounds: int, steps: int) -> None:
        self.loader, self.rounds, self.steps = loader, rounds, steps
        self.unmeasured = 1 + loader.num_workers * (loader.prefetch_factor or 0)
        self.seconds: dict[str, list[float]] = {"loaded": [], "in memory": []}

    def __iter__(self) -> Iterator[Batch]:
        loaded = self._endless()
        held = {key: value.clone() for key, value in next(loaded).items()}
        sources = {"loaded": loaded, "in memory": itertools.repeat(held)}
        for number in range(self.rounds):
            for name in sorted(sources, reverse=number % 2 == 0):
                for _ in range(self.unmeasured):
                    yield next(sources[name])
                start = _now()
                for _ in range(self.steps):
                    yield next(sources[name])
                self.seconds[name].append((_now() - start) / self.steps)

    def _endless(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            self.loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            yield from self.loader


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(config: Path, *, rounds: int = 7, steps: int = 8) -> Throughput:
    """Train for ``rounds`` turns of ``steps`` steps of each source; nothing of it is kept.

    Raises:
        EdgevaeError: the config cannot be used, or its data is missing.
    """
    task, data, trainer = _made(config)
    data.prepare_data()
    turns: list[_Turns] = []

    def loader() -> DataLoader[Batch]:
        turns.append(_Turns(FramesDataModule.train_dataloader(data), rounds, steps))
        return DataLoader(turns[0], batch_size=None)

    data.train_dataloader = loader  # type: ignore[method-assign]
    trainer.fit(task, datamodule=data)
    own = turns[0].loader
    draws = list(itertools.islice(own.sampler, 20))
    times = []
    for each in draws:
        start = time.perf_counter()
        own.dataset[each]
        times.append(time.perf_counter() - start)
    seconds = turns[0].seconds
    return Throughput(data.batch_size, seconds["loaded"], seconds["in memory"], statistics.median(times))


def _made(config: Path) -> tuple[VAETask, FramesDataModule, L.Trainer]:
    """The model and data of a config, and a trainer of the same kind that keeps and prints nothing."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(VAETask, "model")
    parser.add_class_arguments(FramesDataModule, "data")
    try:
        document = yaml.safe_load(config.read_text())
        parts = parser.parse_object({key: document[key] for key in ("model", "data")})
        made = parser.instantiate_classes(parts)
    except EdgevaeError:
        raise
    except Exception as error:  # of the parser, of many kinds
        reason = " ".join(str(error).split())[:300]
        raise EdgevaeError(
            f"{config} cannot be used: {reason}; wanted a config as for 'python -m training fit'."
        ) from error
    settings: dict[str, Any] = document.get("trainer", {})
    kept = {
        key: settings[key] for key in ("accelerator", "precision", "gradient_clip_val") if key in settings
    }
    trainer = L.Trainer(
        **kept,
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return made.model, made.data, trainer


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m training throughput", description=__doc__)
    made.add_argument("--config", type=Path, required=True, help="of a run, as for fit")
    made.add_argument("--rounds", type=int, default=7, help="turns of each source of batches")
    made.add_argument("--steps", type=int, default=8, help="steps of a turn that are timed")
    made.add_argument("--at-least", type=float, default=0.0, help="exit with 1 below this share, as 0.95")
    return made


def main(arguments: Sequence[str]) -> int:
    """Measure and print.

    Raises:
        EdgevaeError: the config cannot be used, or its data is missing.
    """
    options = parser().parse_args(arguments)
    if min(options.rounds, options.steps) < 1:
        raise EdgevaeError("--rounds and --steps are counts, wanted 1 or more of each.")
    found = measure(options.config, rounds=options.rounds, steps=options.steps)
    print(found)
    return 0 if found.share >= options.at_least else 1
