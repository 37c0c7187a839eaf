"""``python -m training evaluate MODEL SOURCE ...``: what a model keeps of frames, and whether it knows.

``opened`` is what is judged and on what, ``depth`` what the encoder is given, ``judging`` the pass over a
set, ``score`` its figures, ``codecs`` and ``training.baselines`` what stands beside the model, ``coverage``
the check of its certainty, ``table`` and ``page`` what is shown. Everything runs in the native engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import edgevae
from edgevae.errors import EdgevaeError
from edgevae.files import ready_folder, refuse_existing, write_json, write_whole

from ..baselines import Projection, fit
from ..compare import training_sample
from ..data import FramesDataModule
from ..data.frames import Frames
from ..runs import datamodule
from .judging import Judged, judge
from .opened import Opened, frames_of, opened, sets_of
from .page import frames_of as pictured
from .page import whole
from .table import LEGEND, document, text

NAME = "evaluation"  # of the folder, and of the files in it
CACHE = Path.home() / ".cache" / "edgevae" / "frames"


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(
        prog="python -m training evaluate",
        description="How well a model reconstructs frames with all their depth, half of it and none, beside "
        "principal components and picture codecs, and whether it knows what it does not know.",
    )
    made.add_argument(
        "model", type=Path, metavar="MODEL", help="a model file, a checkpoint, or the folder of a run"
    )
    made.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="what edgevae stream --camera reads to an end, or pairs:DIR, images:DIR, nyu_mat:FILE",
    )
    made.add_argument(
        "--sets",
        type=Path,
        metavar="CONFIG",
        help="a training config, whose held-out frames are judged, too, and whose training frames principal "
        "components are fitted to; of a run its own by default",
    )
    made.add_argument(
        "--frames", type=_natural, default=0, metavar="N", help="of each SOURCE at most; 0 for all (0)"
    )
    made.add_argument(
        "--stride", type=_positive, default=1, metavar="N", help="every N-th frame of each SOURCE (1)"
    )
    made.add_argument("--no-codecs", action="store_true", help="leave JPEG, WebP and PNG out")
    made.add_argument("--threads", type=_positive, help="of the native engine (one a core)")
    made.add_argument(
        "--cache-dir", type=Path, default=CACHE, metavar="DIR", help="for decoded frames of SOURCE"
    )
    made.add_argument(
        "-o", "--output", type=Path, default=Path(NAME), metavar="FOLDER", help=f"for the files ({NAME})"
    )
    made.add_argument("--overwrite", action="store_true", help="replace an evaluation that is in FOLDER")
    return made


def main(arguments: Sequence[str]) -> int:
    """Evaluate, print, write.

    Raises:
        EdgevaeError: the model or the frames cannot be read, or the files not written.
    """
    options = parser().parse_args(arguments)
    page_path, json_path = (options.output / f"{NAME}.{suffix}" for suffix in ("html", "json"))
    for path in (page_path, json_path):
        refuse_existing(path, overwrite=options.overwrite)
    ready_folder(options.output)

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    with opened(options.model, options.threads) as found:
        data = _data(found, options.sets)
        sets = {} if data is None else {name: data.held(name) for name in data.names}
        spec = found.model.spec.input
        sets |= frames_of(
            options.sources, spec, options.cache_dir, options.frames, options.stride, taken=list(sets)
        )
        if not sets:
            raise EdgevaeError(f"{options.model} comes with no frames; wanted a SOURCE or --sets CONFIG.")
        judged, notes, line = evaluate(found.model, sets, data, not options.no_codecs, say)
        print("\n\n".join([*map(text, judged), *notes, LEGEND]))
        pictures = [pictured(each, found.model, line) for each in judged]
        about = {
            "model": found.model.spec.name,
            "path": str(options.model),
            "sha256": found.model.spec.sha256,
            "notes": notes,
            "sets": [document(each) for each in judged],
        }
        content = whole(found.model, str(options.model), judged, pictures, notes)
    written = [options.output / f"{NAME}-{number}.png" for number in range(len(pictures))]
    for path, (light, _, _) in zip(written, pictures, strict=True):
        write_whole(path, light)
    write_json(json_path, about)
    write_whole(page_path, content.encode())
    say(f"wrote {', '.join(map(str, (*written, json_path, page_path)))}")
    return 0


def evaluate(
    model: edgevae.Model,
    sets: dict[str, Frames],
    data: FramesDataModule | None,
    with_codecs: bool,
    say: Callable[[str], None] = lambda words: None,
) -> tuple[list[Judged], list[str], Projection | None]:
    """Judge a model on sets.

    Args:
        model: in the native engine.
        sets: frames by name.
        data: whose training frames principal components are fitted to; None for none.
        with_codecs: whether picture codecs stand beside it.
        say: is told what is going on, a line at a time.

    Returns:
        What each set gave, notes for the reader, and the principal components of the model's latent size.
    """
    lines: list[Projection] = []
    notes: list[str] = []
    if data is not None:
        say("fitting principal components")
        spec, dim = model.spec.input, model.spec.latent_dim
        sample = training_sample(data, spec)
        projections = fit(sample, spec, {0, dim})
        lines = list({each.latent_dim: each for each in (projections[dim], projections[0])}.values())
        notes.append(f"PCA and mean image: fitted to {sample} of {', '.join(_trained(data))}.")
        if lines[0].latent_dim < dim:
            notes.append(
                f"There is no PCA of {dim} numbers: these frames vary along {lines[0].latent_dim} directions."
            )
    else:
        notes.append("No principal components: they are fitted to the training frames of --sets CONFIG.")
    found = []
    for name, frames in sets.items():
        say(f"{name}: {len(frames)} frames")
        found.append(judge(name, frames, model, lines, with_codecs))
    return found, notes, lines[0] if lines else None


def _data(found: Opened, sets: Path | None) -> FramesDataModule | None:
    spec = found.model.spec.input
    if sets is not None:
        return sets_of(sets, spec)
    return None if found.config is None else datamodule(found.config, found.config_path, spec)


def _trained(data: FramesDataModule) -> list[str]:
    return list(dict.fromkeys(str(entry["name"]) for entry in data.provenance()))


def _natural(given: str) -> int:
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"got {given!r}, wanted a number from 0")
    return int(given)


def _positive(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"got {given!r}, wanted a number from 1")
    return int(given)
