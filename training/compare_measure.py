"""What a comparison measures of one model: how well it reconstructs a held-out set, and how long it takes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import edgevae
from edgevae import export
from edgevae.bench.worker import RUN_UP_NS
from edgevae.errors import EdgevaeError
from edgevae.preprocess import FloatArray

from .baselines import Projection
from .losses import squared_error
from .metrics import LatentFigures, Reconstruction
from .models import VAE, one_hot

Batch = dict[str, Tensor]
Coder = VAE | Projection


@dataclass(frozen=True)
class Quality:
    """How well a model reconstructs a set.

    Attributes:
        figures: as ``training.metrics`` names them.
        errors: squared error of each image, (images,).
        fingerprint: the same for the same frames, in the same encoding and order.
    """

    figures: dict[str, float]
    errors: npt.NDArray[np.float64]
    fingerprint: str


def quality(coder: Coder, batches: Iterable[Batch]) -> Quality:
    """Reconstruct every frame from its posterior mean."""
    scores, latents = Reconstruction(coder.input), LatentFigures()
    errors = []
    # One for each, so that batches may be of any size.
    frames, masks = hashlib.sha256(repr(coder.input).encode()), hashlib.sha256()
    with torch.inference_mode():
        for batch in batches:
            condition = condition_of(coder, batch)
            mean, std = coder.posterior_of(batch["input"], condition)
            y, target, valid = coder.decode(mean, condition), batch["target"], batch["valid"]
            scores.update(y, target, valid)
            if std is not None:
                latents.update(mean, std)
            errors.append(squared_error(y, target, valid).double().numpy())
            frames.update(target.contiguous().numpy().data)
            masks.update(valid.contiguous().numpy().data)
    figures = scores.compute() | (latents.compute() if coder.posterior else {})
    return Quality(figures, np.concatenate(errors), frames.hexdigest() + masks.hexdigest())


def condition_of(coder: Coder, batch: Batch) -> Tensor | None:
    """The labels of a batch as a conditional model takes them: one-hot (N, condition_dim).

    Raises:
        EdgevaeError: a frame has no label.
    """
    if not coder.condition_dim:
        return None
    if (batch["label"] < 0).any():
        raise EdgevaeError(
            "the model is conditioned on classes, and a held-out frame has no class; restore the data it "
            "was trained on."
        )
    return one_hot(batch["label"], coder.condition_dim)


@dataclass(frozen=True)
class Native:
    """A model in the native engine with a frame to time it on: ``x`` (1, C, h, w), ``condition`` (1, k)."""

    model: edgevae.Model
    x: FloatArray
    condition: FloatArray | None

    def operations(self) -> tuple[Callable[[], object], Callable[[], object]]:
        """One call of encode, to the mean, and one of decode."""
        z = self.model.encode_tensor(self.x, self.condition)
        return (
            lambda: self.model.encode_tensor(self.x, self.condition),
            lambda: self.model.decode_tensor(z, self.condition),
        )


def native(coder: Coder, batch: Batch, path: Path, threads: int) -> Native:
    """Export a model to ``path``, with the exporter's parity check on frames of ``batch``, and load it.

    Raises:
        ExportError: the engine cannot run it, or gives other numbers.
    """
    export.to_native(coder, path, frames=batch["input"].numpy())
    condition = condition_of(coder, batch)
    return Native(
        edgevae.load(path, threads=threads),
        batch["input"][:1].numpy(),
        None if condition is None else condition[:1].numpy(),
    )


def timed(models: Mapping[int, Native], rounds: int) -> dict[int, npt.NDArray[np.float64]]:
    """Milliseconds of encode and decode, (2, rounds) for each of ``models``, which take turns.

    A turn is as in ``edgevae bench``: calls that do not count until the clock of the processor and its caches
    are as in a loop that runs, then one that does. A busy machine slows all of them alike.
    """
    calls = {(key, i): call for key, each in models.items() for i, call in enumerate(each.operations())}
    elapsed_ms = {key: np.empty((2, rounds)) for key in models}
    order = list(calls.items())
    for turn in range(rounds):
        for (key, operation), call in order:
            elapsed_ms[key][operation, turn] = _turn_ms(call)
        order.append(order.pop(0))  # nobody is always the one after the slow one
    return elapsed_ms


def _turn_ms(call: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    while time.perf_counter_ns() - begin < RUN_UP_NS:
        call()
    begin = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begin) / 1e6
