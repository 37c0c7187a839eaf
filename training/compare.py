"""``python -m training compare RUN RUN ...``: trained models side by side, and beside a straight line.

Each run's checkpoint reconstructs its held-out sets from posterior means and is timed in the native engine;
nothing is copied from logs. Runs that are judged on the same frames in the same encoding share a table, and
each table has principal components of the runs' own training frames at every latent size in it.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from edgevae.doctor import processor_name
from edgevae.errors import EdgevaeError, ExportError
from edgevae.files import ready_folder, write_json, write_whole
from edgevae.preprocess import InputSpec

from .baselines import Projection, Sample, fit, gather, sampled
from .compare_measure import Batch, Coder, Native, Quality, native, quality, timed
from .compare_plot import write_plot
from .compare_rows import MEAN, PCA, RUN, Row
from .compare_table import Setting, Table, csv_rows, document
from .data import FramesDataModule
from .data.frames import without_holes
from .models import VAE
from .runs import open_run

NAME = "compare"  # of the folder, and of the files in it

Say = Callable[[str], None]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Run:
    """A trained model, its data, and how well it does on each held-out set."""

    name: str
    net: VAE
    data: FramesDataModule
    qualities: dict[str, Quality]


@dataclass(frozen=True)
class _Lines:
    """Principal components of the training frames that ``runs`` share, by latent size; 0: the mean image."""

    sample: str
    runs: list[_Run]
    projections: dict[int, Projection]


@dataclass(frozen=True)
class _Entry:
    """A row before it is timed."""

    name: str
    kind: str
    coder: Coder
    quality: Quality


def compare(
    folders: Sequence[Path],
    *,
    sizes: Collection[int] = (),
    checkpoint: str | int = "best",
    budget_ms: float | None = None,
    threads: int = 1,
    rounds: int = 30,
    say: Say = lambda text: None,
) -> tuple[Setting, list[Table]]:
    """Judge and time runs.

    Args:
        folders: of the runs.
        sizes: latent sizes of principal components beside those of the runs.
        checkpoint: "best", "last", or the epochs of a kept one.
        budget_ms: of encode and decode together, for the choice of the best; None for no bound.
        threads: of the native engine.
        rounds: timed calls of each model.
        say: is told what is going on, a line at a time.

    Raises:
        EdgevaeError: a folder is no run, its data is gone, or its model cannot be read or exported.
    """
    runs = []
    for name, folder in _named(folders).items():
        say(f"reconstructing the held-out sets of {name}")
        with _errors_of(name):
            runs.append(_opened(name, folder, checkpoint))
    lines = _straight_lines(runs, sizes, say)
    groups: dict[tuple[str, str], list[_Run]] = {}
    for run in runs:
        for set_name, each in run.qualities.items():
            groups.setdefault((set_name, each.fingerprint), []).append(run)
    drafts = {key: _entries(key[0], members, lines, sizes) for key, members in groups.items()}
    with tempfile.TemporaryDirectory(prefix="edgevae-compare-") as scratch:
        engines = _engines(drafts, groups, Path(scratch), threads, say)
        say(f"timing {len(engines)} models in turns")
        elapsed_ms = timed(engines, rounds)
    isa = next(iter(engines.values())).model.isa
    setting = Setting(str(checkpoint), threads, rounds, isa, processor_name(), budget_ms)
    tables = []
    for (set_name, fingerprint), (entries, notes) in drafts.items():
        rows = _rows(entries, engines, elapsed_ms)
        images = len(entries[0].quality.errors)
        tables.append(Table(set_name, images, fingerprint, tuple(rows), tuple(notes), setting))
    return setting, tables


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder once, by its last part, or as it was given where several end alike."""
    unique = {folder.resolve(): folder for folder in folders}
    ends = Counter(folder.name for folder in unique)
    return {path.name if ends[path.name] == 1 else str(folder): folder for path, folder in unique.items()}


@contextmanager
def _errors_of(run: str) -> Iterator[None]:
    """Name the run in an error."""
    try:
        yield
    except EdgevaeError as error:
        raise EdgevaeError(f"run {run}: {error}") from error


