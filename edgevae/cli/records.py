"""Commands that read records of latents: ``decode``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import ModelOption, OverwriteOption, QuietOption, ThreadsOption, complain


def decode(
    latents: Annotated[Path, typer.Argument(metavar="LATENTS", help="A record: .h5 or .jsonl.")],
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
