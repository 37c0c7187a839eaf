"""A set of frames through a model and what stands beside it, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import edgevae
from edgevae.known import COLOR, DEPTH, GUESSED
from edgevae.preprocess import FloatArray, InputSpec, withhold

from ..baselines import Projection
from ..data.draws import Draws
from ..data.frames import Frames
from . import codecs
from .coverage import Covered, PixelCoverage, Posterior, of_latents
from .depth import GIVEN, HALF, NONE, hidden
from .score import Score

Bool = npt.NDArray[np.bool_]
BATCH = 32
MODEL, LINE, CODEC = "model", "line", "codec"  # kinds of rows, in their order


@dataclass(frozen=True)
class Packed:
    """How the numbers of a latent are stored; ``bytes`` of ``count`` numbers."""

    name: str
    bytes_each: int
    bytes_more: int = 0

    def bytes(self, count: int) -> int:
        return count * self.bytes_each + self.bytes_more

    def through(self, z: FloatArray) -> FloatArray:
        """Latents (N, latent_dim) after storing."""
        if self.bytes_each == 2:
            return z.astype(np.float16).astype(np.float32)
        if self.bytes_each == 1:
            scale = np.maximum(np.abs(z).max(axis=1, keepdims=True), 1e-12) / np.float32(127)
            return np.asarray(np.rint(z / scale) * scale, np.float32)
        return z


FLOAT32, FLOAT16 = Packed("float32", 4), Packed("float16", 2)
INT8 = Packed("int8", 1, 4)  # and one scale a frame
PACKED = (FLOAT32, FLOAT16, INT8)


class Key(NamedTuple):
    """What a row is of; see :class:`Line`."""

    kind: str
    name: str
    depth: str
    bytes: int
    packed: str = ""


@dataclass(frozen=True)
class Line:
    """One row of the table of a set.

    Attributes:
        kind: ``MODEL``, ``LINE`` (principal components, the mean image) or ``CODEC``.
        name: for people.
        depth: what the encoder was given of it; empty where nothing is withheld by design.
        bytes: of a frame's code.
        packed: how the model's latent is stored; empty of others.
        figures: by name; empty where a codec cannot make a frame so small.
        errors: squared error of each image.
    """

    kind: str
    name: str
    depth: str
    bytes: int
    packed: str
    figures: dict[str, float]
    errors: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """What a set gave.

    Attributes:
        name: of the set.
        frames: the frames themselves.
        depth: what was given of it, the most first.
        lines: the model's rows first.
        covered: how often claims held.
        novelty: percentile of each frame, (N,), where the model file can tell.
    """

    name: str
    frames: Frames
    depth: tuple[str, ...]
    lines: tuple[Line, ...]
    covered: tuple[Covered, ...]
    novelty: npt.NDArray[np.float32] | None


def batches(frames: Frames) -> Iterator[tuple[int, FloatArray, Bool]]:
    """The number of the first frame, targets (N, C, h, w) and validity (N, h, w), in order."""
    for first in range(0, len(frames), BATCH):
        items = np.arange(first, min(first + BATCH, len(frames)))
        batch = frames.batch(Draws(0, items, items))
        yield first, batch["target"].numpy(), batch["valid"].numpy()


def posterior(model: edgevae.Model, x: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """Mean and standard deviation of a batch in the network's range; no deviation without a posterior."""
    if model.spec.posterior is None:
        return model.encode_tensor(x), None
    return model.posterior_tensor(x)


def ways(frames: Frames, spec: InputSpec) -> tuple[str, ...]:
    """What can be given of the depth of some frames."""
    if spec.depth is None:
        return ("",)
    return (GIVEN, HALF, NONE) if frames.frames.depth is not None else (NONE,)


