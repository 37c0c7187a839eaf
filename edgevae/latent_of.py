"""Which latent an argument means: a row of a record, or a frame of a source, which is then encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .decode import check_model
from .errors import FrameError, LatentError, RecordError, SourceError
from .frame import Frame
from .latents import Latents, read_latents
from .model import Model
from .sources import open_source
from .words import counted

RECORD_SUFFIXES = (".h5", ".hdf5", ".jsonl", ".mcap", ".parquet")
FORMS = "RECORD#ROW, COLOR.png, COLOR.png,DEPTH.png, or SOURCE#FRAME"


@dataclass(frozen=True, slots=True)
class Named:
    """A latent (D,), what it is called, and the frame it was encoded from, None for a recorded one."""

    latent: npt.NDArray[np.float32]
    name: str
    frame: Frame | None = None


def latent_of(text: str, model: Model) -> Named:
    """The latent that ``text`` names.

    Args:
        text: ``latents.h5#12`` for row 12 of a record (from 0), a picture, a picture and its depth with a
            comma between, or a source with the place of a frame (``tum:DIR#40``; without, its first).
        model: encodes a frame; a record must have been made with it.

    Raises:
        LatentError, RecordError, SourceError, FrameError: there is no such row or frame, or it is not usable.
    """
    body, number = _split(text)
    if Path(body).suffix.lower() in RECORD_SUFFIXES and Path(body).exists() and not body.startswith("tum:"):
        record = read_latents(body)
        check_model(record, model, any_model=False)
        if number is None:
            raise RecordError(f"{body} holds {counted(len(record), 'latent')}; say which one: {body}#0.")
        return Named(row_of(record, number, body), f"{Path(body).name}#{number}")
    frame = _frame(body, number or 0)
    name = Path(body if Path(body).exists() else body.split(",")[0]).name or body
    return Named(model.encode_frame(frame).latent, f"{name}#{number}" if number is not None else name, frame)


def row_of(record: Latents, row: int, name: str) -> npt.NDArray[np.float32]:
    """The latent in a row of ``record``.

    Raises:
        LatentError: there is no such row.
    """
    if not 0 <= row < len(record):
        raise LatentError(f"{name} has no row {row}; its rows are 0 to {len(record) - 1}.")
    return np.ascontiguousarray(record.latent[row])


def _split(text: str) -> tuple[str, int | None]:
    """``BODY#N``; a path that exists as it stands is all body."""
    body, mark, number = text.rpartition("#")
    if not mark or Path(text).exists():
        return text, None
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise LatentError(f"'{text}' ends with '#{number}', wanted {FORMS}.")
    return body, int(number)


def _frame(uri: str, place: int) -> Frame:
    """The frame at ``place``, counted from 0 over those that can be read."""
    seen, bad = 0, ""
    with open_source(uri) as source:
        if source.live and place:
            raise SourceError(f"{source.name} is live: it has no frame {place}; leave out '#{place}'.")
        while True:
            try:
                frame = source.read()
            except FrameError as error:
                bad = f"; unusable: {error}"
                continue
            if frame is None:
                raise SourceError(
                    f"{source.name} has {counted(seen, 'frame')}, wanted frame {place} (from 0){bad}."
                )
            if seen == place:
                return frame
            seen += 1
