"""Latents as points in a plane: which lie near each other, and does that follow labels or scenes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edgevae.pictures import Image

from .images import Floats
from .style import colours, fitted, new_figure, setting

MOST_POINTS = 1000  # t-SNE takes some 8 s of one core for them
FEWEST_POINTS = 12  # below that neighbourhoods mean nothing
SEED = 0
_MARKERS = "osD^v"
_LEGEND_LINE = 0.17  # inches
_MOST_NAMES = 14  # written among the points


@dataclass(frozen=True)
class Map:
    """Points (N, 2) of one panel. ``limits`` are left, right, bottom, top; None fits the points."""

    title: str
    points: Floats
    x: str = ""
    y: str = ""
    limits: tuple[float, float, float, float] | None = None


def tsne(latents: Floats, start: Floats | None = None) -> Floats:
    """t-SNE of latents (N, D) to (N, 2), from ``start`` (N, 2), a map to resemble, or from PCA."""
    from sklearn.manifold import TSNE

    init = "pca" if start is None else _small(start)
    perplexity = min(30.0, (len(latents) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init=init, random_state=SEED, n_jobs=1)
    return np.asarray(model.fit_transform(latents), np.float32)


def umap(latents: Floats, start: Floats | None = None) -> Floats | None:
    """UMAP of latents (N, D) to (N, 2); None where the package ``umap-learn`` is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    options: dict[str, Any] = {} if start is None else {"init": _small(start) * 1e5}
    neighbours = min(15, len(latents) - 1)
    model = UMAP(n_neighbors=neighbours, random_state=SEED, n_jobs=1, **options)
    return np.asarray(model.fit_transform(latents), np.float32)


def _small(start: Floats) -> Floats:
    """As scikit-learn scales what t-SNE starts from: the first direction has a deviation of 1e-4."""
    return np.asarray(start / max(float(start[:, 0].std()), 1e-9) * 1e-4, np.float32)


def common_limits(points: Sequence[Floats]) -> tuple[float, float, float, float]:
    """Left, right, bottom, top around the inner 99.8 % of all points, so that maps can be compared."""
    together = np.concatenate(list(points))
    low, high = np.percentile(together, (0.1, 99.9), axis=0)
    room = np.maximum((high - low) * 0.06, 1e-3)
    return (
        float(low[0] - room[0]),
        float(high[0] + room[0]),
        float(low[1] - room[1]),
        float(high[1] + room[1]),
    )


