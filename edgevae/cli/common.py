"""The options that several commands share, and how commands speak on standard error."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Model file, or a shipped model: full (the default) or edge.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads of the engine; default: all usable cores.")
]
IsaOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="Instruction set, see 'edgevae doctor'; default: the machine's best."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where the model runs: cpu, cuda, cuda:1, or auto: the GPU, if it works and is faster.",
    ),
]
DepthOption = Annotated[
    str | None,
    typer.Option(
        metavar="URI", help="Where depth comes from if not from the camera itself: a source, or 'none'."
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="OpenCV file that registers the depth of another source to the camera's colour."
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that are there; without, they are an error.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show only the summary.")]
VoxelOption = Annotated[float, typer.Option(metavar="M", help="Side of the map's voxels, metres.")]
MaxDepthOption = Annotated[
    float, typer.Option(metavar="M", help="Depth beyond is left out of the map; outdoors take more.")
]
StatsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write counters and latencies as JSON.")
]


def complain(sentence: str) -> None:
    """Print one line on standard error, if somebody takes it."""
    with contextlib.suppress(OSError):
        print("edgevae:", " ".join(sentence.split()), file=sys.stderr, flush=True)


def folder(text: str) -> Path:
    """The value of an option that names a folder: an unset variable is not the present one."""
    if not text:
        raise typer.BadParameter("'' is no name; wanted that of a folder, such as . for the present one")
    return Path(text)


def with_value(arguments: list[str], option: str, value: str) -> list[str]:
    """``arguments`` with ``value`` after each ``option`` that has none: typer knows no optional values."""
    filled = []
    for argument, following in zip(arguments, [*arguments, "-"][1:], strict=True):
        filled += [argument, value] if argument == option and following.startswith("-") else [argument]
    return filled
