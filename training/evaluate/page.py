"""The page of an evaluation: tables, and the best, the middle and the worst frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import edgevae
from edgevae.pictures import Image
from edgevae.preprocess import InputSpec

from ..baselines import Projection
from ..figures import images, style
from ..figures.grid import Block, Row, grid
from ..report.page import Section, facts, page, paragraph, picture, table
from .coverage import NOMINAL
from .depth import GIVEN, HALF, NONE
from .judging import Judged, projected, reconstructed
from .table import LEGEND, cells, covered_cells, novelty_text, title

EACH = 3  # frames that are best, in the middle, worst
_TALL = 220  # rows of pixels of a picture with its depth below
_DECODED = {"": "decoded", GIVEN: "decoded", HALF: "half of the depth", NONE: "no depth"}
_CHECKED = (
    f"How often the truth was within what is claimed to hold {', '.join(f'{s:.0%}' for s in NOMINAL)}. "
    "Latents: draws from the posterior of the frame with all its depth, in intervals of the posterior with "
    "less; spread is the root mean square of their distance in deviations, 1 if the deviations are right, "
    "above 1 if they are too small. Pixels: errors, in intervals that the model file has from other frames."
)


def frames_of(judged: Judged, model: edgevae.Model, line: Projection | None) -> tuple[bytes, bytes, str]:
    """The frames as a picture on light and on dark paper, and what it shows."""
    block = _block(judged, model, line)
    light, dark = (style.png(lambda: grid([block], _TALL), theme) for theme in (style.LIGHT, style.DARK))
    what = (
        "Frames of least, of median and of most squared error with all depth that there is; the number is "
        "that error, summed over the image in units of [-1, 1]."
    )
    return light, dark, what


def _chosen(errors: npt.NDArray[np.float64]) -> dict[int, str]:
    """Frames, and what they are: best, middle, worst; each once."""
    order = np.argsort(errors, kind="stable")
    start = max(0, (len(order) - EACH) // 2)
    groups = {"best": order[:EACH], "middle": order[start : start + EACH], "worst": order[-EACH:]}
    named: dict[int, str] = {}
    for name, items in groups.items():
        for item in items.tolist():
            named.setdefault(item, name)
    return named


def _block(judged: Judged, model: edgevae.Model, line: Projection | None) -> Block:
    spec, errors = model.spec.input, judged.lines[0].errors
    named = _chosen(errors)
    items = list(named)
    decoded = {how: reconstructed(model, judged.frames, items, how) for how in judged.depth}
    _, target, valid = decoded[judged.depth[0]]
    scales = [
        None if spec.depth is None else images.scale_of(spec.depth, images.metres(want, spec.depth, mask))
        for want, mask in zip(target, valid, strict=True)
    ]

    def stacked(y: images.Floats, masks: Sequence[images.Bools | None]) -> list[Image]:
        return [
            images.stacked(one, spec, scale, mask) for one, scale, mask in zip(y, scales, masks, strict=True)
        ]

    rows = [Row("original", stacked(target, list(valid)), [f"frame {item}" for item in items])]
    for how, (y, _, _) in decoded.items():
        captions = [f"{errors[item]:.0f}" for item in items] if how == judged.depth[0] else ()
        rows.append(Row(_DECODED[how], stacked(y, [None] * len(y)), captions))
    if line is not None:
        rows.append(Row(line.name, stacked(projected(line, target), [None] * len(target))))
    return Block(rows, "", list(named.values()))


def whole(
    model: edgevae.Model,
    path: str,
    found: Sequence[Judged],
    pictures: Sequence[tuple[bytes, bytes, str]],
    notes: Sequence[str],
) -> str:
    """The page."""
    spec = model.spec
    top = facts(
        [
            ("model", f"{spec.name}, {path}"),
            ("sha256", spec.sha256),
            ("input", _input(spec.input)),
            ("latent", f"{spec.latent_dim} numbers"),
            ("precision", spec.precision),
            ("engine", f"{model.isa}, {model.threads} threads"),
        ]
    )
    sections = []
    for number, (judged, (light, dark, what)) in enumerate(zip(found, pictures, strict=True)):
        head, *rows = cells(judged.lines)
        pieces = [table(head, rows), paragraph(LEGEND)]
        if judged.covered:
            head, *rows = covered_cells(judged.covered)
            pieces += [table(head, rows), paragraph(_CHECKED)]
        if told := novelty_text(judged):
            pieces.append(paragraph(told[0].upper() + told[1:]))
        pieces.append(picture(light, dark, "The best, the middle and the worst frames", what))
        sections.append(Section(f"set-{number}", title(judged), pieces))
    foot = f"Written by edgevae {edgevae.__version__}: python -m training evaluate."
    return page(f"Evaluation of {spec.name}", "Figures of posterior means", top, notes, sections, foot)


def _input(spec: InputSpec) -> str:
    size = f"{spec.channels} x {spec.height} x {spec.width}, colour {spec.color}"
    if spec.depth is None:
        return size
    reach = f" from {spec.depth.min_m:g} to {spec.depth.max_m:g} m" if spec.depth.metric else ""
    return f"{size}, depth {spec.depth.encoding}{reach}"
