"""An archive in Parquet: a folder of parts, each a whole file, as Spark, Dask and Ray write data sets.

A Parquet file can be read only when its end is written. So rows are collected and written as a part under a
temporary name, which then takes its own in one step. To resume, new parts are added; nothing is written
again. What a kill costs is the rows of the part that was not yet written: they are made again.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..files import os_errors_as_sentences, ready_folder, replacing, sync, temporary_name
from ..latents_parquet import attributes, load_pyarrow, parquet_errors_as_sentences, parts_of
from ..model import ModelSpec
from ..sinks.base import Row
from ..words import printable
from .base import Archive, Found, check_same
from .plan import Place, Plan
from .tables import to_table

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
PART_ROWS = 16384  # 28 MB of the shipped model's latents
PART_SECONDS = 60.0


class ParquetArchive(Archive):
    """``FOLDER/part-000000.parquet`` and so on, rows in order; columns as ``tables.schema`` says.

    Each part's metadata hold ``format_version``, ``edgevae_version``, ``model``, ``model_sha256``,
    ``precision``, ``latent_dim``, ``sources_sha256`` and ``created``.

    Args:
        path: the folder; it appears with the first part.
        overwrite: replace an old archive, or one file.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        load_pyarrow()
        self.path = path
        self._overwrite = overwrite
        self._waiting: list[tuple[str, Row]] = []
        self._part = 0

    def find(self, plan: Plan, spec: ModelSpec) -> Found | None:
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise RecordError(
                f"{self.path} is a file, wanted the folder of a Parquet archive; choose another name."
            )
        rows = 0
        with parquet_errors_as_sentences(self.path):
            parts = parts_of(self.path)
            for part in parts:
                with load_pyarrow().parquet.ParquetFile(part) as file:
                    about = attributes(file)
                    check_same(self.path, plan, spec, about.get("sources_sha256"), about.get("model_sha256"))
                    rows += file.metadata.num_rows
            end = load_pyarrow().parquet.read_table(parts[-1], columns=["source", "frame"])
            last = end.slice(len(end) - 1).to_pylist()[0]
        self._part = int(parts[-1].stem.rpartition("-")[2]) + 1
        return Found(Place(plan.names.index(last["source"]), last["frame"]), rows)

    def begin(self, plan: Plan, spec: ModelSpec, found: Found | None) -> None:
        if found is None:
            refuse_existing_archive(self.path, overwrite=self._overwrite)
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            name = printable(str(self.path))
            raise RecordError(f"{name} has bytes that are no text; Arrow wants another name.") from error
        ready_folder(self.path.parent)
        self._plan, self._spec, self._resumed = plan, spec, found is not None
        self.rows = 0 if found is None else found.rows
        self._due_s = time.monotonic() + PART_SECONDS

    def add(self, source: int, row: Row) -> None:
        self._waiting.append((self._plan.names[source], row))
        self.rows += 1
        if len(self._waiting) >= PART_ROWS:
            self._write_part()

    def flush(self) -> None:
        if time.monotonic() >= self._due_s:
            self._write_part()

    def close(self) -> None:
        try:
            self._write_part()
        except BaseException:
            self.rows -= len(self._waiting)  # they are in no file, and nobody asks for them again
            self._waiting.clear()
            raise

    def _write_part(self) -> None:
        self._due_s = time.monotonic() + PART_SECONDS
        if not self._waiting:
            return
        names, rows = zip(*self._waiting, strict=True)
        table = to_table(names, rows, self._spec.latent_dim)
        table = table.replace_schema_metadata({key: str(value) for key, value in self._about().items()})
        name = f"part-{self._part:06d}.parquet"
        with os_errors_as_sentences(self.path):
            if self._part == 0 and not self._resumed:
                begin_archive(table, self.path, name, overwrite=self._overwrite)
            else:
                with replacing(self.path / name) as temporary:
                    write_part(table, temporary)
                sync(self.path)
        self._waiting.clear()
        self._part += 1

    def _about(self) -> dict[str, Any]:
        from .. import __version__

        return {
            "format_version": FORMAT_VERSION,
            "edgevae_version": __version__,
            "model": self._spec.name,
            "model_sha256": self._spec.sha256,
            "precision": self._spec.precision,
            "latent_dim": self._spec.latent_dim,
            "sources_sha256": self._plan.digest,
            "created": time.time_ns(),
        }


def refuse_existing_archive(path: Path, *, overwrite: bool) -> None:
    """Raise RecordError when ``path`` is there and may not be replaced, or is a folder of other things."""
    if path.exists() and not overwrite:
        raise RecordError(f"{path} exists; choose another name or pass --overwrite.")
    if path.is_dir() and any(not entry.name.startswith(("part-", ".part-")) for entry in path.iterdir()):
        raise RecordError(f"{path} is a folder that holds more than an archive; choose another name.")


def begin_archive(table: pa.Table, path: Path, name: str, *, overwrite: bool) -> None:
    """Have the folder ``path`` appear with its first part in it.

    Raises:
        RecordError: it has been made by somebody else in the meantime.
        OSError: it cannot be written.
    """
    folder = temporary_name(path)
    try:
        folder.mkdir()
        write_part(table, folder / name)
        sync(folder)
        refuse_existing_archive(path, overwrite=overwrite)
        old = folder.with_name(f"{folder.name}.old")
        if path.exists():
            os.rename(path, old)
        os.rename(folder, path)
        sync(path.parent)
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_part(table: pa.Table, path: Path) -> None:
    """Write a part, which the disk is made to keep."""
    pq = load_pyarrow().parquet
    pq.write_table(table, path, compression="zstd", use_dictionary=["source", "clock", "intrinsics"])
    sync(path)
