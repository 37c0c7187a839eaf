"""Writing files so that a final name only ever stands for a complete file, and a failure is one sentence."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import RecordError


@contextmanager
def os_errors_as_sentences(path: Path) -> Iterator[None]:
    """Turn an OSError on ``path`` into a RecordError that names the path and the reason."""
    try:
        yield
    except OSError as error:
        # HDF5's own text runs over half a page; the number says the same in words.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RecordError(f"cannot write {path}: {reason}; check the disk or choose another path.") from error


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise RecordError when ``path`` is there and may not be replaced, or is no file."""
    with os_errors_as_sentences(path):
        if path.is_dir():
            raise RecordError(f"{path} is a folder, wanted the name of a file.")
        if path.exists() and not path.is_file():  # a device, such as /dev/null, would be replaced by a file
            raise RecordError(f"{path} is no regular file, wanted the name of one.")
        if path.exists() and not overwrite:
            raise RecordError(f"{path} exists; choose another name or pass --overwrite.")


def check_outputs(
    *paths: Path | None, overwrite: bool, read: Iterable[Path] = (), suffixes: tuple[str, ...] = ()
) -> None:
    """Make sure, before any work, that a command can write files of these names; their folders are created.

    Args:
        paths: None stands for a file that is not asked for.
        overwrite: replace those that are there.
        read: files that the command reads, which it must not replace.
        suffixes: with these, one of them must end every name.

    Raises:
        RecordError: one is there, is no file, is named twice or read, or cannot be written.
    """
    taken = {os.path.realpath(path) for path in read}
    for path in paths:
        if path is None:
            continue
        if suffixes and path.suffix.lower() not in suffixes:
            wanted = " or ".join(filter(None, (", ".join(suffixes[:-1]), suffixes[-1])))
            raise RecordError(f"{path} has the suffix '{path.suffix}', wanted {wanted}.")
        if os.path.realpath(path) in taken:
            raise RecordError(f"{path} is read or written by this command already; choose another name.")
        taken.add(os.path.realpath(path))
        refuse_existing(path, overwrite=overwrite)
        ready_folder(path.parent)


def ready_folder(folder: Path) -> None:
    """Create ``folder`` with its parents and make sure that files can be created in it.

    Raises:
        RecordError: it cannot be created, is not a folder, or is not writable.
    """
    with os_errors_as_sentences(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # os.access answers from the mode bits alone; a read-only mount only shows when one writes.
        probe = temporary_name(folder / "probe")
        probe.touch()
        probe.unlink()


def sync(*paths: Path) -> None:
    """Have the disk keep what the operating system has of files and folders, for the day the power fails.

    Raises:
        OSError: the disk refuses.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A hidden name beside ``path``, on the same file system, that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes ``path`` when the block ends, and vanishes when it raises.

    Raises:
        OSError: the file system refused.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` under its final name in one step, replacing what is there.

    Raises:
        RecordError: the file cannot be written; nothing is left behind.
    """
    with os_errors_as_sentences(path), replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write ``document`` as indented JSON under its final name in one step.

    Raises:
        RecordError: the file cannot be written.
    """
    write_whole(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def move_into_place(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a file that is being written its final name; it may stay open.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is false.
        OSError: the file system refused.
    """
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, a link never replaces a file made in the meantime
        temporary.unlink()
    except FileExistsError:
        raise
    except OSError as error:
        # FAT and exFAT, usual on memory cards, have no links.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.rename(temporary, path)
