"""The course of a run: every term of the loss over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .style import colours, new_figure, setting

NATS = "nats per image"
_COLUMNS = 3
_SQUARED = "mse_per_image"

Epochs = Sequence[Mapping[str, float]]


def drawable(metrics: Epochs) -> bool:
    """Whether ``loss_curve`` has anything to draw."""
    return any(lines for _, _, lines in _panels(metrics, NATS))


def loss_curve(metrics: Epochs, best_epoch: int | None = None, unit: str = NATS) -> Figure:
    """One panel for each term that the run logged, over the epochs.

    Args:
        metrics: one row an epoch, as ``training.runs`` reads metrics.csv: "epoch", "train/loss", ... A
            value that is absent or not finite is a gap in its line, and the panel says how many there are.
        best_epoch: gets a dashed line; None for none.
        unit: of the loss and the likelihood term.

    Raises:
        ValueError: nothing was logged.
    """
    panels = [(title, label, lines) for title, label, lines in _panels(metrics, unit) if lines]
    if not panels:
        raise ValueError("the metrics hold no term of a loss")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.7 * columns, 2.5 * rows)
    fields = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, label, lines) in zip(fields, panels, strict=False):
        _panel(axes, metrics, title, label, lines, best_epoch)
    for axes in fields[len(panels) :]:
        axes.set_axis_off()
    return figure


def _panels(metrics: Epochs, unit: str) -> list[tuple[str, str, dict[str, str]]]:
    """Title, unit and the columns of each panel with the names of their lines."""
    known = [key for key in dict.fromkeys(key for row in metrics for key in row) if _values(metrics, key)]

    def present(names: Mapping[str, str]) -> dict[str, str]:
        return {key: name for key, name in names.items() if key in known}

    def both(term: str) -> dict[str, str]:
        return present({f"train/{term}": "training", f"val/{term}": "validation"})

    kl = both("kl") if any(value for _, value in _values(metrics, "train/kl")) else {}
    sets = {key: key.split("/")[1] for key in known if key.count("/") == 2 and key.endswith(f"/{_SQUARED}")}
    errors = {} if len(sets) == 1 else {f"val/{_SQUARED}": "all images"}
    sigmas = {key: key.removeprefix("train/sigma_") for key in known if key.startswith("train/sigma_")}
    return [
        ("Loss", unit, both("loss")),
        ("Likelihood term", unit, both("nll")),
        ("KL term", NATS, kl),
        ("Weight of the KL term", "factor", present({"train/kl_weight": "weight"}) if kl else {}),
        ("Sigma of the likelihood", "of a range from -1 to 1", sigmas),
        ("Squared error, validation", "sum over an image", present(errors | sets)),
        ("Active latents, validation", "latents", both("active_units") if kl else {}),
        ("Learning rate", "", present({"train/lr": "rate"}) if _varies(metrics, "train/lr") else {}),
    ]


def _values(metrics: Epochs, key: str) -> list[tuple[float, float]]:
    """Epochs and finite values of a column. Of an epoch that a resumed run repeated, the last counts."""
    found = {i if "epoch" not in row else int(row["epoch"]): row.get(key) for i, row in enumerate(metrics)}
    return [(e, v) for e, v in sorted(found.items()) if v is not None and math.isfinite(v)]


def _varies(metrics: Epochs, key: str) -> bool:
    return len({value for _, value in _values(metrics, key)}) > 1


def _panel(
    axes: Axes, metrics: Epochs, title: str, label: str, lines: Mapping[str, str], best_epoch: int | None
) -> None:
    everything: list[float] = []
    missing: list[str] = []
    for (key, name), colour in zip(lines.items(), _cycled(len(lines)), strict=True):
        points = _values(metrics, key)
        lost = sum(1 for row in metrics if key in row and not math.isfinite(row[key]))
        if lost:
            missing.append(f"{name}: {lost} not finite")
        everything += [value for _, value in points]
        # Single epochs between gaps, and runs of one epoch, show as dots
        marker = "o" if len(points) <= 30 else ""
        for i, part in enumerate(_unbroken(points, metrics, key)):
            axes.plot(
                *zip(*part, strict=True),
                color=colour,
                marker=marker if len(part) > 1 else "o",
                markersize=3,
                label=name if i == 0 else None,
            )
    axes.set_title(title)
    axes.set_xlabel("; ".join(["epoch", *missing]))
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if min(everything) > 0 and max(everything) > 10 * min(everything):
        axes.set_yscale("log")
        decades = math.log10(max(everything) / min(everything))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif len(set(everything)) == 1:
        only = everything[0]
        axes.set_ylim(only - 0.5 * (abs(only) or 1), only + 0.5 * (abs(only) or 1))
    else:
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    epochs = [epoch for key in lines for epoch, _ in _values(metrics, key)]
    if min(epochs) == max(epochs):
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_xticks([epochs[0]])
    if best_epoch is not None:
        axes.axvline(best_epoch, color=setting("text.color"), linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    if len(lines) > 1:
        axes.legend(loc="best")


def _unbroken(
    points: list[tuple[float, float]], metrics: Epochs, key: str
) -> list[list[tuple[float, float]]]:
    """The points in stretches without a value that is not finite between them.

    An absent value is no gap: validation every few epochs leaves cells empty.
    """
    lost = [int(row.get("epoch", i)) for i, row in enumerate(metrics) if not math.isfinite(row.get(key, 0.0))]
    parts: list[list[tuple[float, float]]] = []
    for point in points:
        if not parts or any(parts[-1][-1][0] < epoch < point[0] for epoch in lost):
            parts.append([])
        parts[-1].append(point)
    return parts


def _cycled(count: int) -> list[str]:
    palette = colours()
    return [palette[i % len(palette)] for i in range(count)]
