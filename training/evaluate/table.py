"""What an evaluation found, as tables for people and plain types for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgevae.bench.report import aligned

from ..compare_rows import NOTHING, figure, share, significant
from .coverage import NOMINAL, Covered
from .judging import Judged, Line

COLUMNS: tuple[tuple[str, Callable[[Line], str]], ...] = (
    ("", lambda row: row.name),
    ("depth", lambda row: row.depth or NOTHING),
    ("numbers", lambda row: row.packed or NOTHING),
    ("bytes", lambda row: str(row.bytes)),
    ("MSE/image", figure(lambda value: significant(value, 4), "mse_per_image")),
    ("MSE min-max", figure(lambda value: significant(value, 4), "mse_minmax")),
    ("PSNR dB", figure("{:.2f}".format, "color_psnr", "grey_psnr")),
    ("SSIM", figure(share, "ssim")),
    ("MS-SSIM", figure(share, "ms_ssim")),
    ("RMSE m", figure(share, "depth_rmse_m")),
    ("AbsRel", figure(share, "depth_absrel")),
    ("seen", figure(share, "depth_absrel_seen")),
    ("guessed", figure(share, "depth_absrel_guessed")),
    ("δ<1.25", figure(share, "depth_delta1")),
    ("edges px", figure("{:.2f}".format, "depth_edge_px")),
    ("std", figure(share, "posterior_std")),
)
NAMES = 3  # columns that are no numbers
LEGEND = (
    "MSE/image: squared error summed over the image in the model's own encoding; min-max: with every channel "
    "stretched to the original's range, as published figures on NYU are. AbsRel of depth that the encoder "
    "was given (seen) and that it was not (guessed). edges: how far depth's edges lie apart. std: mean of "
    "the posterior's. A codec that cannot make every frame so small has no figures."
)


def cells(rows: Sequence[Line]) -> list[list[str]]:
    """A table as text, its head first; columns that say nothing of any row are left out."""
    columns = [[head, *(cell(row) for row in rows)] for head, cell in COLUMNS]
    told = [column for column in columns if any(cell != NOTHING for cell in column[1:])]
    return [list(row) for row in zip(*told, strict=True)]


def covered_cells(covered: Sequence[Covered]) -> list[list[str]]:
    """Nominal and observed shares, the head first."""
    head = ["share within", *(f"{share:.0%}" for share in NOMINAL), "spread"]
    rows = [
        [
            each.what,
            *(f"{share:.1%}" for share in each.observed),
            NOTHING if each.spread is None else f"{each.spread:.2f}",
        ]
        for each in covered
    ]
    return [head, *rows]


def title(judged: Judged) -> str:
    return f"{judged.name} ({len(judged.frames)} frame{'s' if len(judged.frames) != 1 else ''})"


def novelty_text(judged: Judged) -> str:
    """Percentiles of the set's frames, in a sentence; empty where the model file cannot tell."""
    if judged.novelty is None:
        return ""
    low, middle, high = np.percentile(judged.novelty, (5, 50, 95))
    above = (judged.novelty > 95).mean()
    return (
        f"novelty (0 like training frames, 100 like none): {middle:.0f} in the middle, 5 to 95 % of frames "
        f"from {low:.0f} to {high:.0f}; {above:.0%} above 95."
    )


def text(judged: Judged) -> str:
    """A set for the terminal."""
    parts = [title(judged), aligned(cells(judged.lines), names=NAMES)]
    if judged.covered:
        parts.append(aligned(covered_cells(judged.covered), names=1))
    return "\n".join([*parts, *filter(None, [novelty_text(judged)])])


def document(judged: Judged) -> dict[str, Any]:
    """A set as plain JSON types."""
    return {
        "set": judged.name,
        "frames": len(judged.frames),
        "rows": [
            {
                "kind": row.kind,
                "name": row.name,
                "depth": row.depth or None,
                "numbers": row.packed or None,
                "bytes": row.bytes,
                "figures": row.figures,
                "errors": [round(error, 3) for error in row.errors.tolist()],
            }
            for row in judged.lines
        ],
        "coverage": {
            "nominal": list(NOMINAL),
            "rows": [
                {"what": each.what, "observed": list(each.observed), "spread": each.spread}
                for each in judged.covered
            ],
        },
        "novelty": None if judged.novelty is None else [round(float(x), 2) for x in judged.novelty],
    }