def _opened(name: str, folder: Path, checkpoint: str | int) -> _Run:
    run = open_run(folder)
    net = run.net(checkpoint)
    data = run.datamodule(net)
    if net.condition_dim not in (0, len(data.classes)):
        raise EdgevaeError(
            f"the model is conditioned on {net.condition_dim} classes, the data has {len(data.classes)}; "
            "restore the data that it was trained on."
        )
    return _Run(name, net, data, {each: quality(net, batches) for each, batches in _held_out(data).items()})


def _held_out(data: FramesDataModule) -> dict[str, Iterable[Batch]]:
    return dict(zip(data.names, data.test_dataloader(), strict=True))


# --- straight lines ----------------------------------------------------------------------------


def _straight_lines(runs: Sequence[_Run], sizes: Collection[int], say: Say) -> list[_Lines]:
    """Fitted once for all runs that train on the same frames."""
    found: dict[tuple[object, str], _Lines] = {}
    for run in runs:
        say(f"reading the training frames of {run.name}")
        spec = run.net.input
        with _errors_of(run.name):
            sample = training_sample(run.data, run.net.input)
        key = (spec, sample.fingerprint())
        if key not in found:
            say(f"fitting principal components to {sample}")
            wanted = {0, *sizes, *(other.net.latent_dim for other in runs if other.net.input == spec)}
            found[key] = _Lines(str(sample), [], fit(sample, spec, wanted))
        found[key].runs.append(run)
    return list(found.values())


def training_sample(data: FramesDataModule, spec: InputSpec) -> Sample:
    """Training frames as they are, without augmentation, and mirrored where the run mirrors."""
    sets = dict.fromkeys(entry["name"] for entry in data.provenance())
    frames: Dataset[Batch] = ConcatDataset([data.trained(name) for name in sets])
    count = len(frames)  # type: ignore[arg-type]
    mirrored = data.augment.mirror > 0
    loader = DataLoader(Subset(frames, sampled(count, spec, mirrored)), batch_size=64)
    return gather((without_holes(batch["input"], spec) for batch in loader), count, mirrored)


def _entries(
    set_name: str, members: Sequence[_Run], lines: Sequence[_Lines], sizes: Collection[int]
) -> tuple[list[_Entry], list[str]]:
    """The rows of a table: runs, the principal components that go with them, and notes on both."""
    entries = [_Entry(run.name, RUN, run.net, run.qualities[set_name]) for run in members]
    notes = [
        f"{run.name} is given the class of each frame, {run.net.condition_dim} numbers, beside its latent."
        for run in members
        if run.net.condition_dim
    ]
    lines = [each for each in lines if any(run in each.runs for run in members)]
    for each in lines:
        shared = [run for run in members if run in each.runs]
        whose = f" of {', '.join(run.name for run in shared)}" if len(lines) > 1 else ""
        wanted = sorted({0, *sizes, *(run.net.latent_dim for run in shared)})
        notes.append(f"PCA and mean image{whose}: fitted to {each.sample}.")
        fewer = [size for size in wanted if each.projections[size].latent_dim < size]
        if fewer:
            most = each.projections[fewer[0]].latent_dim
            notes.append(
                f"There is no PCA{whose} of {' or '.join(map(str, fewer))} numbers: the training frames vary "
                f"along {most} directions."
            )
        for projection in {
            each.projections[size].latent_dim: each.projections[size] for size in wanted
        }.values():
            kind = PCA if projection.latent_dim else MEAN
            judged = quality(projection, _held_out(shared[0].data)[set_name])
            entries.append(_Entry(projection.name + whose, kind, projection, judged))
    return entries, notes


# --- time --------------------------------------------------------------------------------------

_Drafts = dict[tuple[str, str], tuple[list[_Entry], list[str]]]


def _engines(
    drafts: _Drafts, groups: dict[tuple[str, str], list[_Run]], scratch: Path, threads: int, say: Say
) -> dict[int, Native]:
    """Every model in the native engine, by the ``id`` of its module; the mean image needs none."""
    engines: dict[int, Native] = {}
    for key, (entries, notes) in drafts.items():
        batch = next(iter(_held_out(groups[key][0].data)[key[0]]))
        for entry in entries:
            if entry.kind == MEAN or id(entry.coder) in engines:
                continue
            say(f"exporting {entry.name}")
            path = scratch / f"{len(engines)}.safetensors"
            try:
                engines[id(entry.coder)] = native(entry.coder, batch, path, threads)
            except ExportError as error:
                if entry.kind == RUN:
                    raise ExportError(f"run {entry.name}: {error}") from error
                notes.append(f"{entry.name} was not timed: {error}")
    return engines


