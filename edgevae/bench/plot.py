"""Bar charts of bench reports. matplotlib is imported by the function, not by the module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EdgevaeError
from ..files import os_errors_as_sentences, replacing
from .report import BenchReport, Timing

SUFFIXES = (".svg", ".png")
_OURS, _THEIRS = "#1f6feb", "#b6bdc6"
_MAX_COLUMNS = 3


def check_plot(path: Path) -> None:
    """Refuse, before any work, a name or a machine that no plot can be written with.

    Raises:
        EdgevaeError: another suffix than .svg or .png, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise EdgevaeError(f"plot is {str(path)!r}, wanted a name that ends in {' or '.join(SUFFIXES)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise EdgevaeError(
            "--plot needs matplotlib, which is not installed; run 'pip install matplotlib'."
        ) from None


def write_plot(reports: Sequence[BenchReport], path: Path, operations: Sequence[str] | None = None) -> None:
    """One panel an operation and report, the fastest engine on top, each bar with its time and ratio.

    Args:
        reports: each begins a row of panels, and is named above it where there are several.
        path: the file, .svg or .png.
        operations: those to show; None for all.

    Raises:
        EdgevaeError: as :func:`check_plot` says.
        RecordError: the file cannot be written.
    """
    check_plot(path)
    # The figure's own canvas: no window system, and pyplot's state is left alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = []
    for report in reports:
        shown = list(dict.fromkeys(timing.operation for timing in report.timings))
        panels = [name for name in shown if operations is None or name in operations]
        rows += [(report, panels[at : at + _MAX_COLUMNS]) for at in range(0, len(panels), _MAX_COLUMNS)]
    columns = max(len(panels) for _, panels in rows)
    bars = [max(len(_timings(report, name)) for name in panels) for report, panels in rows]
    heights = [0.6 + 0.3 * count for count in bars]
    figure = Figure(figsize=(4.0 * columns, sum(heights) + 0.5), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    before = None
    for part, (report, panels) in zip(parts, rows, strict=True):
        if report is not before:
            part.suptitle(_heading(report), x=0.01, ha="left", fontsize=9, color="#444444")
            before = report
        axes = part.subplots(1, columns, squeeze=False)[0]
        for axis, name in zip(axes, panels, strict=False):
            _panel(axis, name, _timings(report, name))
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
    with os_errors_as_sentences(path), replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)


def _timings(report: BenchReport, operation: str) -> list[Timing]:
    timings = [timing for timing in report.timings if timing.operation == operation]
    return sorted(timings, key=lambda timing: -timing.median_ms)  # bars are drawn from below


def _heading(report: BenchReport) -> str:
    plural = "s" if report.threads > 1 else ""
    name = Path(report.path).name
    return f"{name}: {report.precision}, {report.threads} thread{plural}, batch {report.batch}"


def _panel(axis: Any, operation: str, timings: list[Timing]) -> None:
    names = [timing.engine for timing in timings]
    times = [timing.median_ms for timing in timings]
    colors = [_OURS if name == "edgevae" else _THEIRS for name in names]
    bars = axis.barh(names, times, color=colors, height=0.7)
    labels = [
        _milliseconds(timing.median_ms)
        if timing.engine == "edgevae"
        else f"{_milliseconds(timing.median_ms)}   {timing.ratio:.1f}×"
        for timing in timings
    ]
    axis.bar_label(bars, labels, padding=4, fontsize=8, color="black")
    axis.set_title(operation, loc="left", fontsize=10, fontweight="bold", color="black")
    axis.set_xlim(0, 1.45 * max(times))  # room for the labels
    axis.set_xticks([])
    axis.tick_params(axis="y", length=0, labelsize=8, labelcolor="black")
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)


def _milliseconds(value: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(digits, 3)}f} ms"
