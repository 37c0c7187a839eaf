"""Some rows of a record as a record of their own, in the same format and with all that belongs to them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import RecordError
from .files import check_outputs, move_into_place, os_errors_as_sentences, ready_folder, temporary_name
from .latents import hdf5_errors_as_sentences, open_hdf5, read_latents

if TYPE_CHECKING:
    from mcap.records import Message

_HDF5 = (".h5", ".hdf5")
_SUFFIXES = (*_HDF5, ".jsonl", ".mcap", ".parquet")


def check_output(path: Path, output: Path, *, overwrite: bool) -> None:
    """Raise RecordError unless rows of the record ``path`` can be written to ``output``."""
    suffix, wanted = output.suffix.lower(), path.suffix.lower()
    if wanted not in _SUFFIXES:
        raise RecordError(f"{path} has the suffix '{path.suffix}', wanted a record: {', '.join(_SUFFIXES)}.")
    if suffix != wanted and not (suffix in _HDF5 and wanted in _HDF5):
        raise RecordError(f"{output} has the suffix '{output.suffix}', wanted '{path.suffix}' as {path} has.")
    if suffix != ".parquet":
        check_outputs(output, overwrite=overwrite, read=[path])
        return
    from .archive.parquet import refuse_existing_archive

    if output.resolve() == path.resolve():
        raise RecordError(f"{output} is read or written by this command already; choose another name.")
    refuse_existing_archive(output, overwrite=overwrite)
    ready_folder(output.parent)


def select_rows(path: Path, rows: Sequence[int], output: Path, *, overwrite: bool = False) -> None:
    """Write the given rows of the record ``path`` to ``output``, which appears whole or not at all.

    Args:
        path: a record.
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
    if path.suffix.lower() == ".parquet":
        _copy_parquet(path, rows, output, overwrite=overwrite)
        return
    temporary = temporary_name(output)
    try:
        with os_errors_as_sentences(output):
            if path.suffix.lower() == ".jsonl":
                _copy_lines(path, rows, temporary)
            elif path.suffix.lower() == ".mcap":
                _copy_mcap(path, rows, temporary)
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

    copy = io.BytesIO()  # HDF5 itself does not survive a full disk
    with (
        hdf5_errors_as_sentences(path),
        open_hdf5(path) as old,
        h5py.File(copy, "w", libver="latest") as new,
    ):
        new.attrs.update(dict(old.attrs))
        for name, data in old.items():
            if name in ("sources", "cameras"):  # tables that rows refer to by number
                old.copy(name, new)
            elif isinstance(data, h5py.Dataset) and len(data.shape) > 0 and len(data) >= count:
                new.create_dataset(
                    name, data=data[rows], maxshape=(None, *data.shape[1:]), chunks=data.chunks
                )
    output.write_bytes(copy.getbuffer())


def _copy_mcap(path: Path, rows: Sequence[int], output: Path) -> None:
    """The latents of the rows, and every message of the same frame; not what was logged between frames."""
    from .mcap_file import McapScan, copy_mcap
    from .mcap_layout import LATENT_SCHEMA, LOG

    def messages(scan: McapScan) -> Any:
        return (item for item in scan if hasattr(item, "channel_id"))

    scan = McapScan(path)
    latents = [
        (item.log_time, item.sequence) for item in messages(scan) if scan.schema(item) == LATENT_SCHEMA
    ]
    frames, wanted, row = {latents[row] for row in rows}, set(rows), -1

    def belongs(message: Message) -> bool:
        nonlocal row
        if scan.schema(message) == LATENT_SCHEMA:
            row += 1
            return row in wanted
        return scan.topic(message) != LOG and (message.log_time, message.sequence) in frames

    scan = McapScan(path)
    copy_mcap(scan, output, keep=belongs)


def _copy_parquet(path: Path, rows: Sequence[int], output: Path, *, overwrite: bool) -> None:
    from .archive.parquet import begin_archive
    from .latents_parquet import load_pyarrow, parquet_errors_as_sentences, parts_of

    with parquet_errors_as_sentences(path):
        table = load_pyarrow().parquet.read_table([str(part) for part in parts_of(path)]).take(list(rows))
    with os_errors_as_sentences(output):
        begin_archive(table, output, "part-000000.parquet", overwrite=overwrite)
