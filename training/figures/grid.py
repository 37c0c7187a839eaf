"""Pictures in rows and columns with words beside them, drawn pixel by pixel so that nothing is blurred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from edgevae.pictures import Image

from .images import resized
from .style import DPI, fitted, setting, text_width

# All in pixels, but for the sizes of text.
_MARGIN, _GAP, _LINE = 18, 4, 24
_TILE, _SHEET = 144, 1440  # height of a picture; width of all pictures of a row
_LABEL_WIDTH = 260
_SIZE, _HEAD_SIZE = 8.5, 9.5


@dataclass(frozen=True)
class Row:
    """Pictures side by side: ``label`` stands on their left, ``captions`` below them."""

    label: str
    tiles: Sequence[Image | None]
    captions: Sequence[str] = ()


@dataclass(frozen=True)
class Block:
    """Rows that belong together, with a title and a word on top of each column."""

    rows: Sequence[Row]
    title: str = ""
    heads: Sequence[str] = field(default=())


@dataclass(frozen=True)
class _Words:
    x: float
    y: float
    text: str
    size: float
    align: str
    weight: str = "normal"


def grid(blocks: Sequence[Block], tile: int = _TILE) -> Figure:
    """The blocks one below the other.

    Args:
        blocks: their pictures have one size; None leaves a field empty.
        tile: rows of pixels that a picture gets at most; less where many stand side by side.
    """
    some = [one for block in blocks for row in block.rows for one in row.tiles if one is not None]
    if not some:
        raise ValueError("there is no picture to draw")
    columns = max(len(row.tiles) for block in blocks for row in block.rows)
    h, w = some[0].shape[:2]
    height = max(24, min(tile, round(_SHEET / columns * h / w)))
    high, wide = resized(some[0], height).shape[:2]
    labels = [fitted(row.label, _SIZE, _LABEL_WIDTH) for block in blocks for row in block.rows]
    left = _MARGIN + max(round(text_width(label, _SIZE)) + 12 if label else 0 for label in labels)
    titles = [text_width(block.title, _HEAD_SIZE, "bold") for block in blocks]
    width = max(left + columns * (wide + _GAP) - _GAP, round(max(titles)) + _MARGIN) + _MARGIN
    pictures: list[tuple[int, int, Image]] = []
    words: list[_Words] = []
    y = _MARGIN
    for block in blocks:
        if block.title:
            words.append(_Words(_MARGIN, y + _LINE / 2, block.title, _HEAD_SIZE, "left", "bold"))
            y += _LINE + 4
        for column, head in enumerate(block.heads):
            middle = left + column * (wide + _GAP) + wide / 2
            words.append(_Words(middle, y + _LINE / 2, fitted(head, _SIZE, wide + _GAP), _SIZE, "center"))
        y += _LINE if any(block.heads) else 0
        for row in block.rows:
            label = fitted(row.label, _SIZE, _LABEL_WIDTH)
            words.append(_Words(left - 10, y + high / 2, label, _SIZE, "right"))
            for column, one in enumerate(row.tiles):
                if one is not None:
                    pictures.append((y, left + column * (wide + _GAP), resized(one, height)))
            y += high
            for column, caption in enumerate(row.captions):
                middle = left + column * (wide + _GAP) + wide / 2
                text = fitted(caption, _SIZE, wide + _GAP)
                words.append(_Words(middle, y + _LINE / 2, text, _SIZE, "center"))
            y += _LINE if any(row.captions) else 0
            y += _GAP
        y += _MARGIN - _GAP
    return _drawn(width, y, pictures, words)


def _drawn(
    width: int, height: int, pictures: Sequence[tuple[int, int, Image]], words: Sequence[_Words]
) -> Figure:
    paper = (np.array(to_rgb(setting("figure.facecolor"))) * 255).round().astype(np.uint8)
    canvas = np.broadcast_to(paper, (height, width, 3)).copy()
    for top, left, picture in pictures:
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(canvas, origin="upper")
    for word in words:
        figure.text(
            word.x / width,
            1 - word.y / height,
            word.text,
            fontsize=word.size,
            ha=word.align,
            va="center",
            fontweight=word.weight,
        )
    return figure
