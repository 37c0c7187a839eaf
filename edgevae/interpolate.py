"""Pictures on the way from one latent to another.

The way is a straight line. On a great circle the length of the latent does not sink half-way, which is why it
is often preferred; but between frames 4, 8, 16 and 32 apart of TUM fr1/rpy the straight line's middle decodes
0.2, 0.4, 0.5 and 0.6 dB nearer to the frame that was there, so there is no other way to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .animation import check_animation, write_animation
from .errors import LatentError
from .files import check_outputs, write_whole
from .latent_of import Named
from .model import Decoded, Model
from .pictures import DepthScale, Panel, png, sheet

_COLUMNS = 8
_STILL = 128
_MOVING = 256


def line(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], steps: int) -> npt.NDArray[np.float32]:
    """``steps`` latents (steps, D) from ``a`` to ``b`` at equal distances, both ends included.

    Raises:
        LatentError: the two differ in length, or ``steps`` is below 2.
    """
    if a.shape != b.shape or a.ndim != 1:
        raise LatentError(f"latents have the shapes {a.shape} and {b.shape}, wanted two of one model.")
    if steps < 2:
        raise LatentError(f"steps are {steps}, wanted at least 2: both ends.")
    t = np.linspace(0.0, 1.0, steps)[:, None]
    return np.asarray((1 - t) * a.astype(np.float64) + t * b.astype(np.float64), np.float32)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise RecordError unless an animation or a sheet can be written to ``path``."""
    check_outputs(path, overwrite=overwrite, suffixes=(".gif", ".mp4", ".png"))
    if path.suffix.lower() != ".png":
        check_animation(path)


def interpolate(
    a: Named,
    b: Named,
    model: Model,
    path: Path,
    *,
    steps: int = 16,
    fps: float = 8.0,
    overwrite: bool = False,
) -> None:
    """Decode the line from ``a`` to ``b`` into one picture of all steps (.png) or an animation (.gif, .mp4).

    Depth stands below colour, coloured by one scale for all steps.

    Raises:
        LatentError: the latents are not the model's, or ``steps`` is below 2.
        RecordError: the file cannot be written.
    """
    check_output(path, overwrite=overwrite)
    latents = list(line(a.latent, b.latent, steps))
    labels = [f"{i / (steps - 1):.2f}" for i in range(steps)]
    title = f"{a.name} to {b.name}"
    if path.suffix.lower() == ".png":
        write_sheet(model, latents, labels, path, title=title)
        return
    decoded = [model.decode(z) for z in latents]
    scale = _scale(model, decoded)
    pictures = [
        sheet(_column_of(one, label, scale), title=title, size=_size(one, _MOVING), legend=scale)
        for one, label in zip(decoded, labels, strict=True)
    ]
    write_animation(path, pictures, fps=fps)


def write_sheet(
    model: Model,
    latents: Sequence[npt.NDArray[np.float32]],
    labels: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """Decode ``latents`` onto one sheet, depth below colour, at most eight in a row, and write it as PNG.

    Raises:
        LatentError: the latents are not the model's.
        RecordError: the file cannot be written.
    """
    decoded = [model.decode(np.ascontiguousarray(z)) for z in latents]
    scale = _scale(model, decoded)
    columns = -(-len(decoded) // -(-len(decoded) // _COLUMNS))  # rows as full as each other
    panels: list[list[Panel]] = []
    for begin in range(0, len(decoded), columns):
        part = list(zip(decoded, labels, strict=True))[begin : begin + columns]
        stacks = [_column_of(one, label, scale) for one, label in part]
        panels += [[stack[i][0] for stack in stacks] for i in range(len(stacks[0]))]
    write_whole(path, png(sheet(panels, title=title, size=_size(decoded[0], _STILL), legend=scale)))


def _scale(model: Model, decoded: list[Decoded]) -> DepthScale | None:
    depth = model.spec.input.depth
    if depth is None:
        return None
    if not depth.metric:
        return DepthScale(0.0, 1.0, relative=True)
    return DepthScale.covering(*(one.depth for one in decoded))


def _column_of(one: Decoded, label: str, scale: DepthScale | None) -> list[list[Panel]]:
    """Colour above depth, as rows of one panel."""
    panels = [[Panel(label, one.rgb)]]
    if scale is not None and one.depth is not None:
        panels.append([Panel("", scale.colours(one.depth), smooth=False)])
    return panels


def _size(one: Decoded, height: int) -> tuple[int, int]:
    h, w = one.rgb.shape[:2]
    return max(48, round(height * w / h)), height
