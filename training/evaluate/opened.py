"""What is evaluated: a model in the native engine, and the frames it is judged on."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgevae
from edgevae import export
from edgevae.errors import EdgevaeError
from edgevae.preprocess import InputSpec
from edgevae.zoo import path_of

from .. import checkpoint
from ..data import FramesDataModule, SetOptions, open_set
from ..data.frames import Frames
from ..runs import CHECKPOINTS, CONFIG, RunError, datamodule, open_run, read_config

KINDS = ("pairs", "images", "nyu_mat")  # of sets that a word before the path may name
WANTED = "wanted a config of 'python -m training fit'"


@dataclass(frozen=True)
class Opened:
    """A model, and the config of the run it comes from, where it does."""

    model: edgevae.Model
    config: dict[str, Any] | None
    config_path: Path


@contextmanager
def opened(path: Path, threads: int | None) -> Iterator[Opened]:
    """A model file as it is; a checkpoint, or the best one of a run's folder, exported first.

    Raises:
        EdgevaeError: it cannot be read or exported, or takes a condition, which frames do not carry.
    """
    with tempfile.TemporaryDirectory(prefix="edgevae-evaluate-") as scratch:
        file, run = path_of(path), None
        if file.is_dir():
            run = open_run(file)
            file = run.checkpoint("best")
        elif path.suffix == ".ckpt" and path.parent.name == CHECKPOINTS:
            folder = path.parent.parent
            run = open_run(folder) if (folder / CONFIG).is_file() else None
        if file.suffix == ".ckpt":
            net, file = checkpoint.load(file), Path(scratch) / "model.safetensors"
            export.to_native(net, file)
        model = edgevae.load(file, threads=threads)
        if model.spec.condition_dim:
            raise EdgevaeError(
                f"{path} takes a condition of {model.spec.condition_dim} numbers, which frames do not carry; "
                "'python -m training compare' judges such models on their own sets."
            )
        config = None if run is None else run.config
        yield Opened(model, config, path if run is None else run.folder / CONFIG)


def sets_of(path: Path, spec: InputSpec) -> FramesDataModule:
    """The data of a training config, set up to be scored.

    Raises:
        RunError: it is none.
        SourceError: the data cannot be read.
    """
    config = read_config(path, WANTED)
    if not isinstance(config, dict) or "data" not in config:
        raise RunError(f"{path} has no section 'data'; {WANTED}.")
    return datamodule(config, path, spec)


def frames_of(
    sources: Sequence[str],
    spec: InputSpec,
    cache: Path,
    most: int = 0,
    stride: int = 1,
    taken: Collection[str] = (),
) -> dict[str, Frames]:
    """Frames of each of ``sources``, by the last part of its name, or as given where that is not its alone.

    Args:
        sources: ``pairs:DIR``, ``images:DIR``, ``nyu_mat:FILE``, or whatever ``edgevae stream --camera``
            reads to an end.
        spec: what the model takes.
        cache: folder for decoded frames.
        most: frames of each; 0 for all.
        stride: every how many-th frame is taken.
        taken: names of other sets.

    Raises:
        SourceError: one of them cannot be read.
    """
    options = [_options(source, most, stride) for source in sources]
    names = [*taken, *(each.name for each in options)]
    for source, each in zip(sources, options, strict=True):
        if names.count(each.name) > 1:
            each.name = source.replace("/", "-")
    found = {}
    for each in options:
        frames = open_set(each, Path.cwd(), cache)
        indices = range(0, len(frames), 1 if each.kind == "source" else stride)
        found[each.name] = Frames(frames, list(indices)[: most or None], spec)
    return found


def _options(source: str, most: int, stride: int) -> SetOptions:
    kind, colon, path = source.partition(":")
    if colon and kind in KINDS:
        return SetOptions(kind, path, height=0)
    return SetOptions("source", source, height=0, frames=most, stride=stride)
