"""``python -m training calibrate MODEL --sets CONFIG -o FILE``: a model file that knows its limits.

Means and pictures stay what they are, but for rounding. Frames held out from training say how far off
decoded pixels are; latents of training frames, kept in the file, say what is new, and other frames of the
same recordings how far from them is usual; and the posterior's deviation is fitted to how far latents move
as depth goes away.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgevae
from edgevae import model_file
from edgevae.cards import unmeasured
from edgevae.errors import EdgevaeError
from edgevae.files import check_outputs
from edgevae.known import PERCENTS, directions, nearest
from edgevae.preprocess import FloatArray, InputSpec, withhold

from .certainty import fit_scale
from .data import FramesDataModule
from .data.frames import Frames
from .evaluate.depth import GIVEN, HALF, NONE, hidden
from .evaluate.judging import batches, ways
from .evaluate.opened import opened, sets_of

LATENTS = 512  # of training frames: 0.4 MB of float16 for 400 numbers each
SAMPLED = 4096  # pixels of a frame and channel


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(
        prog="python -m training calibrate",
        description="Write a model file with what the model knows of its limits: percentiles of its errors "
        "on held-out frames (Model.depth_bounds), and latents of training frames (Model.novelty).",
    )
    made.add_argument(
        "model", type=Path, metavar="MODEL", help="a model file that is not int8, or a checkpoint"
    )
    made.add_argument(
        "--sets", type=Path, metavar="CONFIG", required=True, help="the config that it was trained with"
    )
    made.add_argument(
        "--single",
        action="append",
        default=[],
        metavar="NAME",
        help="a set of single pictures: its frames say nothing of what another frame of the same place looks "
        "like; sets with split_by: frame are known to be such",
    )
    made.add_argument(
        "--latents", type=int, default=LATENTS, metavar="N", help=f"how many to keep ({LATENTS})"
    )
    made.add_argument("--threads", type=int, help="of the native engine (one a core)")
    made.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
    made.add_argument("--overwrite", action="store_true", help="replace FILE")
    return made


def main(arguments: Sequence[str]) -> int:
    """Calibrate and write.

    Raises:
        EdgevaeError: the model or the data cannot be read, or the file not written.
    """
    options = parser().parse_args(arguments)
    if options.latents < 1:
        raise EdgevaeError(f"got --latents {options.latents}, wanted 1 or more.")
    check_outputs(options.output, overwrite=options.overwrite, read=[options.model])
    with opened(options.model, options.threads) as found:
        document, tensors, _ = model_file.read(found.model.spec.path)
        if document["precision"] == "int8":
            raise EdgevaeError(
                f"{options.model} is an int8 file; calibrate the float file and quantize that, which keeps "
                "what it knows."
            )
        data = sets_of(options.sets, found.model.spec.input)
        said = calibrate(document, tensors, found.model, data, options.single, options.latents, _say)
        model_file.write(options.output, document, tensors)
    _say(f"{options.output}: {said}, {options.output.stat().st_size / 1e6:.2f} MB")
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def calibrate(
    document: dict[str, Any],
    tensors: dict[str, npt.NDArray[Any]],
    model: edgevae.Model,
    data: FramesDataModule,
    single: Collection[str] = (),
    latents: int = LATENTS,
    say: Callable[[str], None] = lambda words: None,
) -> str:
    """Put into a model file's document and tensors what the model knows; say what it was taken from.

    Args:
        document, tensors: of the file; what it knew before is replaced.
        model: the same, in the native engine.
        data: that it was trained on, set up for it.
        single: names of sets of single pictures.
        latents: how many to keep.
        say: is told what is going on, a line at a time.

    Raises:
        EdgevaeError: no set is a recording.
    """
    for name in model_file.known_tensors(document):
        del tensors[name]
    document["provenance"] = unmeasured(document["provenance"])
    fitted = fit_scale(document, tensors, data, say)
    say(f"errors on {sum(data.held_images)} held-out frames of {', '.join(data.names)}")
    tensors["errors"] = error_percentiles(model, [data.held(name) for name in data.names])
    document["errors"] = "errors"
    trained = [data.trained(name) for name in dict.fromkeys(str(each["name"]) for each in data.provenance())]
    say(f"latents of {sum(map(len, trained))} training frames")
    kept, percentiles, others = familiar(model, trained, single, latents)
    tensors["novelty.latents"], tensors["novelty.percentiles"] = kept, percentiles
    document["novelty"] = {"latents": "novelty.latents", "percentiles": "novelty.percentiles"}
    document["provenance"]["calibrated"] = {
        "held_out": dict(zip(data.names, data.held_images, strict=True)),
        "latents": len(kept),
        "recorded": others,
        "deviation": fitted,
    }
    return f"errors of {sum(data.held_images)} held-out frames, {len(kept)} latents, distances of {others}"


def error_percentiles(model: edgevae.Model, sets: Sequence[Frames]) -> FloatArray:
    """Percentiles of absolute errors in the network's range: rows (3, 101), or (1, 101) without depth.

    Every frame counts alike, by as many of its pixels drawn at random. Depth that is guessed comes from
    frames with half of theirs withheld and with all of it.
    """
    spec = model.spec.input
    rng = np.random.default_rng(0)
    kept: list[list[FloatArray]] = [[] for _ in range(1 if spec.depth is None else 3)]

    def keep(row: int, errors: FloatArray) -> None:
        if errors.size:
            kept[row].append(errors[rng.integers(errors.size, size=SAMPLED)])

    for frames in sets:
        for first, target, valid in batches(frames):
            for how in ways(frames, spec):
                missing = hidden(how, first, valid.shape)
                x = target if spec.depth is None else withhold(target, missing, spec)
                away = np.abs(model.decode_tensor(model.encode_tensor(x)) - target)
                for error, mask, withheld in zip(away, valid, missing, strict=True):
                    if how in (GIVEN, ""):
                        keep(0, error[: min(3, spec.channels)].ravel())
                    if how == GIVEN:
                        keep(1, error[3][mask])
                    elif how in (HALF, NONE):
                        keep(2, error[3][mask & withheld])
    if not all(kept):
        raise EdgevaeError(
            "the held-out frames have no depth; wanted some to tell how far off it is decoded."
        )
    rows = [np.percentile(np.concatenate(row), PERCENTS) for row in kept]
    return np.maximum.accumulate(np.array(rows), axis=1).astype(np.float32)


def familiar(
    model: edgevae.Model, sets: Sequence[Frames], single: Collection[str], count: int
) -> tuple[FloatArray, FloatArray, int]:
    """Latents to keep, percentiles of the distance to them, and from how many frames these are.

    Kept is every other frame at most, evenly over all of them. Distances are those of the frames that are not
    kept, of recordings alone: another frame of a place that was seen. Single pictures of many places would
    say that a place is as far from what was seen as one that was not.
    """
    means = [_latents(model, frames) for frames in sets]
    total = sum(map(len, sets))
    every = np.zeros(total, np.bool_)
    every[np.linspace(0, total - 1, min(count, -(-total // 2))).round().astype(int)] = True
    kept, others = [], []
    for frames, found in zip(sets, means, strict=True):
        chosen, every = every[: len(frames)], every[len(frames) :]
        kept.append(found[0][chosen])
        options = frames.frames.options
        if options.split_by == "scene" and options.name not in single:
            others.append([z[~chosen] for z in found])
    if not sum(len(part[0]) for part in others):
        raise EdgevaeError(
            "no set with two frames is a recording; wanted one, to tell how unlike frames of a place that "
            "was seen are (split_by: frame and --single say which sets are none)."
        )
    reference = np.concatenate(kept)
    rows = []
    for parts in zip(*others, strict=True):
        away = nearest(directions(np.concatenate(parts)), directions(reference))
        rows.append(np.maximum.accumulate(np.percentile(away, PERCENTS)))
    return reference, np.array(rows, np.float32), sum(len(part[0]) for part in others)


def _latents(model: edgevae.Model, frames: Frames) -> list[FloatArray]:
    """Posterior means with depth and without, or one array of a model that takes none."""
    spec: InputSpec = model.spec.input
    found: list[list[FloatArray]] = [[] for _ in range(1 if spec.depth is None else 2)]
    for _, target, valid in batches(frames):
        found[0].append(model.encode_tensor(target))
        if spec.depth is not None:
            found[1].append(model.encode_tensor(withhold(target, np.ones_like(valid), spec)))
    return [np.concatenate(parts) for parts in found]
