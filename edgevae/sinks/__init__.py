"""Where a run's output goes: records of latents (JSON lines, HDF5) and pictures of reconstructions."""

from __future__ import annotations

from pathlib import Path

from ..errors import RecordError
from .base import RecordFile, Row, RunInfo, Sink

__all__ = ["RecordFile", "Row", "RunInfo", "Sink", "open_record"]


def open_record(path: str | Path, *, overwrite: bool = False) -> Sink:
    """The sink for a record named ``path``: ``.jsonl`` for JSON lines, ``.h5`` or ``.hdf5`` for HDF5.

    ``-`` stands for JSON lines on standard output.

    Raises:
        RecordError: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
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
        f"cannot record to {path}: its suffix is '{path.suffix}', wanted .jsonl (text) or .h5 (HDF5)."
    )