def _rows(
    entries: Sequence[_Entry], engines: dict[int, Native], elapsed_ms: dict[int, Times]
) -> Iterator[Row]:
    medians = {key: np.median(each, axis=1) for key, each in elapsed_ms.items()}
    fastest = np.min([medians[id(each.coder)] for each in entries if id(each.coder) in engines], axis=0)
    for entry in entries:
        coder = entry.coder
        row = Row(
            name=entry.name,
            kind=entry.kind,
            model=coder.name if entry.kind == RUN else "",
            latent_dim=coder.latent_dim,
            latent_bytes=4 * coder.latent_dim,
            figures=entry.quality.figures,
            errors=entry.quality.errors,
        )
        if id(coder) in engines:
            spec, mine = engines[id(coder)].model.spec, medians[id(coder)]
            row = replace(
                row,
                parameters=spec.parameters,
                macs_encode=spec.macs_encode,
                macs_decode=spec.macs_decode,
                encode_ms=float(mine[0]),
                encode_ratio=float(mine[0] / fastest[0]),
                decode_ms=float(mine[1]),
                decode_ratio=float(mine[1] / fastest[1]),
            )
        yield row


# --- the command -------------------------------------------------------------------------------


def write(folder: Path, setting: Setting, tables: Sequence[Table]) -> list[Path]:
    """``compare.md``, ``.csv``, ``.json`` and ``.png`` in a folder, which exists.

    Raises:
        RecordError: one of them cannot be written.
    """
    paths = [folder / f"{NAME}.{suffix}" for suffix in ("png", "md", "csv", "json")]
    plot, page, rows, whole = paths
    write_plot(tables, plot)
    parts = ["# Comparison", str(setting), f"![Squared error over milliseconds]({plot.name})"]
    write_whole(page, ("\n\n".join([*parts, *(each.markdown() for each in tables)]) + "\n").encode())
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(csv_rows(tables))
    write_whole(rows, text.getvalue().encode())
    write_json(whole, document(setting, tables))
    return paths


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(
        prog=f"python -m training {NAME}",
        description="Trained models side by side, and beside principal components of their own training "
        "frames: quality on held-out frames, size, and time in the native engine.",
    )
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of 'fit'")
    made.add_argument(
        "--baseline",
        action="append",
        type=_baseline,
        default=[],
        metavar="pca:SIZE",
        help="principal components of this latent size, too; at the latent sizes of the runs (pca) they are "
        "always there",
    )
    made.add_argument(
        "--latency-ms", type=_positive, metavar="MS", help="name the best that encodes and decodes within it"
    )
    made.add_argument("--threads", type=_count, default=1, help="of the native engine (1)")
    made.add_argument("--rounds", type=_count, default=30, help="timed calls of each model (30)")
    made.add_argument(
        "--checkpoint",
        type=_checkpoint,
        default="best",
        help="best, last, or the epochs of a kept one (best)",
    )
    made.add_argument(
        "-o", "--output", type=Path, default=Path(NAME), metavar="FOLDER", help=f"for the files ({NAME})"
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Compare, print, write.

    Raises:
        EdgevaeError: a run, its data or the folder cannot be used.
    """
    options = parser().parse_args(arguments)
    ready_folder(options.output)
    setting, tables = compare(
        options.runs,
        sizes=options.baseline,
        checkpoint=options.checkpoint,
        budget_ms=options.latency_ms,
        threads=options.threads,
        rounds=options.rounds,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    paths = write(options.output, setting, tables)
    print("\n\n".join(map(str, (setting, *tables))))
    print(f"wrote {', '.join(map(str, paths))}", file=sys.stderr)
    return 0


def _baseline(text: str) -> int:
    """The size; 0 for "pca" alone, which asks for nothing more."""
    if text == "pca":
        return 0
    kind, _, size = text.partition(":")
    if kind != "pca" or not size.isdecimal() or int(size) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted pca and a latent size, such as pca:50")
    return int(size)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a positive number of milliseconds")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number from 1 to 256")
    return int(text)


def _checkpoint(text: str) -> str | int:
    if text in ("best", "last"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted best, last, or a number of epochs")
    return int(text)
