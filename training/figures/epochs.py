"""The sheets that a run drew at several epochs as one figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgevae.pictures import Image
from edgevae.preprocess import InputSpec

from .grid import Block, Row
from .sheets import bounded


def by_epoch(sheets: Mapping[int, Image], spec: InputSpec, title: str, columns: int) -> Block | None:
    """The sheets of one set at several epochs, the originals once on top.

    Args:
        sheets: of each epoch, as ``sheet`` makes them, all of the same frames.
        spec: of the network that made them.
        title: of the block.
        columns: frames that are shown at most.

    Returns:
        None where a sheet is none of such a network.
    """
    kinds = ["colour"] if spec.depth is None else ["colour", "depth"]
    height, width = bounded(np.zeros((spec.height, spec.width, 3), np.uint8)).shape[:2]
    shape = next(iter(sheets.values())).shape
    if any(picture.shape != shape for picture in sheets.values()):
        return None
    if shape[0] != 2 * len(kinds) * height or shape[1] % width:
        return None
    count = shape[1] // width
    chosen = np.unique(np.linspace(0, count - 1, min(columns, count)).astype(int))

    def row(label: str, picture: Image, line: int) -> Row:
        part = picture[line * height : (line + 1) * height]
        return Row(label, [part[:, i * width : (i + 1) * width] for i in chosen])

    last = sheets[max(sheets)]
    rows = []
    for i, kind in enumerate(kinds):
        name = "original" if len(kinds) == 1 else f"{kind}, original"
        rows.append(row(name, last, 2 * i))
        rows += [row(f"epoch {epoch}", sheets[epoch], 2 * i + 1) for epoch in sorted(sheets)]
    return Block(rows, title)
