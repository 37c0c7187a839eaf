"""Pictures for people: coloured depth with its scale, and sheets of labelled panels.

Images are uint8 (H, W, 3) in R, G, B order until they are encoded as PNG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
DepthImage = npt.NDArray[np.float32]

_PAPER = (22, 23, 26)
_INK = (226, 228, 232)
_FAINT = (140, 144, 152)
_NO_READING = (46, 47, 52)
_MARGIN = 14
_LABEL_HEIGHT = 22
_TITLE_HEIGHT = 34
_LEGEND_WIDTH = 74
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TICKS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)


@dataclass(frozen=True, slots=True)
class DepthScale:
    """How depth becomes colour: Google's Turbo map from ``near`` (dark blue) to ``far`` (dark red).

    Metres go on a logarithmic scale, as a sensor's error grows with distance too. ``relative`` depth in
    [0, 1], which a per-image min-max model returns, goes on a linear one.
    """

    near: float
    far: float
    relative: bool = False

    @staticmethod
    def covering(*depths_m: DepthImage | None, start: DepthScale | None = None) -> DepthScale:
        """The scale from the 1st to the 99th percentile of all readings, and of ``start`` if given.

        Percentiles, because a single wild reading would take the whole scale.
        """
        ends = [] if start is None else [start.near, start.far]
        for depth_m in depths_m:
            if depth_m is not None:
                readings = depth_m[has_reading(depth_m)]
                if readings.size:
                    ends += [float(end) for end in np.percentile(readings, (1, 99))]
        if not ends:
            return DepthScale(0.5, 5.0)
        near, far = min(ends), max(ends)
        return DepthScale(near, max(far, near * 1.2))

    def position(self, depth: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Where depths lie on the scale, 0 (near) to 1 (far), clipped."""
        depth = np.asarray(depth, np.float64)
        if self.relative:
            place = (depth - self.near) / (self.far - self.near)
        else:
            place = np.log(np.maximum(depth, 1e-6) / self.near) / math.log(self.far / self.near)
        return np.asarray(np.clip(place, 0.0, 1.0))

    def colours(self, depth: DepthImage) -> Image:
        """``depth`` (H, W) in colour; pixels without a reading are dark grey."""
        known = np.isfinite(depth) if self.relative else has_reading(depth)
        levels = np.rint(self.position(np.where(known, depth, self.near)) * 255).astype(np.uint8)
        picture = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
        picture[~known] = _NO_READING
        return np.asarray(picture, np.uint8)

    def ticks(self) -> list[float]:
        """Round values between the ends, for the legend."""
        if self.relative:
            return [0.0, 0.25, 0.5, 0.75, 1.0]
        low, high = math.floor(math.log10(self.near)), math.ceil(math.log10(self.far))
        values = (tick * 10.0**power for power in range(low, high + 1) for tick in _TICKS)
        return [value for value in values if self.near <= value <= self.far]

    def legend(self, height: int) -> Image:
        """A bar of the colours, far at the top, with its values beside it."""
        picture = _paper(height, _LEGEND_WIDTH)
        bar = np.linspace(255, 0, height).astype(np.uint8)[:, None].repeat(10, axis=1)
        picture[:, 8:18] = cv2.cvtColor(cv2.applyColorMap(bar, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
        taken = -100.0
        for value in self.ticks():
            row = float(1 - self.position(value)) * (height - 1)
            if abs(row - taken) < 14:
                continue
            taken = row
            line = round(row)
            cv2.line(picture, (18, line), (21, line), _FAINT, 1)
            text = f"{value:g}" if self.relative else f"{value:g} m"
            _text(picture, text, (25, min(max(line + 4, 9), height - 2)), _INK, 0.36)
        return picture


def has_reading(depth_m: DepthImage) -> npt.NDArray[np.bool_]:
    """Where depth is finite and above 0."""
    return np.asarray(np.isfinite(depth_m) & (depth_m > 0))


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a sheet; ``image`` None draws an empty field with ``label`` all the same."""

    label: str
    image: Image | None
    smooth: bool = True


def sheet(
    rows: Sequence[Sequence[Panel]], *, title: str, size: tuple[int, int], legend: DepthScale | None = None
) -> Image:
    """Panels on a grid, each ``size`` (width, height), under a title; ``legend`` stands at the last row."""
    width, height = size
    columns = max(len(row) for row in rows)
    sheet_width = _MARGIN + columns * (width + _MARGIN) + (_LEGEND_WIDTH - _MARGIN if legend else 0)
    sheet_height = _TITLE_HEIGHT + len(rows) * (_LABEL_HEIGHT + height) + _MARGIN
    picture = _paper(sheet_height, sheet_width)
    _text(picture, title, (_MARGIN, 22), _INK, 0.46)
    for r, row in enumerate(rows):
        top = _TITLE_HEIGHT + r * (_LABEL_HEIGHT + height) + _LABEL_HEIGHT
        for c, panel in enumerate(row):
            left = _MARGIN + c * (width + _MARGIN)
            _text(picture, panel.label, (left, top - 7), _FAINT, 0.4)
            picture[top : top + height, left : left + width] = _fitted(panel, width, height)
    if legend is not None:
        left = sheet_width - _LEGEND_WIDTH
        top = sheet_height - _MARGIN - height
        picture[top : top + height, left:] = legend.legend(height)
    return picture


def panel_size(width: int, height: int) -> tuple[int, int]:
    """The size at which a camera's picture stands on a sheet: its own aspect ratio, about 320x240 pixels."""
    scale = math.sqrt(320 * 240 / (width * height))
    return max(48, round(width * scale)), max(48, round(height * scale))


def png(image: Image) -> bytes:
    """``image`` (R, G, B) as PNG."""
    return _png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def depth_png(depth_m: DepthImage) -> bytes:
    """Depth as 16-bit PNG in millimetres, 0 = no reading; beyond 65.535 m it says 65535."""
    known = has_reading(depth_m)
    depth_mm = np.rint(np.where(known, depth_m, 0.0).astype(np.float64) * 1000)
    return _png(np.clip(depth_mm, 0, 65535).astype(np.uint16))


def _png(image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | cv2.typing.MatLike) -> bytes:
    # Level 3 takes a third of the time of the default for files some per cent larger.
    done, content = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done
    return bytes(content.tobytes())


def _paper(height: int, width: int) -> Image:
    return np.repeat(np.full((1, width, 3), _PAPER, np.uint8), height, axis=0)  # pixel by pixel takes 2 ms


def _text(
    picture: Image, text: str, place: tuple[int, int], colour: tuple[int, int, int], size: float
) -> None:
    cv2.putText(picture, text, place, _FONT, size, colour, 1, cv2.LINE_AA)


def _fitted(panel: Panel, width: int, height: int) -> Image:
    if panel.image is None:
        return np.full((height, width, 3), _NO_READING, np.uint8)
    averaging = cv2.INTER_AREA if panel.image.shape[1] > width else cv2.INTER_CUBIC
    method = averaging if panel.smooth else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(panel.image, (width, height), interpolation=method), np.uint8)
