"""Commands that read records of latents: ``decode`` and ``repair``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import ModelOption, OverwriteOption, QuietOption, ThreadsOption, complain


def decode(
    latents: Annotated[Path, typer.Argument(metavar="LATENTS", help="A record: .h5, .jsonl or .mcap.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pictures.")],
    model: ModelOption = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Decode every N-th latent.")] = 1,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Decode although the record names another model file.")
    ] = False,
    overwrite: OverwriteOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn a record back into colour and depth pictures.

    DIR/color holds the colour, DIR/depth 16-bit millimetres, DIR/preview both side by side in colours.
    """
    from ..decode import check_model, decode_record
    from ..latents import read_latents
    from ..model import load

    rows = read_latents(latents)
    network = load(model, threads=threads)
    warning = check_model(rows, network, any_model=any_model)
    if warning:
        complain(f"warning: {warning}.")
    count = decode_record(rows, network, output, every=every, overwrite=overwrite, quiet=quiet)
    print(f"decoded {count} of {len(rows)} latents into {output}")


def repair(
    record: Annotated[
        Path, typer.Argument(metavar="FILE", help="A record that was cut off: .mcap, .jsonl or .h5.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The new file; default: NAME.repaired.SUFFIX."),
    ] = None,
) -> None:
    """Recover what a cut-off record still holds, into a new file.

    The old file is only read. A row comes out as it was written, or not at all.
    """
    from ..repair import repair as run

    found = run(record, output)
    if found.output is None:
        print(f"{record} is whole: {found.rows} {found.unit}; nothing to repair")
    else:
        print(f"recovered {found.rows} {found.unit} into {found.output}")
    if found.lost:
        print(found.lost)
