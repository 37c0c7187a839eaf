"""What the encoder is given of the depth: all, half of it, none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..data.draws import generators

GIVEN, HALF, NONE = "given", "half", "none"
CELLS = 8  # a side; half of them are withheld together

Bool = npt.NDArray[np.bool_]


def hidden(how: str, first: int, shape: tuple[int, int, int]) -> Bool:
    """Which pixels are withheld, bool (N, h, w).

    ``HALF`` withholds 32 of the 8 x 8 cells of an image, drawn from the number of the frame alone, so that
    every model loses the same ones.

    Args:
        how: one of the three.
        first: number of the first frame in its set.
        shape: (N, h, w).
    """
    if how != HALF:
        return np.full(shape, how == NONE)
    n, h, w = shape
    rows, columns = np.arange(h) * CELLS // h, np.arange(w) * CELLS // w
    masks = []
    for rng in generators(0, 0, np.arange(first, first + n)):
        cells = np.zeros(CELLS * CELLS, np.bool_)
        cells[rng.permutation(CELLS * CELLS)[: CELLS * CELLS // 2]] = True
        masks.append(cells.reshape(CELLS, CELLS)[rows[:, None], columns])
    return np.stack(masks)
