"""Commands about model files: ``info``, ``export`` and ``quantize``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import EdgevaeError
from .common import DepthOption, OverwriteOption, QuietOption, ThreadsOption


def info(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="A model file or a shipped name; default: full.")
    ] = None,
    shipped: Annotated[bool, typer.Option("--shipped", help="List the models in the package.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show a model's card: what it is for, how good it is, its data and licences, its layers."""
    from ..info import describe, overview, show, show_overview

    if shipped:
        if model is not None:
            raise EdgevaeError(f"--shipped lists all models in the package; leave out {model}.")
        found = overview()
        print(json.dumps(found, indent=2)) if as_json else show_overview(found)
        return
    about = describe(model)
    if as_json:
        print(json.dumps(about, indent=2))
    else:
        show(about)


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint of 'python -m training fit'.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    format: Annotated[str, typer.Option(metavar="NAME", help="native, torchscript or onnx.")] = "native",
    precision: Annotated[str, typer.Option(metavar="NAME", help="Storage of native: fp32 or fp16.")] = "fp32",
    frames: Annotated[
        str | None, typer.Option(metavar="URI", help="A source for the parity check; default: synthetic.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Turn a checkpoint into a model file; checks that both agree."""
    from .. import export as exporting
    from ..files import check_outputs

    files = [output]
    if format == "onnx":  # two files, named as export.to_onnx names them
        stem = output.with_suffix("") if output.suffix == ".onnx" else output
        files = [stem.with_name(f"{stem.name}.{half}.onnx") for half in ("encoder", "decoder")]
    check_outputs(*files, overwrite=overwrite, read=[checkpoint])
    print(f"wrote {exporting.export(checkpoint, format, output, precision, frames)}")


def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file stored as fp32 or fp16.")],
    calibrate: Annotated[
        list[str],
        typer.Option(
            metavar="URI",
            help="Frames like those the model will see: any source 'edgevae stream' takes; may be repeated.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    frames: Annotated[
        int, typer.Option(min=1, metavar="N", help="Frames to take, spread over the sources.")
    ] = 64,
    depth: DepthOption = None,
    overwrite: OverwriteOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make a model file with int8 layers; keeps it only if it is as good.

    Every fourth frame is held out of calibration and measured on, too.
    """
    from ..files import check_outputs
    from ..quantize import quantize as run

    check_outputs(output, overwrite=overwrite, read=[model])
    print(f"wrote {run(model, output, calibrate, frames=frames, depth=depth, threads=threads, quiet=quiet)}")