def judge(
    name: str,
    frames: Frames,
    model: edgevae.Model,
    lines: Sequence[Projection],
    with_codecs: bool,
) -> Judged:
    """Reconstruct every frame from its posterior mean, with all, half and none of its depth, and otherwise.

    Args:
        name: of the set.
        frames: packed for the model.
        model: in the native engine.
        lines: principal components and the mean image, in the model's encoding.
        with_codecs: whether picture codecs stand beside it.
    """
    spec, dim = model.spec.input, model.spec.latent_dim
    depths = ways(frames, spec)
    scores: dict[Key, Score] = {}
    posteriors: dict[str, list[Posterior]] = {how: [] for how in depths}
    pixels = None if model.errors is None else PixelCoverage(model.errors)
    latents: list[FloatArray] = []
    unfit: set[Key] = set()

    def score(key: Key, y: FloatArray, target: FloatArray, valid: Bool, missing: Bool) -> None:
        scores.setdefault(key, Score(spec)).update(y, target, valid, missing)

    for first, target, valid in batches(frames):
        nothing = np.zeros(valid.shape, np.bool_)
        for how in depths:
            missing = hidden(how, first, valid.shape) if spec.depth is not None else nothing
            x = withhold(target, missing, spec) if spec.depth is not None else target
            z, std = posterior(model, x)
            if std is not None:
                posteriors[how].append((z, std))
            for packed in PACKED if how == depths[0] else PACKED[:1]:
                y = model.decode_tensor(packed.through(z))
                key = Key(MODEL, model.spec.name, how, packed.bytes(dim), packed.name)
                score(key, y, target, valid, missing)
                if packed is FLOAT32 and pixels is not None:
                    _count(pixels, y, target, valid, missing, how, spec)
            if how == depths[0]:
                latents.append(z)
        for line in lines:
            y = projected(line, target)
            score(Key(LINE, line.name, depths[0], 4 * line.latent_dim), y, target, valid, nothing)
        if with_codecs:
            limits = [packed.bytes(dim) for packed in PACKED]
            for image, mask in zip(target, valid, strict=True):
                for (codec, limit), back in codecs.at_most(limits, image, mask, spec).items():
                    key = Key(CODEC, f"{codec} + PNG" if spec.depth is not None else codec, "", limit)
                    if back is None:
                        unfit.add(key)
                    elif key not in unfit:
                        score(key, back[None], image[None], mask[None], nothing[:1])
    rows = [
        Line(*key, each.figures(), np.array(each.errors)) for key, each in scores.items() if key not in unfit
    ]
    rows += [Line(*key, {}, np.zeros(0)) for key in unfit]
    covered = [] if pixels is None else pixels.covered()
    whole = {how: _joined(parts) for how, parts in posteriors.items() if parts}
    if GIVEN in whole:
        covered = of_latents(whole) + covered
    for row in rows:
        if row.kind == MODEL and row.packed == FLOAT32.name and row.depth in whole:
            row.figures["posterior_std"] = float(whole[row.depth][1].mean(dtype=np.float64))
    novelty = None
    if model.seen is not None:
        novelty = model.seen.scores(np.concatenate(latents), np.full(len(frames), depths[0] == GIVEN))
    rows.sort(key=_place)
    return Judged(name, frames, depths, tuple(rows), tuple(covered), novelty)


def reconstructed(
    model: edgevae.Model, frames: Frames, items: Sequence[int], how: str
) -> tuple[FloatArray, FloatArray, Bool]:
    """What single frames decode to, (N, C, h, w), with their targets and validity."""
    spec = model.spec.input
    found = []
    for item in items:
        one = frames[item]
        target, valid = one["target"].numpy()[None], one["valid"].numpy()[None]
        x = withhold(target, hidden(how, item, valid.shape), spec) if spec.depth is not None else target
        found.append((model.decode_tensor(model.encode_tensor(x)), target, valid))
    y, targets, valids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return y, targets, valids


def _count(
    pixels: PixelCoverage,
    y: FloatArray,
    target: FloatArray,
    valid: Bool,
    missing: Bool,
    how: str,
    spec: InputSpec,
) -> None:
    away = np.abs(y - target)
    if how in (GIVEN, ""):
        pixels.update(COLOR, away[:, : min(3, spec.channels)])
    if spec.depth is not None:
        if how == GIVEN:
            pixels.update(DEPTH, away[:, 3][valid & ~missing])
        else:
            pixels.update(GUESSED, away[:, 3][valid & missing])


def projected(line: Projection, target: FloatArray) -> FloatArray:
    """Frames (N, C, h, w) as principal components keep them."""
    x = torch.from_numpy(target)
    y: FloatArray = line.decode(line.posterior_of(x)[0]).numpy()
    return y


def _joined(parts: Sequence[Posterior]) -> Posterior:
    means, stds = zip(*parts, strict=True)
    return np.concatenate(means), np.concatenate(stds)


def _place(row: Line) -> tuple[int, int, str, int]:
    """The model with less and less depth and then in fewer bytes, lines, codecs by name and bytes."""
    packed = 0 if row.packed in ("", FLOAT32.name) else 1
    way = 0 if packed else ("", GIVEN, HALF, NONE).index(row.depth)
    return (
        (MODEL, LINE, CODEC).index(row.kind),
        packed,
        row.name if row.kind == CODEC else str(way),
        -row.bytes,
    )
