"""What all figures share: light and dark paper, colours that colour-blind readers tell apart, PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 144
LIGHT, DARK = "light", "dark"

# Okabe and Ito's colours without their yellow, which is lost on white paper, and three more; the second row
# is the same hues, bright enough for dark paper. More groups than colours get other markers.
PALETTES = {
    LIGHT: [
        "#0072b2",
        "#e69f00",
        "#009e73",
        "#cc79a7",
        "#d55e00",
        "#56b4e9",
        "#7b3f98",
        "#8c6d31",
        "#6b7280",
        "#a3a800",
    ],
    DARK: [
        "#4aa3e8",
        "#f2b632",
        "#2bc49a",
        "#e39ac6",
        "#f58549",
        "#93d3f7",
        "#bd8fe0",
        "#c9a15a",
        "#a5adb8",
        "#d3da45",
    ],
}
_INKS = {
    # paper, ink, faint
    LIGHT: ("#ffffff", "#1f2328", "#d5d9df"),
    DARK: ("#16171a", "#e2e4e8", "#3b3e45"),
}


def settings(theme: str) -> dict[str, Any]:
    """Matplotlib's settings for ``LIGHT`` or ``DARK`` paper."""
    paper, ink, faint = _INKS[theme]
    return {
        "figure.dpi": DPI,
        "figure.facecolor": paper,
        "savefig.facecolor": paper,
        "axes.facecolor": paper,
        "axes.edgecolor": faint,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=PALETTES[theme]),
        "grid.color": faint,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "text.parse_math": False,  # a class may be called "$5"
        "xtick.color": ink,
        "ytick.color": ink,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.facecolor": paper,
        "legend.edgecolor": "none",
        "legend.framealpha": 0.85,
        "lines.linewidth": 1.6,
        "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same everywhere
        "font.size": 9,
    }


def png(draw: Callable[[], Figure], theme: str = LIGHT) -> bytes:
    """The figure that ``draw`` makes, on paper of the theme. The same figure is the same bytes."""
    with matplotlib.rc_context(cast(Any, settings(theme))), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in another script shows boxes
        figure = draw()
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that makes room for its labels."""
    return Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05))


def colours() -> list[str]:
    """The palette of the paper in use."""
    return [to_hex(entry["color"]) for entry in matplotlib.rcParams["axes.prop_cycle"]]


def setting(name: str) -> str:
    """A colour among matplotlib's settings, such as "text.color"."""
    return str(cast(Any, matplotlib.rcParams)[name])


def bare(axes: Axes) -> None:
    """Neither grid nor frame nor ticks: for pictures."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line of text is in pixels."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, _, _ = _renderer().get_text_width_height_descent(text, font, False)
    return float(width)


def fitted(text: str, size: float, pixels: float) -> str:
    """``text``, or as much of its beginning as fits, with an ellipsis."""
    width = text_width(text, size)
    if width <= pixels:
        return text
    text = text[: int(len(text) * pixels / width) + 3]
    while text and text_width(text + "…", size) > pixels:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=1)
def _renderer() -> Any:
    return cast(Any, RendererAgg)(1, 1, DPI)
