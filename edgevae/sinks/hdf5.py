"""A record in HDF5, readable while it grows and after a kill.

HDF5 as a rule loses a file whose writer dies. Its single-writer-multiple-reader mode (SWMR) keeps the
file consistent after every flush. In that mode nothing but rows can be added, so the file is laid out
with the first row in hand, when the camera's clock and intrinsics are known.

Rows are collected and written in blocks. The data set ``frame`` is written after the others have been
flushed: a reader that takes the shortest length of all never sees a row that is not complete.

HDF5 does not survive a full disk either: after a failed write it can neither close the file nor end the
process in order, but tries the same write again until it crashes. So room on the disk is claimed before HDF5
is asked to write into it. Where that was of no use (a file system that cannot set room aside, a disk that
breaks), the file is taken out of HDF5's hands: it closes it in peace, and what it still writes goes nowhere.

After a failure the record goes on in a new file: opening the old one to append would, for a moment, leave it
in a state that no reader takes if the process were killed in it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import os_errors_as_sentences, ready_folder
from ..latents import first_words
from .base import RecordFile, Row, RunInfo

if TYPE_CHECKING:
    import h5py  # type: ignore[import-untyped]

FORMAT_VERSION = 1
FLUSH_ROWS = 30
FLUSH_SECONDS = 0.5
_CHUNK_ROWS = 64
_SPARE_BYTES = 1 << 20
_SYSTEM_SAID = re.compile("error message = '([^']+)'")  # within half a page of HDF5's own words


class Hdf5Sink(RecordFile):
    """Data sets ``latent`` (N, D) float32, ``timestamp_ns``, ``frame`` and ``arrival_ns`` (N,) int64,
    ``pose`` (N, 4, 4) float64 (NaN where unknown) and ``depth_valid`` (N,) float32 (NaN without depth).

    Attributes of the file: ``format_version``, ``edgevae_version``, ``source``, ``live``, ``clock``,
    ``model``, ``model_sha256``, ``precision``, ``latent_dim``, ``depth_encoding`` (JSON), ``depth_scale``
    (metres a unit), ``intrinsics`` (JSON, ``null`` where unknown) and ``created`` (host clock, ns). Clock,
    scale and intrinsics are those of the first row.
    """

    _run: RunInfo
    _file: h5py.File | None = None
    _data: dict[str, h5py.Dataset]  # kept open: one that Python closes writes, too, and says of no failure

    def open(self, run: RunInfo) -> None:
        import h5py  # noqa: F401  # its absence or a broken library must show before the first frame

        self.name_next()
        self.refuse_existing()
        ready_folder(self.path.parent)
        self._run = run
        self._contained = False
        self._data = {}
        self._waiting: list[Row] = []
        self._flushed_s = time.monotonic()

    def write(self, row: Row) -> None:
        self._waiting.append(row)
        due = len(self._waiting) >= FLUSH_ROWS or time.monotonic() - self._flushed_s >= FLUSH_SECONDS
        if self._file is None or due:
            self.flush()

    def flush(self) -> None:
        rows, self._waiting = self._waiting, []  # after a failure they are given once more
        if not rows:
            return
        with self._errors_as_sentences():
            if self._file is None:
                self._start(rows)
            else:
                self._claim_space(self.path, self._file.id.get_filesize(), len(rows))
                with self._failures_contained(self._file):
                    self._append(self._file, rows)
        self.rows += len(rows)
        self._flushed_s = time.monotonic()
        self.keep()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            if self._file is not None:
                file, self._file = self._file, None
                with self._errors_as_sentences():
                    size = file.id.get_filesize()
                    try:
                        with self._failures_contained(file):
                            file.flush()
                    finally:
                        self._data.clear()
                        file.close()
                    if not self._contained:
                        os.truncate(self.path, size)  # gives back what was claimed and not used
                self.keep(at_once=True)

    @contextlib.contextmanager
    def _errors_as_sentences(self) -> Iterator[None]:
        with os_errors_as_sentences(self.path):
            try:
                yield
            except (OSError, RuntimeError) as error:
                said = _SYSTEM_SAID.search(str(error))
                if said is None and isinstance(error, OSError):
                    raise
                raise OSError(said[1] if said else f"HDF5: {first_words(error)}") from error

    @contextlib.contextmanager
    def _failures_contained(self, file: h5py.File) -> Iterator[None]:
        """Where HDF5 fails to write, have it write nowhere from then on; the file stays as it is."""
        try:
            yield
        except BaseException:
            self._contained = True
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, file.id.get_vfd_handle(), inheritable=False)
            os.close(nowhere)
            raise

    def _start(self, rows: list[Row]) -> None:
        import h5py

        def create(name: Path) -> h5py.File:
            name.touch()
            self._claim_space(name, 0, 0)  # a full disk must show before HDF5 creates anything
            return h5py.File(name, "w", libver="latest", locking="best-effort")

        try:
            with self.started(create) as file:
                name = Path(file.filename)
                self._claim_space(name, 0, 0)  # once more: HDF5 has cut the file to nothing
                with self._failures_contained(file):
                    self._lay_out(file, rows[0])
                    self._claim_space(name, file.id.get_filesize(), len(rows))
                    file.swmr_mode = True
                    self._append(file, rows)
        except BaseException:
            self._data.clear()
            raise
        self._file = file

    def _claim_space(self, name: Path, written: int, rows: int) -> None:
        """Have the disk set aside what the next block and HDF5's own tables can need.

        Raises:
            OSError: the disk is full, or a quota or limit is reached.
        """
        row_bytes = 4 * self._run.spec.latent_dim + 160
        wanted = _SPARE_BYTES + 2 * (_CHUNK_ROWS + rows) * row_bytes
        descriptor = os.open(name, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, written, wanted)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            # This file system cannot set space aside; writing to it works all the same.
        finally:
            os.close(descriptor)

    def _lay_out(self, file: h5py.File, row: Row) -> None:

        spec = self._run.spec
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "latent": ((spec.latent_dim,), np.float32),
            "timestamp_ns": ((), np.int64),
            "arrival_ns": ((), np.int64),
            "pose": ((4, 4), np.float64),
            "depth_valid": ((), np.float32),
            "frame": ((), np.int64),
        }
        for name, (shape, dtype) in shapes.items():
            self._data[name] = file.create_dataset(
                name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(_CHUNK_ROWS, *shape)
            )
        facts = {"format_version": FORMAT_VERSION, **self._run.facts(row)}
        for name in ("depth_encoding", "intrinsics"):
            facts[name] = json.dumps(facts[name])
        file.attrs.update(facts)

    def _append(self, file: h5py.File, rows: list[Row]) -> None:
        unknown = np.full((4, 4), np.nan)
        blocks: dict[str, Any] = {
            "latent": [row.latent for row in rows],
            "timestamp_ns": [row.timestamp_ns for row in rows],
            "arrival_ns": [row.arrival_ns for row in rows],
            "pose": [unknown if row.pose is None else row.pose for row in rows],
            "depth_valid": [row.depth_valid for row in rows],
        }
        for name, block in blocks.items():
            extend(self._data[name], block)
        file.flush()
        extend(self._data["frame"], [row.index for row in rows])
        file.flush()


def extend(data: h5py.Dataset, block: list[Any]) -> None:
    """Add rows to a column."""
    length = data.shape[0]
    data.resize(length + len(block), axis=0)
    data[length:] = block
