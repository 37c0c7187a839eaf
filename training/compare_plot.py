"""Quality over latency: a panel for each held-out set, runs as discs, principal components as diamonds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from edgevae.files import os_errors_as_sentences, replacing

from .compare_rows import MEAN, PCA, Row, significant
from .compare_table import Table

# Of Okabe and Ito, which colour-blind readers tell apart, as they do the shapes.
_RUN, _BEST, _BUDGET, _GREY = "#0072b2", "#d55e00", "#009e73", "#6b7280"

# Where a name may stand beside its point, in points, and which of its sides is towards it; the best first.
_PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (6, 6, "left", "bottom"),
    (6, -6, "left", "top"),
    (-6, 6, "right", "bottom"),
    (-6, -6, "right", "top"),
    (0, 20, "center", "bottom"),
    (0, -20, "center", "top"),
)


def write_plot(tables: Sequence[Table], path: Path) -> None:
    """Draw all tables into one PNG.

    Raises:
        RecordError: the file cannot be written.
    """
    # The figure's own canvas: no window system, and pyplot's state is left alone.
    figure = Figure(figsize=(8.6, 0.2 + 4.6 * len(tables)), facecolor="white", layout="constrained")
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    panels = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    for axes, table in zip(panels, tables, strict=True):
        _panel(axes, table)
    figure.draw(renderer)  # makes the layout, which names must not move
    figure.set_layout_engine("none")
    for axes, table in zip(panels, tables, strict=True):
        _write_names(axes, table, renderer)
    with os_errors_as_sentences(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _panel(axes: Axes, table: Table) -> None:
    timed, best, budget = _timed(table), table.best(), table.setting.budget_ms
    lines = [row for row in timed if row.kind == PCA]
    runs = [row for row in timed if row.kind != PCA and row is not best]
    axes.set_xscale("log")
    axes.set_yscale("log")
    if lines:
        axes.scatter(*_points(lines), marker="D", s=36, facecolor="white", edgecolor=_GREY, label="PCA")
    if runs:
        axes.scatter(*_points(runs), s=44, color=_RUN, zorder=3, label="run")
    if best is not None:
        axes.scatter(*_points([best]), marker="*", s=190, color=_BEST, zorder=4, label="best run")
    if budget is not None:
        axes.axvline(budget, color=_BUDGET, linewidth=1.2, linestyle="--", label=f"budget, {budget:g} ms")
    for row in table.rows:
        if row.kind == MEAN:
            label = f"{row.name}, {significant(row.mse, 4)}"
            axes.axhline(_height(row), color=_GREY, linewidth=1, zorder=0, label=label)
    times = [row.total_ms for row in timed] + ([] if budget is None else [budget])
    axes.set_xlim(*_limits(axes.xaxis, times, 1.6))
    axes.set_ylim(*_limits(axes.yaxis, [_height(row) for row in table.rows], 1.25))
    axes.set_xlabel(f"ms to encode and decode a frame (native engine, {table.setting.threads_in_words})")
    axes.set_ylabel("squared error per image")
    axes.set_title(
        f"{table.title}: lower left is better", loc="left", fontsize=10, fontweight="bold", parse_math=False
    )
    axes.grid(True, which="major", color="#d5d9df", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _timed(table: Table) -> list[Row]:
    return [row for row in table.rows if math.isfinite(row.total_ms)]


def _points(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [row.total_ms for row in rows], [_height(row) for row in rows]


def _height(row: Row) -> float:
    return max(row.mse, 1e-6)  # no error at all has no place on a logarithmic axis


def _limits(axis: Axis, values: Sequence[float], room: float) -> tuple[float, float]:
    """Ends that leave ``room`` around the values, and ticks in plain numbers."""
    low, high = min(values), max(values)
    span = high / low
    locator: Locator = MaxNLocator(6)  # less than a decade holds too few of 1, 2, 5
    if span > 4:
        locator = LogLocator(subs=(1.0, 2.0, 5.0) if span < 1e3 else (1.0,))
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    room = max(room, span**0.06)
    return low / room, high * room


def _write_names(axes: Axes, table: Table, renderer: RendererAgg) -> None:
    """Write each name where it covers neither a point nor another name, if there is such a place."""
    rows, best, frame = _timed(table), table.best(), axes.get_window_extent(renderer)
    taken = []
    for x, y in axes.transData.transform([(row.total_ms, _height(row)) for row in rows]):
        taken.append(Bbox.from_extents(x - 6, y - 6, x + 6, y + 6))
    for row in rows:
        for place in _PLACES:
            text = _name(axes, row, place, row is best)
            box = text.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
        else:
            _name(axes, row, _PLACES[0], row is best)


def _name(axes: Axes, row: Row, place: tuple[int, int, str, str], bold: bool) -> Annotation:
    dx, dy, side, edge = place
    return axes.annotate(
        row.name,
        (row.total_ms, _height(row)),
        (dx, dy),
        textcoords="offset points",
        ha=side,
        va=edge,
        fontsize=8,
        color=_GREY if row.kind == PCA else "black",
        fontweight="bold" if bold else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        zorder=5,
        parse_math=False,  # a run may be called "$5"
    )
