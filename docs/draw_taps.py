"""The pictures of docs/kernels.md: which taps meet which samples.

python docs/draw_taps.py    # writes docs/images/taps-*.png; needs matplotlib
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

IMAGES = Path(__file__).parent / "images"
WIDTH = 10  # inches; at 150 dots each sharp where GitHub shows 830 pixels

PLAIN, BLUE, ORANGE, GREEN, PINK = "#f3f4f6", "#cfe3ff", "#ffe2bf", "#cdebd3", "#f6d3e6"
DARK, GREY = "#1f2328", "#6b7280"


def canvas(height: float) -> tuple[Figure, Axes]:
    """A figure measured in tenths of its width: x from 0 to 100, y downwards."""
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 100)
    axes.set_ylim(100 * height / WIDTH, 0)
    axes.set_axis_off()
    return figure, axes


def save(figure: Figure, name: str) -> None:
    # Without matplotlib's version in the file, the same picture is the same bytes.
    figure.savefig(IMAGES / f"taps-{name}.png", dpi=150, metadata={"Software": None})


def text(axes: Axes, x: float, y: float, words: str, size: float = 11, **options: str) -> None:
    options = {"ha": "center", "va": "center", "color": DARK, **options}
    axes.text(x, y, words, fontsize=size, **options)


def title(axes: Axes, x: float, y: float, words: str) -> None:
    text(axes, x, y, words, 12, ha="left", fontweight="bold")


def cell(
    axes: Axes, x: float, y: float, w: float, h: float, words: str, color: str = PLAIN, **kw: float
) -> None:
    axes.add_patch(Rectangle((x, y), w, h, facecolor=color, edgecolor=DARK, linewidth=0.9))
    text(axes, x + w / 2, y + h / 2, words, kw.get("size", 11))


def frame(axes: Axes, x: float, y: float, w: float, h: float, color: str) -> None:
    axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=2.6))


def one_dimension() -> None:
    """Upsampling by 2 and three taps: six products, four, three."""
    figure, axes = canvas(3.5)
    title(axes, 2, 2.5, "the definition: 6 products")
    names = ["x[i−1]", "x[i]", "x[i+1]"]
    for index in range(6):
        color = BLUE if index in (2, 3) else PLAIN
        cell(axes, 2 + 5 * index, 6, 5, 5, names[index // 2], color, size=8.5)
    for row, first in ((0, 1), (1, 2)):
        y = 15 + 8 * row
        for tap, name in enumerate("abc"):
            cell(axes, 2 + 5 * (first + tap), y, 5, 5, name, ORANGE)
        text(axes, 2 + 5 * first - 0.8, y + 2.5, "y[2i]" if row == 0 else "y[2i+1]", 9.5, ha="right")

    title(axes, 38, 2.5, "merged taps: 4")
    for index, name in enumerate(names):
        cell(axes, 38 + 7 * index, 6, 7, 5, name, BLUE if index == 1 else PLAIN, size=9.5)
    for row, (first, taps) in enumerate(((0, ("a", "b+c")), (1, ("a+b", "c")))):
        for tap, name in enumerate(taps):
            cell(axes, 38 + 7 * (first + tap), 15 + 8 * row, 7, 5, name, ORANGE)

    title(axes, 66, 2.5, "sum and differences: 3")
    differences = ["x[i−1] − x[i]", "x[i]", "x[i] − x[i+1]"]
    for index, (name, weight) in enumerate(zip(differences, ("a", "a+b+c", "c"), strict=True)):
        x = 66 + 11 * index
        cell(axes, x, 6, 11, 5, name, BLUE if index == 1 else GREEN, size=9.5)
        cell(axes, x, 15, 11, 5, weight, ORANGE)
        text(axes, x + 5.5, 13, "×", 10)
    frame(axes, 66.3, 14.4, 21.4, 6.2, "#2563eb")
    frame(axes, 77.3, 13.8, 21.4, 7.4, "#b45309")
    text(axes, 72, 25, "y[2i] = their sum", 10, color="#2563eb")
    text(axes, 89, 25, "y[2i+1] = the difference", 10, color="#b45309")
    text(
        axes,
        50,
        32,
        "Both outputs want the middle product, so three products make two outputs.",
        10.5,
        color=GREY,
    )
    save(figure, "one-dimension")


NINE = [["UL", "U", "UR"], ["L", "X", "R"], ["DL", "D", "DR"]]
WEIGHTS = [["aa", "as", "ac"], ["sa", "ss", "sc"], ["ca", "cs", "cc"]]
# Signs of the products that each output adds up, by (row, column) of NINE.
OUTPUTS = {
    "y00": {(0, 0): "+", (0, 1): "+", (1, 0): "+", (1, 1): "+"},
    "y01": {(0, 1): "+", (0, 2): "−", (1, 1): "+", (1, 2): "−"},
    "y10": {(1, 0): "+", (1, 1): "+", (2, 0): "−", (2, 1): "−"},
    "y11": {(1, 1): "+", (1, 2): "−", (2, 1): "−", (2, 2): "+"},
}


def two_dimensions() -> None:
    """The nine products, and the four of them that each output adds up."""
    figure, axes = canvas(4.0)
    title(axes, 2, 2.5, "nine products over one pixel or patch")
    for row in range(3):
        for column in range(3):
            middle = (row == 1) + (column == 1)
            color = (PINK, GREEN, BLUE)[middle]
            words = f"{WEIGHTS[row][column]} · {NINE[row][column]}"
            cell(axes, 2 + 11 * column, 6 + 8 * row, 11, 8, words, color)
    text(axes, 18.5, 33, "X the sample, L R U D differences with a neighbour,", 9.5, color=GREY)
    text(axes, 18.5, 36, "UL UR DL DR differences of those", 9.5, color=GREY)
    title(axes, 44, 2.5, "each output adds four of them")
    for index, (name, signs) in enumerate(OUTPUTS.items()):
        left, top = 44 + 28 * (index % 2), 6 + 16.5 * (index // 2)
        for row in range(3):
            for column in range(3):
                sign = signs.get((row, column), "")
                words = f"{sign} {NINE[row][column]}" if sign else ""
                color = (ORANGE if sign == "−" else BLUE) if sign else "white"
                cell(axes, left + 6 * column, top + 4.6 * row, 6, 4.6, words, color, size=9.5)
        text(axes, left + 18.8, top + 7, name, 11, ha="left")
    save(figure, "two-dimensions")


def parities() -> None:
    """A 4x4 window with stride 2 is four 2x2 windows with stride 1."""
    figure, axes = canvas(4.2)
    colors = (BLUE, ORANGE, GREEN, PINK)
    title(axes, 2, 2.5, "4×4, stride 2: four outputs")
    size = 5.4
    for row in range(6):
        for column in range(6):
            x, y = 2 + size * column, 6 + size * row
            tap = f"g{row}{column}" if row < 4 and column < 4 else ""
            cell(axes, x, y, size, size, tap, colors[row % 2 * 2 + column % 2], size=9.5)
    frame(axes, 2, 6, 4 * size, 4 * size, "#2563eb")
    frame(axes, 2 + 2 * size, 6 + 2 * size, 4 * size, 4 * size, "#b45309")
    text(axes, 36, 10, "y00", 10.5, color="#2563eb", ha="left")
    text(axes, 36, 34, "y11", 10.5, color="#b45309", ha="left")
    title(axes, 46, 2.5, "by parity: 2×2, stride 1, nine products each")
    for index, color in enumerate(colors):
        left, top = 46 + 27 * (index % 2), 6 + 17 * (index // 2)
        for row in range(3):
            for column in range(3):
                ky, kx = 2 * row + index // 2, 2 * column + index % 2
                tap = f"g{ky}{kx}" if ky < 4 and kx < 4 else ""
                cell(axes, left + size * column, top + 4.7 * row, size, 4.7, tap, color, size=9.5)
        frame(axes, left, top, 2 * size, 9.4, "#2563eb")
        frame(axes, left + size, top + 4.7, 2 * size, 9.4, "#b45309")
        text(axes, left - 3.5, top + 7, "+" if index else "", 14)
    save(figure, "parities")


def phases() -> None:
    """The four phases, and how few output channels fill a vector."""
    figure, axes = canvas(4.75)
    title(axes, 2, 2.5, "four phases: each output sees 2×2 pixels")
    rows = (("a", "(b+c)"), ("(a+b)", "c"))
    size = 6.4
    for phase in range(4):
        py, px = divmod(phase, 2)
        left, top = 2 + 23 * px, 6 + 18.5 * py
        for row in range(3):
            for column in range(3):
                ty, tx = row - py, column - px
                inside = 0 <= ty < 2 and 0 <= tx < 2
                words = f"{rows[py][ty]}\n× {rows[px][tx]}" if inside else ""
                color = ORANGE if inside else PLAIN
                cell(axes, left + size * column, top + 5.2 * row, size, 5.2, words, color, size=7.5)
        frame(axes, left + size, top + 5.2, size, 5.2, "#2563eb")
        text(axes, left + 1.5 * size, top + 17, f"y{py}{px}", 10)
    text(axes, 2, 45.5, "of the kernel: rows × columns, summed", 9.5, ha="left", color=GREY)
    title(axes, 52, 2.5, "4 output channels, vectors of 16 lanes")
    text(axes, 52, 7, "nine products: 9 vectors per k, a quarter in use", 10, ha="left")
    lane = 2.7
    for vector in range(9):
        for index in range(16):
            color = BLUE if index < 4 else "white"
            cell(axes, 52 + lane * index, 9 + 1.7 * vector, lane, 1.7, "", color)
    text(axes, 52, 28, "columns: 4 phases × 4 taps × 4 channels fill 4 vectors", 10, ha="left")
    for vector in range(4):
        for index in range(16):
            color = (BLUE, ORANGE, GREEN, PINK)[vector]
            cell(axes, 52 + lane * index, 30 + 1.7 * vector, lane, 1.7, "", color)
    text(axes, 52, 39.5, "an output is the sum of four columns, of four pixels", 10, ha="left", color=GREY)
    save(figure, "phases")


def order() -> None:
    """Where pixels and weights are while they are multiplied."""
    figure, axes = canvas(3.95)
    title(axes, 2, 2.5, "weights, in memory")
    for panel in range(4):
        for chunk in range(5):
            color = ORANGE if (panel, chunk) == (1, 2) else GREEN if (panel, chunk) == (1, 3) else PLAIN
            cell(axes, 2 + 6 * panel, 5 + 4.4 * chunk, 5, 4.4, "", color)
        text(axes, 4.5 + 6 * panel, 29, f"panel {panel}", 9)
    text(axes, 2, 32.5, "a panel: one or two vectors of channels, all k", 9.5, ha="left", color=GREY)
    title(axes, 34, 2.5, "a chunk, in the first-level cache")
    cell(axes, 34, 6, 12, 6, "up to 192 k", ORANGE)
    cell(axes, 34, 15, 12, 6, "the next one", GREEN, size=10)
    text(axes, 47, 18, "on its way to the second level", 9.5, ha="left", color=GREY)
    text(axes, 47, 9, "× every tile of the block", 10.5, ha="left")
    title(axes, 70, 2.5, "a block, in the second level")
    for tile in range(5):
        cell(axes, 70 + 5.6 * tile, 6, 5, 16, "", BLUE)
    text(axes, 84, 25, "gathered once: tiles of up to 14 or 28 pixels", 9.5, color=GREY)
    text(axes, 84, 28, "(AVX-512), at most 768 KiB", 9.5, color=GREY)
    text(
        axes,
        50,
        37,
        "Every weight travels from memory once per block; its pixels are there already.",
        10.5,
        color=DARK,
    )
    save(figure, "order")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for draw in (one_dimension, two_dimensions, parities, phases, order):
        draw()


if __name__ == "__main__":
    main()
