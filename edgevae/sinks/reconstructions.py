"""One picture a frame: the camera's colour and depth beside what the latent decodes to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecordError
from ..files import os_errors_as_sentences, ready_folder, write_whole
from ..words import counted
from .base import Row, RunInfo, Sink

if TYPE_CHECKING:
    from .sheets import Sheets

_NAME = re.compile(r"frame_\d{6,}\.png")


class ReconstructionSink(Sink):
    """Writes ``frame_NNNNNN.png``, each a sheet as ``Sheets`` draws it."""

    needs_pictures = True
    _sheets: Sheets
    _old: list[Path]

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.path = folder
        self.overwrite = overwrite

    def open(self, run: RunInfo) -> None:
        from .sheets import Sheets  # OpenCV is loaded here, not while the first frame waits

        ready_folder(self.path)
        with os_errors_as_sentences(self.path):
            found = [] if self.rows else self.path.iterdir()  # else this run's own
            self._old = [name for name in found if _NAME.fullmatch(name.name)]
        if self._old and not self.overwrite:
            raise RecordError(
                f"{self.path} holds {counted(len(self._old), 'picture')} of another run; choose another "
                "folder or pass --overwrite."
            )
        self._sheets = Sheets(run.spec)

    def write(self, row: Row) -> None:
        from ..pictures import png

        picture = png(self._sheets.draw(row))
        with os_errors_as_sentences(self.path):
            while self._old:  # now that the new run has started well
                self._old.pop().unlink(missing_ok=True)
        write_whole(self.path / f"frame_{row.index:06d}.png", picture)
        self.rows += 1
