"""The picture of docs/model-file.md: depth without half of itself, what fills it, and what becomes of it.

EDGEVAE_DATA=DIR python docs/draw_filling.py    # writes docs/images/filling.png; needs edgevae[train],
                                                # and 100 frames of TUM fr1/rpy in DIR/tum_fr1_rpy_100
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import edgevae
from edgevae.preprocess import pack_with_mask, withhold
from training.data.frames import without_holes
from training.evaluate.depth import HALF, hidden

IMAGES = Path(__file__).parent / "images"
TITLES = "colour", "depth, as it was read", "without half of it", "filled", "decoded from that"


def main() -> None:
    folder = Path(os.environ.get("EDGEVAE_DATA", "")) / "tum_fr1_rpy_100"
    if not folder.is_dir():
        sys.exit(f"no folder {folder}; EDGEVAE_DATA must name the folder that holds tum_fr1_rpy_100.")
    model = edgevae.load()
    rows = [pictures(model, uri, index) for uri, index in ((f"tum:{folder}", 60), ("synthetic:0", 60))]
    side, gap, head = 2.0, 0.06, 0.3
    width, height = len(TITLES) * (side + gap) + gap, len(rows) * (side + gap) + head
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    for (i, row), (j, title) in itertools.product(enumerate(rows), enumerate(TITLES)):
        left, bottom = gap + j * (side + gap), height - head - (i + 1) * (side + gap) + gap
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axes.set_axis_off()
        picture, bounds = row[j]
        axes.imshow(picture, cmap="turbo", vmin=bounds[0], vmax=bounds[1], interpolation="antialiased")
        if i == 0:
            axes.set_title(title, fontsize=10, color="#1f2328", pad=4)
    figure.savefig(IMAGES / "filling.png", dpi=90, metadata={"Software": None})


def pictures(model: edgevae.Model, uri: str, index: int) -> list[tuple[np.ndarray, tuple[float, float]]]:
    """Each with the bounds of its colours; depth is in logarithms of metres, NaN without a reading."""
    spec = model.spec.input
    depth = spec.depth
    assert depth is not None
    with edgevae.open_source(uri) as source:
        frame = next(itertools.islice(source, index, None))
    x, measured = pack_with_mask(frame.rgb, frame.depth, spec, depth_scale=frame.depth_scale)
    missing = hidden(HALF, index, measured[None].shape)
    given = withhold(x[None], missing, spec)
    filled = without_holes(torch.from_numpy(given), spec).numpy()[0, 3]
    decoded = model.decode_tensor(model.encode_tensor(given))[0, 3]

    def seen(values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
        metres = np.log(depth.to_metres(values))
        return metres if where is None else np.where(where, metres, np.nan)

    low, high = np.percentile(seen(x[3])[measured], [1, 99])
    shown = seen(x[3], measured), seen(x[3], measured & ~missing[0]), seen(filled), seen(decoded)
    colour = np.clip((x[:3].transpose(1, 2, 0) + 1) / 2, 0, 1)
    return [(colour, (0.0, 1.0)), *((picture, (low, high)) for picture in shown)]


if __name__ == "__main__":
    main()