def latent_maps(rows: Sequence[Sequence[Map]], groups: npt.NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Scatter plots with one legend.

    Args:
        rows: panels; every map has the points of the same frames.
        groups: (N,) the group of each frame, an index into ``names``.
        names: of the groups: classes or scenes.
    """
    columns = max(len(row) for row in rows)
    side = 4.6 if columns <= 2 else 3.6 if columns == 3 else 3.0
    present = [group for group in range(len(names)) if (groups == group).any()]
    figure = new_figure(side * columns + 1.7, side * len(rows) + 0.1)
    fields = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, fields, strict=True):
        for map_, axes in zip(row, line, strict=False):
            _scatter(axes, map_, groups, names, present)
        for axes in line[len(row) :]:
            axes.set_axis_off()
    if len(present) > 1 or names[present[0]]:
        lines = int(figure.get_figheight() / _LEGEND_LINE) - 2
        shown = present if len(present) <= lines else present[: lines - 1]
        handles: list[Any] = [_handle(group, names[group]) for group in shown]
        if len(present) > len(shown):
            handles.append(Line2D([], [], linestyle="", label=f"and {len(present) - len(shown)} more"))
        figure.legend(handles=handles, loc="outside right upper", handletextpad=0.2, borderaxespad=1.0)
    return figure


def _style(group: int) -> tuple[str, str]:
    palette = colours()
    return palette[group % len(palette)], _MARKERS[group // len(palette) % len(_MARKERS)]


def _handle(group: int, name: str) -> Line2D:
    colour, marker = _style(group)
    label = fitted(name or "frames", 8, 200)
    # A label with a leading underscore would be left out
    return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=5, label=f"\u200b{label}")


def _scatter(
    axes: Axes, map_: Map, groups: npt.NDArray[np.int64], names: Sequence[str], present: Sequence[int]
) -> None:
    size = float(np.clip(3000 / max(len(groups), 1), 3, 28))
    # Mixed, so that the last group does not hide the others
    order = np.random.default_rng(SEED).permutation(len(groups))
    palette = [_style(group)[0] for group in range(len(names))]
    for marker in _MARKERS:
        chosen = [i for i in order if _style(int(groups[i]))[1] == marker]
        axes.scatter(
            map_.points[chosen, 0],
            map_.points[chosen, 1],
            c=[palette[groups[i]] for i in chosen],
            s=size,
            marker=marker,
            linewidths=0,
            alpha=0.8,
        )
    axes.set_title(map_.title)
    axes.set_xlabel(map_.x)
    axes.set_ylabel(map_.y)
    if not map_.x:  # distances of t-SNE and UMAP have no unit
        axes.set_xticks([])
        axes.set_yticks([])
    if map_.limits is not None:
        axes.set_xlim(map_.limits[:2])
        axes.set_ylim(map_.limits[2:])
    if 1 < len(present) <= _MOST_NAMES:
        _write_names(axes, map_, groups, names, present)


def _write_names(
    axes: Axes, map_: Map, groups: npt.NDArray[np.int64], names: Sequence[str], present: Sequence[int]
) -> None:
    """The name of each group at the median of its points, unless another stands there already."""
    corner, far = axes.transAxes.transform([(0, 0), (1, 1)])
    taken: list[npt.NDArray[np.float64]] = []
    for group in present:
        x, y = np.median(map_.points[groups == group], axis=0)
        name = fitted(names[group], 8, 110)
        place = (axes.transData.transform((x, y)) - corner) / (far - corner)
        room = np.array([0.02 + 0.02 * len(name), 0.05])
        if any((np.abs(place - other) < room).all() for other in taken):
            continue
        taken.append(place)
        label = axes.text(x, y, name, fontsize=8, fontweight="bold", ha="center", va="center")
        label.set_path_effects([effects.withStroke(linewidth=2.5, foreground=setting("axes.facecolor"))])
        label.set_clip_on(True)


def latent_line(latents: Floats, groups: npt.NDArray[np.int64], names: Sequence[str]) -> Figure:
    """The distribution of a latent of one number, (N, 1), group by group."""
    figure = new_figure(8, 3.4)
    axes = figure.subplots()
    present = [group for group in range(len(names)) if (groups == group).any()]
    axes.hist(
        [latents[groups == group, 0] for group in present],
        bins=40,
        stacked=True,
        color=[_style(group)[0] for group in present],
        label=[f"\u200b{fitted(names[group] or 'frames', 8, 200)}" for group in present],
    )
    axes.set_xlabel("z")
    axes.set_ylabel("frames")
    if len(present) > 1:
        figure.legend(loc="outside right upper", borderaxespad=1.0)
    return figure


def latent_plane(planes: Mapping[str, Image], z1: Floats, z2: Floats) -> Figure:
    """What a latent of two numbers decodes to all over its plane.

    Args:
        planes: by their titles, side by side: pictures uint8 (len(z2) * len(z1), h, w, 3), row by row.
        z1, z2: coordinates, rising.
    """
    count = len(planes)
    h, w = next(iter(planes.values())).shape[1:3]
    wide = 8.0 if count == 1 else 5.4
    high = wide * min(1.6, (h * len(z2)) / (w * len(z1)))
    figure = new_figure(wide * count, high + 0.5)
    half = (z1[1] - z1[0]) / 2, (z2[1] - z2[0]) / 2
    extent = (z1[0] - half[0], z1[-1] + half[0], z2[0] - half[1], z2[-1] + half[1])
    for axes, (title, tiles) in zip(figure.subplots(1, count, squeeze=False)[0], planes.items(), strict=True):
        # Rows from below to above, as z2 rises
        lines = tiles.reshape(len(z2), len(z1), h, w, 3)[::-1]
        picture = lines.transpose(0, 2, 1, 3, 4).reshape(len(z2) * h, len(z1) * w, 3)
        axes.imshow(picture, extent=extent, aspect="auto", interpolation="antialiased")
        axes.grid(False)
        axes.set_title(title)
        axes.set_xlabel("z1")
        axes.set_ylabel("z2")
    return figure
