"""Some rows of a record as a record of their own, in the same format and with all their columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RecordError
from .files import check_outputs, move_into_place, os_errors_as_sentences, temporary_name
from .latents import hdf5_errors_as_sentences, open_hdf5, read_latents

_HDF5 = (".h5", ".hdf5")


def check_output(path: Path, output: Path, *, overwrite: bool) -> None:
    """Raise RecordError unless rows of the record ``path`` can be written to ``output``."""
    suffix, wanted = output.suffix.lower(), path.suffix.lower()
    if wanted not in (*_HDF5, ".jsonl"):
        raise RecordError(f"rows can be selected from .h5 and .jsonl records; {path} has '{path.suffix}'.")
    if suffix != wanted and not (suffix in _HDF5 and wanted in _HDF5):
        raise RecordError(f"{output} has the suffix '{output.suffix}', wanted '{path.suffix}' as {path} has.")
    check_outputs(output, overwrite=overwrite, read=[path])


def select_rows(path: Path, rows: Sequence[int], output: Path, *, overwrite: bool = False) -> None:
    """Write the given rows of the record ``path`` to ``output``, which appears whole or not at all.

    Args:
        path: a .h5 or .jsonl record.
        rows: ascending, from 0.
        output: of the same suffix.
        overwrite: replace what is there.

    Raises:
        RecordError: one of the files cannot be read or written, or there is no such row.
    """
    check_output(path, output, overwrite=overwrite)
    count = len(read_latents(path))
    if len(rows) == 0 or min(rows) < 0 or max(rows) >= count:
        raise RecordError(f"{path} has the rows 0 to {count - 1}, wanted {list(rows)[:10]} of it.")
    temporary = temporary_name(output)
    try:
        with os_errors_as_sentences(output):
            if path.suffix.lower() == ".jsonl":
                _copy_lines(path, rows, temporary)
            else:
                _copy_hdf5(path, np.asarray(rows), count, temporary)
            move_into_place(temporary, output, overwrite=overwrite)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_lines(path: Path, rows: Sequence[int], output: Path) -> None:
    wanted = set(rows)
    with path.open("rb") as lines, output.open("wb") as file:
        for number, line in enumerate(lines):
            if number in wanted:
                file.write(line)


def _copy_hdf5(path: Path, rows: Any, count: int, output: Path) -> None:
    import h5py  # type: ignore[import-untyped]

    with (
        hdf5_errors_as_sentences(path),
        open_hdf5(path) as old,
        h5py.File(output, "w", libver="latest") as new,
    ):
        new.attrs.update(dict(old.attrs))
        for name, data in old.items():
            if name in ("sources", "cameras"):  # tables that rows refer to by number
                old.copy(name, new)
            elif isinstance(data, h5py.Dataset) and len(data.shape) > 0 and len(data) >= count:
                new.create_dataset(
                    name, data=data[rows], maxshape=(None, *data.shape[1:]), chunks=data.chunks
                )
