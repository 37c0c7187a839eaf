"""Depth, measured and decoded, and how far one is from the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from edgevae.pictures import DepthScale, Image

from .images import Floats
from .style import bare, new_figure, setting

ERROR_COLOURS = "cividis"  # made for colour-blind readers; its lightness rises evenly
_MOST_ERROR = 0.5


@dataclass(frozen=True)
class DepthPair:
    """A held-out frame.

    Attributes:
        color, decoded_color: uint8 (h, w, 3).
        measured: float32 (h, w) metres, NaN where there is no reading; without a metric encoding parts of
            the image's own range.
        decoded: float32 (h, w), in the same unit.
        name: stands on top.
    """

    color: Image
    decoded_color: Image
    measured: Floats
    decoded: Floats
    name: str = ""

    def error(self, metric: bool) -> Floats:
        """|decoded - measured|, as a share of what was measured where that is metres; NaN without reading."""
        difference = np.abs(self.decoded - self.measured)
        return np.asarray(difference / self.measured if metric else difference, np.float32)


def depth_errors(pairs: Sequence[DepthPair], *, metric: bool) -> Figure:
    """A column for each frame: colour, decoded colour, depth, decoded depth, error of depth.

    All frames share the scale of depth and that of the error. Grey has no reading.
    """
    scale = (
        DepthScale.covering(*(pair.measured for pair in pairs))
        if metric
        else DepthScale(0.0, 1.0, relative=True)
    )
    errors = [pair.error(metric) for pair in pairs]
    known = np.concatenate([error[np.isfinite(error)] for error in errors])
    # Round, and not set by a few wild pixels
    high = float(np.percentile(known, 95)) if known.size else _MOST_ERROR
    top = next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if high <= step), _MOST_ERROR)
    map_ = matplotlib.colormaps[ERROR_COLOURS].with_extremes(bad=setting("axes.edgecolor"))
    names = ("colour", "decoded", "depth", "decoded", "error of depth")
    h, w = pairs[0].color.shape[:2]
    side = min(1.5, 9.0 / len(pairs))
    figure = new_figure(side * len(pairs) + 1.4, side * h / w * len(names) + 0.6)
    cells = figure.add_gridspec(len(names), len(pairs) + 1, width_ratios=[1.0] * len(pairs) + [0.12])
    for column, (pair, error) in enumerate(zip(pairs, errors, strict=True)):
        pictures: tuple[npt.NDArray[Any], ...] = (
            pair.color,
            pair.decoded_color,
            scale.colours(pair.measured),
            scale.colours(pair.decoded),
            np.ma.masked_invalid(error),
        )
        for line, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            axes = figure.add_subplot(cells[line, column])
            bare(axes)
            axes.imshow(picture, cmap=map_, vmin=0, vmax=top, interpolation="nearest")
            if line == 0:
                axes.set_title(pair.name, fontsize=7.5, fontweight="normal", loc="center")
            if column == 0:
                axes.set_ylabel(name)
        mean = np.nanmean(error) if np.isfinite(error).any() else None
        axes.set_xlabel("no reading" if mean is None else f"mean {mean:.1%}", fontsize=7.5)
    _depth_bar(figure, figure.add_subplot(cells[2:4, -1]), scale)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, top), map_), cax=figure.add_subplot(cells[4, -1]), extend="max"
    )
    bar.set_label("part of the distance" if metric else "part of the range")
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    return figure


def _depth_bar(figure: Figure, axes: Axes, scale: DepthScale) -> None:
    """The colours of ``DepthScale`` with its distances beside them."""
    steps = np.linspace(0, 1, 256)
    values = steps if scale.relative else scale.near * (scale.far / scale.near) ** steps
    colours = scale.colours(values[None].astype(np.float32))[0] / 255
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), ListedColormap(colours)), cax=axes)
    ticks = scale.ticks()
    while len(ticks) > 7:
        ticks = ticks[::2]
    bar.set_ticks(list(scale.position(ticks)), labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("part of the range" if scale.relative else "metres")
