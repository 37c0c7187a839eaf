"""The way from one frame to another: how near each step is to its two parents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from edgevae.pictures import Image

from .images import Floats, resized
from .style import new_figure


def shares(decoded: Floats) -> npt.NDArray[np.float64]:
    """How far each step of a way is on its way, (S,): 0 is the first parent, 1 the second.

    The distance to the first parent as a part of both distances, each a root of the mean squared error of
    decoded pictures (S, C, h, w).
    """
    flat = decoded.reshape(len(decoded), -1).astype(np.float64)
    first, last = (np.sqrt(np.square(flat - flat[end]).mean(1)) for end in (0, -1))
    both = first + last
    return np.where(both > 0, first / np.where(both > 0, both, 1), np.linspace(0, 1, len(decoded)))


def parent_shares(ways: Sequence[npt.NDArray[np.float64]], names: Sequence[str]) -> Figure:
    """``shares`` of several ways over their steps. The straight line favours neither parent."""
    figure = new_figure(7.6, 3.4)
    axes = figure.subplots()
    for way, name in zip(ways, names, strict=True):
        axes.plot(np.linspace(0, 1, len(way)), way, marker="o", markersize=3, label=name)
    axes.plot([0, 1], [0, 1], color="0.55", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel("place on the line between the latents")
    axes.set_ylabel("distance to the first parent,\npart of both distances")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside right upper", borderaxespad=1.0)
    return figure


def moving(ways: Sequence[Sequence[Image]], height: int = 192, gap: int = 8) -> list[Image]:
    """Pictures of an animation, all ways side by side, there and back, resting at either end.

    Args:
        ways: pictures uint8 (h, w, 3) of the steps of each way; all ways have as many.
        height: of the animation, about.
        gap: black columns between two ways.
    """
    steps = range(len(ways[0]))
    frames = []
    for step in steps:
        tiles = [resized(way[step], height) for way in ways]
        bar = np.zeros((tiles[0].shape[0], gap, 3), np.uint8)
        parts = [part for tile in tiles for part in (tile, bar)][:-1]
        frames.append(np.concatenate(parts, axis=1))
    rest = 4
    return [frames[0]] * rest + frames[1:-1] + [frames[-1]] * rest + frames[-2:0:-1]
