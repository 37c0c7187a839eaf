"""Reading the Parquet archives of ``edgevae embed`` back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import RecordError
from .latents import Latents, check_intrinsics

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_COLUMNS = ("source", "frame", "timestamp_ns", "clock", "latent", "pose", "intrinsics")


def read_parquet(path: Path) -> Latents:
    """Read an archive: a folder of parts, or one Parquet file of the same columns.

    Raises:
        RecordError: it is damaged or holds something else, or pyarrow is not installed.
    """
    pq = load_pyarrow().parquet
    with parquet_errors_as_sentences(path):
        with pq.ParquetFile(parts_of(path)[0]) as file:
            attrs = attributes(file)
        table = pq.read_table([str(part) for part in parts_of(path)], columns=list(_COLUMNS))
        pose = vectors(table, "pose").reshape(-1, 4, 4)
        names, first_rows, source = np.unique(
            table.column("source").to_numpy(), return_index=True, return_inverse=True
        )
        order = np.argsort(first_rows)
        if len(names) == 1:
            attrs["source"] = names[0]
        clocks = table.column("clock").unique().to_pylist()
        if len(clocks) == 1:
            attrs["clock"] = clocks[0]
        camera = table.column("intrinsics")[0].as_py() if len(table) else None
        return Latents(
            latent=vectors(table, "latent").astype(np.float32, copy=False),
            timestamp_ns=table.column("timestamp_ns").to_numpy(),
            frame=table.column("frame").to_numpy(),
            pose=pose if np.isfinite(pose).any() else None,
            attrs=attrs,
            source=np.argsort(order)[source].astype(np.int32),
            sources=tuple(str(names[i]) for i in order),
            intrinsics=check_intrinsics(json.loads(camera or "null")),
        )


def parts_of(path: Path) -> list[Path]:
    """The files of an archive in the order of their rows.

    Raises:
        RecordError: there are none.
    """
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not parts:
        raise RecordError(f"{path} holds no part-*.parquet; wanted an archive written by 'edgevae embed'.")
    return parts


def attributes(file: pq.ParquetFile) -> dict[str, Any]:
    """What a part says of its run, in the words of the other records' attributes."""
    stored = file.schema_arrow.metadata or {}
    attrs: dict[str, Any] = {key.decode(): value.decode() for key, value in stored.items()}
    return {key: int(value) if value.isdecimal() else value for key, value in attrs.items()}


def vectors(table: pa.Table, column: str) -> npt.NDArray[Any]:
    """A column of fixed-size lists as an array (N, size), NaN in the rows that are null."""
    size = table.schema.field(column).type.list_size
    parts = []
    for chunk in table.column(column).chunks:
        values = np.asarray(chunk.values)[chunk.offset * size : (chunk.offset + len(chunk)) * size]
        values = values.reshape(len(chunk), size).copy()
        values[np.asarray(chunk.is_null())] = np.nan
        parts.append(values)
    return np.concatenate(parts) if parts else np.zeros((0, size), np.float32)


def load_pyarrow() -> Any:
    """The module ``pyarrow``.

    Raises:
        RecordError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # a submodule that pyarrow does not import itself
    except ImportError as error:
        raise RecordError('Parquet needs pyarrow; run: pip install "edgevae[parquet]".') from error
    return pyarrow


@contextmanager
def parquet_errors_as_sentences(path: Path) -> Iterator[None]:
    """Turn what Arrow raises over a damaged or foreign file into a RecordError."""
    try:
        yield
    except RecordError:
        raise
    except (
        OSError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
    ) as error:  # Arrow's own errors are of these
        reason = " ".join(str(error).split())[:200]
        raise RecordError(
            f"{path} is not a readable Parquet archive: {reason}; wanted one written by 'edgevae embed'."
        ) from error
