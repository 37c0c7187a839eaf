"""From a record of latents back to pictures and depth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track

from .errors import LatentError, RecordError
from .files import os_errors_as_sentences, ready_folder, write_whole
from .latents import Latents
from .words import counted

if TYPE_CHECKING:
    from .model import Model


def decode_record(
    latents: Latents,
    model: Model,
    folder: Path,
    *,
    every: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Write every ``every``-th latent as pictures named by its frame's number, or where a record has several
    sources, by its row's.

    ``color/NNNNNN.png`` is the decoded colour, ``depth/NNNNNN.png`` 16-bit millimetres (only of models whose
    depth is metric), ``preview/NNNNNN.png`` both side by side, depth in colours with its scale.

    Returns:
        The number of latents decoded.

    Raises:
        LatentError: the latents' length is not the model's; see ``check_model``.
        RecordError: the folder cannot be written, or holds pictures already and ``overwrite`` is false.
    """
    from .pictures import DepthScale, Panel, depth_png, panel_size, png, sheet

    spec = model.spec
    metric = spec.input.depth is not None and spec.input.depth.metric
    names = ["color", *(["depth"] if metric else []), "preview"]
    for name in names:
        ready_folder(folder / name)
        _refuse_old(folder / name, overwrite)
    rows = range(0, len(latents), every)
    scale = None if metric or spec.input.depth is None else DepthScale(0.0, 1.0, relative=True)
    silent = quiet or not sys.stdout.isatty()
    for row in track(rows, description="decoding", console=Console(), transient=True, disable=silent):
        decoded = model.decode(np.ascontiguousarray(latents.latent[row]))
        name = f"{int(latents.frame[row]) if latents.source is None else row:06d}.png"
        panels = [Panel("decoded, colour", decoded.rgb)]
        if decoded.depth is not None:
            if metric:
                scale = DepthScale.covering(decoded.depth, start=scale)
                write_whole(folder / "depth" / name, depth_png(decoded.depth))
            assert scale is not None
            panels.append(Panel("decoded, depth", scale.colours(decoded.depth), smooth=False))
        size = panel_size(spec.input.width, spec.input.height)
        title = f"{spec.name}, frame {int(latents.frame[row])}"
        write_whole(folder / "color" / name, png(decoded.rgb))
        write_whole(folder / "preview" / name, png(sheet([panels], title=title, size=size, legend=scale)))
    return len(rows)


def check_model(latents: Latents, model: Model, *, any_model: bool) -> str | None:
    """Refuse latents of another model, whose numbers mean something else; with ``any_model`` only warn.

    Returns:
        A warning, or None.

    Raises:
        LatentError: the latents' length is not the model's, or the record names another model file and
            ``any_model`` is false.
    """
    spec = model.spec
    width = latents.latent.shape[1]
    if width != spec.latent_dim:
        raise LatentError(
            f"the record's latents have {width} numbers, model {spec.name} wants {spec.latent_dim}; "
            "pass the model they were made with by --model."
        )
    recorded = str(latents.attrs.get("model_sha256", ""))
    if recorded == spec.sha256:
        return None
    made_with = f"{latents.attrs.get('model', 'a model')} {recorded[:12] or 'not stated'}"
    text = f"the latents were made with {made_with}, this model is {spec.name} {spec.sha256[:12]}"
    if any_model:
        return f"{text}; the pictures may mean nothing"
    raise LatentError(f"{text}; pass the right one by --model FILE, or --any-model to decode all the same.")


def _refuse_old(folder: Path, overwrite: bool) -> None:
    with os_errors_as_sentences(folder):
        old = sum(1 for name in folder.glob("*.png"))
    if old and not overwrite:
        raise RecordError(
            f"{folder} holds {counted(old, 'picture')}; choose another folder or pass --overwrite."
        )
