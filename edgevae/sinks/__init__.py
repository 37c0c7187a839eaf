"""Where a run's output goes: records of latents (JSON lines, HDF5, MCAP) and pictures of reconstructions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import RecordError
from .base import RecordFile, Row, RunInfo, Sink

__all__ = ["RecordFile", "Row", "RunInfo", "Sink", "open_record"]


def open_record(path: str | Path, *, overwrite: bool = False, pictures: Iterable[str] | None = ()) -> Sink:
    """The sink for a record named ``path``, by its suffix: ``.jsonl``, ``.h5`` or ``.hdf5``, ``.mcap``.

    ``-`` stands for JSON lines on standard output.

    Args:
        path: the file.
        overwrite: replace one that is there.
        pictures: what an ``.mcap`` holds beside latents, see ``McapSink``; None for what it holds as a rule.

    Raises:
        RecordError: another suffix, or pictures in a record that holds none.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".mcap":
        from .mcap import DEFAULT_PICTURES, McapSink

        return McapSink(
            path, overwrite=overwrite, pictures=DEFAULT_PICTURES if pictures is None else pictures
        )
    if pictures:
        raise RecordError(
            f"{path} cannot hold pictures, only latents; record to a file named .mcap for both."
        )
    if str(path) == "-":
        from .jsonl import JsonlPipe

        return JsonlPipe()
    if suffix == ".jsonl":
        from .jsonl import JsonlSink

        return JsonlSink(path, overwrite=overwrite)
    if suffix in (".h5", ".hdf5"):
        from .hdf5 import Hdf5Sink

        return Hdf5Sink(path, overwrite=overwrite)
    raise RecordError(
        f"cannot record to {path}: its suffix is '{path.suffix}', wanted .jsonl (text), .h5 (HDF5) or .mcap."
    )
