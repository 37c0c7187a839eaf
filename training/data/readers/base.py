"""What a reader is.

A reader decodes one picture at a time and never changes it; cropping, masking and resizing belong to
``training.data.prepare``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

# uint8 (H, W, 3) in R, G, B order, or (H, W) of a set that is grey; float32 (H, W) metres, 0 = no reading, or
# None of a set without depth.
Picture = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]


class Entry(NamedTuple):
    """What is known of a picture without decoding it.

    Attributes:
        name: of the picture in its set: a file below the set's folder, or a number.
        scene: what ``hold_out``, ``test`` and ``leave_out`` name.
        licence: what it was published under.
        label: its class; empty for none.
        group: pictures that show the same place or the same seconds, and so belong to one part of a split.
    """

    name: str
    scene: str
    licence: str
    label: str
    group: str


class Reader(Protocol):
    """Pictures of one origin.

    Attributes:
        inputs: the files that the pictures and their entries come from; the cache is made again when one of
            them changes.

    Making one finds the files and may raise SourceError.
    """

    inputs: list[Path]

    def entries(self) -> list[Entry]:
        """One for each picture.

        Raises:
            SourceError: the set cannot be listed.
        """

    def read(self, index: int) -> Picture:
        """Picture ``index`` of ``entries()``.

        Raises:
            FrameError: this one picture cannot be used; names the file.
            SourceError: none of them can.
        """
