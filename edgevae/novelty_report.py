"""Novelty over time as a table, a document or a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .files import write_json, write_whole
from .latents import Latents
from .pictures import png

SUFFIXES = (".png", ".csv", ".json")
_SIZE = (960, 300)
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 44, 40
_PAPER, _INK, _FAINT, _LINE = (22, 23, 26), (226, 228, 232), (70, 73, 80), (86, 182, 194)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_report(path: Path, latents: Latents, novelty: npt.NDArray[np.float32], *, title: str) -> None:
    """Write ``novelty`` (N,) of the rows of ``latents`` as a plot (.png) or row by row (.csv, .json).

    A row has ``row``, ``frame``, ``timestamp_ns``, ``source`` and ``novelty``, which is empty or null where
    nothing came before.

    Raises:
        RecordError: the file cannot be written.
    """
    if path.suffix.lower() == ".png":
        write_whole(path, png(_plot(latents, novelty, title)))
        return
    rows = [
        {
            "row": i,
            "frame": int(latents.frame[i]),
            "timestamp_ns": int(latents.timestamp_ns[i]),
            "source": latents.source_of(i),
            "novelty": None if np.isnan(value) else round(float(value), 6),
        }
        for i, value in enumerate(novelty)
    ]
    if path.suffix.lower() == ".json":
        write_json(path, {"title": title, "rows": rows})
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def _plot(latents: Latents, novelty: npt.NDArray[np.float32], title: str) -> npt.NDArray[np.uint8]:
    """A line over the rows, each pixel column its largest value; fine lines where a new source begins.

    The first rows, which have no value, have no line.
    """
    width, height = _SIZE
    picture = np.full((height, width, 3), _PAPER, np.uint8)
    inner_w, inner_h = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    known = np.nan_to_num(novelty, nan=0.0)
    top = _round_up(float(known.max()))

    def x_of(row: float) -> int:
        return _LEFT + round(inner_w * row / max(1, len(known) - 1))

    def y_of(value: float) -> int:
        return _TOP + inner_h - round(inner_h * value / top)

    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = y_of(top * part)
        cv2.line(picture, (_LEFT, y), (width - _RIGHT, y), _FAINT, 1)
        cv2.putText(picture, f"{top * part:.3g}", (8, y + 4), _FONT, 0.38, _INK, 1, cv2.LINE_AA)
    if latents.source is not None:
        for row in (np.flatnonzero(np.diff(latents.source)) + 1).tolist():
            cv2.line(picture, (x_of(row), _TOP), (x_of(row), _TOP + inner_h), (120, 100, 60), 1)
    columns = np.array([x_of(row) for row in range(len(known))])
    has_value = ~np.isnan(novelty)
    peaks = [(int(x), float(known[columns == x].max())) for x in np.unique(columns[has_value])]
    points = np.array([[x, y_of(value)] for x, value in peaks], np.int32)
    cv2.polylines(picture, [points], False, _LINE, 1, cv2.LINE_AA)
    for row in (0, (len(known) - 1) // 2, len(known) - 1):
        text = str(row)
        left = min(max(_LEFT, x_of(row) - 4 * len(text)), width - _RIGHT - 8 * len(text))
        cv2.putText(picture, text, (left, height - 20), _FONT, 0.38, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, "row", (_LEFT, height - 5), _FONT, 0.36, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, title, (_LEFT, 24), _FONT, 0.46, _INK, 1, cv2.LINE_AA)
    return picture


def _round_up(value: float) -> float:
    """The next round number, for the top of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value))
