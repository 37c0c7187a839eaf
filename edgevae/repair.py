"""``edgevae repair``: what a record still holds whose writer was killed, or whose disk was damaged.

Whatever is whole is written to a new file, with the index and the end that the old one lacks. The old file
is only read. A row comes out as it was written or not at all.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RecordError
from .files import check_outputs, move_into_place, os_errors_as_sentences, temporary_name
from .latents import HDF5_MAGIC, check_row, first_words, open_hdf5
from .mcap_file import MAGIC, McapScan, copy_mcap
from .mcap_layout import LATENT_SCHEMA

if TYPE_CHECKING:
    from mcap.records import Message

_HDF5_ROWS = ("latent", "timestamp_ns", "frame", "arrival_ns", "pose", "depth_valid", "source", "camera")


@dataclass(slots=True)
class Repair:
    """What was found.

    Attributes:
        output: the new file; None for a record that was whole, when nothing was written.
        rows: rows, or messages of an MCAP file without latents, that were recovered.
        unit: what ``rows`` counts, one of it.
        lost: what had to be left out, as a piece of a sentence; empty for nothing that could be counted.
    """

    output: Path | None = None
    rows: int = 0
    unit: str = "row"
    lost: str = ""


def repair(path: Path, output: Path | None = None, *, overwrite: bool = False) -> Repair:
    """Recover ``path`` into ``output``, by default a file named ``NAME.repaired.SUFFIX`` beside it.

    Raises:
        RecordError: ``path`` is no record or holds no whole row, or ``output`` exists and
            ``overwrite`` is false, or cannot be written.
        EdgevaeError: a library for this kind of record is not installed.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise RecordError(f"{path} {what}, wanted a record: .mcap, .jsonl or .h5.")
    copy, suffix = _kind(path)
    if output is None:
        output = path.with_name(f"{path.stem.lstrip('.')}.repaired{suffix}")
    elif output.suffix.lower() != suffix:
        raise RecordError(f"{path} is a {suffix} record; the new file's name must end in {suffix}, too.")
    check_outputs(output, overwrite=overwrite, read=[path])
    temporary = temporary_name(output)
    try:
        with os_errors_as_sentences(output):
            found, whole = copy(path, temporary)
            if found.rows == 0:
                raise RecordError(f"{path} holds no whole {found.unit}; nothing can be recovered.")
            if not whole:
                move_into_place(temporary, output, overwrite=overwrite)
                found.output = output
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return found


Copy = Callable[[Path, Path], tuple[Repair, bool]]  # writes the second path; whether the first was whole


def _kind(path: Path) -> tuple[Copy, str]:
    """By content: what a kill leaves before the first row was whole has another name."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}.") from error
    if head == MAGIC:
        return _copy_mcap, ".mcap"
    if head == HDF5_MAGIC:
        return _copy_hdf5, path.suffix.lower() if path.suffix.lower() in (".h5", ".hdf5") else ".h5"
    if head.startswith(b"{") or (head and path.suffix.lower() == ".jsonl"):
        return _copy_jsonl, ".jsonl"
    found = f"begins with {head!r}" if head else "is empty"
    raise RecordError(f"{path} {found}, which is no record of edgevae and no MCAP file.")


def _copy_mcap(path: Path, target: Path) -> tuple[Repair, bool]:
    scan = McapScan(path)
    found, latents = Repair(unit="message"), 0

    def counted(message: Message) -> bool:
        nonlocal latents
        found.rows += 1
        latents += scan.schema(message) == LATENT_SCHEMA
        return True

    copy_mcap(scan, target, keep=counted)
    if latents:
        found.rows, found.unit = latents, "row"
    if scan.damaged:
        found.lost = f"{scan.damaged} of {scan.chunks + scan.damaged} chunks are damaged and left out"
    return found, scan.complete and not scan.damaged


def _copy_jsonl(path: Path, target: Path) -> tuple[Repair, bool]:
    found, lost = Repair(), 0
    with path.open("rb") as lines, target.open("wb") as file:
        for line in lines:
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("cut off")
                check_row(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                lost += 1
                continue
            file.write(line)
            found.rows += 1
    if lost:
        found.lost = f"{lost} {'line is' if lost == 1 else 'lines are'} cut off or damaged and left out"
    return found, lost == 0


def _copy_hdf5(path: Path, target: Path) -> tuple[Repair, bool]:
    import h5py  # type: ignore[import-untyped]

    copy = io.BytesIO()  # HDF5 itself does not survive a full disk

    try:
        with open_hdf5(path) as old:
            whole = not old.swmr_mode
            rows = [name for name in _HDF5_ROWS if isinstance(old.get(name), h5py.Dataset)]
            if not {"latent", "frame"} <= set(rows):
                raise RecordError(f"{path} is HDF5, but not a record of latents; nothing can be recovered.")
            lengths = [old[name].shape[0] for name in rows]
            count = min(lengths)
            with h5py.File(copy, "w") as new:
                new.attrs.update(old.attrs)
                for name, data in old.items():
                    if name in rows:
                        shape = (None, *data.shape[1:])
                        new.create_dataset(name, data=data[:count], maxshape=shape, chunks=data.chunks)
                    else:
                        old.copy(name, new)
            extra = max(lengths) - count
    except RecordError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise RecordError(
            f"{path} is damaged where HDF5 keeps its tables ({first_words(error)}); nothing can be recovered."
        ) from error
    target.write_bytes(copy.getbuffer())
    lost = f"{extra} incomplete {'row is' if extra == 1 else 'rows are'} left out" if extra else ""
    return Repair(rows=count, lost=lost), whole and not extra
