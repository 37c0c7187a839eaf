"""The cache of decoded images: memory-mapped arrays, written once, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

import edgevae
from edgevae.errors import FrameError, SourceError
from edgevae.files import os_errors_as_sentences

from .prepare import prepare
from .readers import Entry, Reader
from .sets import FrameSet, SetOptions, open_reader

VERSION = 2
LISTED = "skipped.txt"
_ABOUT, _COLOR, _DEPTH = "about.json", "color.u8", "depth.u16"

# What the arrays and entries depend on; the other options may change and the cache stays.
_DECODING = (
    *("kind", "name", "licence", "crop", "depth_scale", "max_depth_m", "height", "size", "fit", "grey"),
    *("split_file", "seeds", "frames", "stride"),
)


def open_set(options: SetOptions, root: Path, cache_dir: Path) -> FrameSet:
    """A set from its cache, which is made first where it is missing or older than the files.

    Raises:
        SourceError: files are missing, or more of the pictures are unusable than ``max_bad`` allows.
        RecordError: the cache cannot be written.
    """
    reader = open_reader(options, root)
    folder = cache_dir / f"{options.name}-{_fingerprint(options, reader)}"
    if not (folder / _ABOUT).exists():
        with os_errors_as_sentences(folder):
            _write(options, reader, folder)
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    if about["skipped"]:
        _complain(about["skipped"], len(about["entries"]), about["first"], options, folder / LISTED)
    color, depth = (
        (folder / name, tuple(shape)) if shape else None
        for name, shape in ((_COLOR, about["color"]), (_DEPTH, about["depth"]))
    )
    assert color is not None
    return FrameSet(options, [Entry(*fields) for fields in about["entries"]], about["skipped"], color, depth)


def _complain(skipped: int, kept: int, first: str, options: SetOptions, listed: Path) -> None:
    share = skipped / (skipped + kept)
    found = f"{skipped} of {skipped + kept} pictures of set {options.name!r} ({share:.2%}) cannot be used"
    if share > options.max_bad:
        raise SourceError(
            f"{found}, {options.max_bad:.2%} are allowed; the first: {first.rstrip('.')}. {listed} lists "
            "all: restore them, take them out, or raise the set's max_bad."
        )
    rank_zero_info(f"{found} and are skipped; {listed} lists them")


def _fingerprint(options: SetOptions, reader: Reader) -> str:
    fields = asdict(options)
    state: list[object] = [VERSION, [fields[key] for key in _DECODING]]
    if options.kind in ("synthetic", "source"):
        state.append([fields["path"], edgevae.__version__])  # no file tells when the renderer changes
    for path in reader.inputs:
        try:
            stat = path.stat()
            state.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        except OSError:  # met again, and counted, when the picture is read
            state.append([str(path), None])
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


def _write(options: SetOptions, reader: Reader, folder: Path) -> None:
    """Decode every picture once; the folder appears under its name only when it is complete."""
    with ExitStack() as stack:
        temporary = stack.enter_context(_only_writer(folder))
        if temporary is None:
            return
        entries = reader.entries()
        color = stack.enter_context((temporary / _COLOR).open("wb"))
        depth = stack.enter_context((temporary / _DEPTH).open("wb"))
        listed = stack.enter_context((temporary / LISTED).open("w", encoding="utf-8"))
        kept: list[Entry] = []
        shapes: list[tuple[int, ...] | None] = []
        first = ""
        for i in _progress(len(entries), f"{options.name}: {len(entries)} pictures into {folder.parent}"):
            try:
                size = (shapes[0][0], shapes[0][1]) if shapes and shapes[0] else None
                image, units = prepare(reader.read(i), options, size)
                if not kept:
                    shapes = [image.shape, None if units is None else units.shape]
                elif image.shape != shapes[0]:
                    raise FrameError(f"the picture is {image.shape}, the set's first {shapes[0]}.")
            except FrameError as error:
                reason = str(error) if entries[i].name in str(error) else f"{entries[i].name}: {error}"
                first = first or reason
                listed.write(f"{reason}\n")
                continue
            kept.append(entries[i])
            color.write(np.ascontiguousarray(image).data)
            if shapes[1] is not None:
                units = np.zeros(shapes[1], np.uint16) if units is None else units
                depth.write(np.ascontiguousarray(units).data)
        if not kept:
            raise SourceError(
                f"none of the {len(entries)} pictures of set {options.name!r} can be used; the first: {first}"
            )
        for file in (color, depth, listed):
            file.close()
        about: dict[str, Any] = {
            "color": [len(kept), *(shapes[0] or ())],
            "depth": None if shapes[1] is None else [len(kept), *shapes[1]],
            "skipped": len(entries) - len(kept),
            "first": first,
            "entries": kept,
        }
        (temporary / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        os.replace(temporary, folder)


@contextmanager
def _only_writer(folder: Path) -> Iterator[Path | None]:
    """A folder to write into, for this process alone; None if another process made the cache meanwhile.

    The lock is on the hidden folder itself and goes with its owner, so what a killed process left behind is
    known to be nobody's, and is cleared away. The block moves the folder to its final name, or it vanishes.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    folder.parent.mkdir(parents=True, exist_ok=True)
    while not folder.exists():
        temporary.mkdir(exist_ok=True)
        try:
            handle = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_open_as(temporary, handle):  # the process that had it has finished or failed
                continue
            for left in temporary.iterdir():
                left.unlink()
            try:
                yield temporary
            finally:
                if _is_open_as(temporary, handle):
                    shutil.rmtree(temporary, ignore_errors=True)
            return
        finally:
            os.close(handle)
    yield None


def _is_open_as(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _progress(total: int, what: str) -> Iterator[int]:
    """0 to ``total``, with a bar on a terminal and one line elsewhere."""
    if not sys.stderr.isatty():
        rank_zero_info(what)
        yield from range(total)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(range(total), what, console=Console(stderr=True), transient=True)
