"""Reading records of latents back."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import RecordError
from .frame import MAX_SIDE, Intrinsics

if TYPE_CHECKING:
    import h5py  # type: ignore[import-untyped]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_ROWS = ("latent", "timestamp_ns", "frame", "pose")
# Superblock version 3 of the HDF5 file format: signature, version, sizes, flags, two addresses, end of file.
_SUPERBLOCK = struct.Struct("<8sB2xB16xQ")
_BEING_WRITTEN = 0x04  # by a SWMR writer


@dataclass(frozen=True, slots=True)
class Latents:
    """A record in memory; N frames, D numbers each.

    Attributes:
        latent: float32 (N, D).
        timestamp_ns: int64 (N,), on the clock named by ``attrs["clock"]``.
        frame: int64 (N,), the frame's number in its source; gaps are frames that were dropped or skipped.
        pose: float64 (N, 4, 4) camera-to-world, NaN for a frame without one; None if no frame has one.
        attrs: what the record says of the run: ``source``, ``clock``, ``model``, ``model_sha256`` and, from
            HDF5 and MCAP, the rest of its attributes.
        source: int32 (N,), the row's place in ``sources``; None where the record has one source.
        sources: URIs of the sources of an archive that was made by ``edgevae embed``.
        intrinsics: of the colour camera at the first frame, None where the record has none.
    """

    latent: npt.NDArray[np.float32]
    timestamp_ns: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    pose: npt.NDArray[np.float64] | None
    attrs: dict[str, Any] = field(default_factory=dict)
    source: npt.NDArray[np.int32] | None = None
    sources: tuple[str, ...] = ()
    intrinsics: Intrinsics | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def source_of(self, row: int) -> str:
        """URI of the source that the row came from; empty where the record does not say."""
        if self.source is not None:
            return self.sources[int(self.source[row])]
        return str(self.attrs.get("source", ""))


def read_latents(path: str | Path) -> Latents:
    """Read a ``.h5``, ``.hdf5``, ``.jsonl``, ``.mcap`` or ``.parquet`` record, also one that still grows.

    Of a record that was cut short, as by a kill of its writer, every complete row is returned.

    Raises:
        RecordError: the file is missing, unreadable, or not a record of edgevae.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet" and path.exists():
        from .latents_parquet import read_parquet

        return read_parquet(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise RecordError(
            f"{path} {what}, wanted a record (.h5, .jsonl, .mcap or .parquet) written by 'edgevae stream' or "
            "'embed'."
        )
    if suffix == ".jsonl":
        return _read_jsonl(path)
    if suffix in (".h5", ".hdf5"):
        return _read_hdf5(path)
    if suffix == ".mcap":
        from .mcap_latents import read_mcap

        return read_mcap(path)
    raise RecordError(
        f"{path} has the suffix '{path.suffix}', wanted a record: .h5, .hdf5, .jsonl, .mcap or .parquet."
    )


def _read_hdf5(path: Path) -> Latents:
    with hdf5_errors_as_sentences(path), open_hdf5(path) as file:
        check_hdf5(path, file)
        names = [*_HDF5_ROWS, *(["source"] if "source" in file and "sources" in file else [])]
        count = min(file[name].shape[0] for name in names)
        pose = file["pose"][:count].astype(np.float64)
        archive = "source" in names
        return Latents(
            latent=file["latent"][:count].astype(np.float32),
            timestamp_ns=file["timestamp_ns"][:count].astype(np.int64),
            frame=file["frame"][:count].astype(np.int64),
            pose=pose if np.isfinite(pose).any() else None,
            attrs={
                key: value.item() if isinstance(value, np.generic) else value
                for key, value in file.attrs.items()
            },
            source=file["source"][:count].astype(np.int32) if archive else None,
            sources=tuple(uri.decode() for uri in file["sources"][:]) if archive else (),
            intrinsics=check_intrinsics(json.loads(file.attrs.get("intrinsics", "null"))),
        )


@contextmanager
def hdf5_errors_as_sentences(path: Path) -> Iterator[None]:
    """Turn what HDF5 raises over a damaged or foreign file into a RecordError."""
    try:
        yield
    except RecordError:
        raise
    # HDF5 meets damage in many ways.
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{path} is not a readable HDF5 record: {first_words(error)}; wanted a file written by edgevae."
        ) from error


def open_hdf5(path: Path) -> h5py.File:
    """Open a finished record plainly, one that grows or whose writer was killed as a SWMR reader.

    A SWMR reader takes damage for a write in progress and waits for its end for ever, so it is used only
    where the file says it is being written, and only on a file as long as it says it is.
    """
    import h5py

    with path.open("rb") as file:
        head = file.read(_SUPERBLOCK.size)
    if len(head) == _SUPERBLOCK.size:
        signature, version, flags, stored_bytes = _SUPERBLOCK.unpack(head)
        if signature == HDF5_MAGIC and version == 3 and flags & _BEING_WRITTEN:
            if stored_bytes > path.stat().st_size:
                raise OSError(f"it is cut off: {path.stat().st_size} of {stored_bytes} bytes")
            return h5py.File(path, "r", libver="latest", swmr=True, locking="best-effort")
    return h5py.File(path, "r", locking="best-effort")


def check_hdf5(path: Path, file: h5py.File) -> None:
    import h5py

    wanted = {"latent": ("N", "D"), "timestamp_ns": ("N",), "frame": ("N",), "pose": ("N", 4, 4)}
    for name, shape in wanted.items():
        data = file.get(name)
        if not isinstance(data, h5py.Dataset):
            raise RecordError(f"{path} is HDF5, but not a record of latents: it has no data set '{name}'.")
        if data.dtype.kind not in "fiu":
            raise RecordError(f"{path}: data set '{name}' does not hold numbers.")
        if len(data.shape) != len(shape) or (name == "pose" and data.shape[1:] != (4, 4)):
            text = ", ".join(str(size) for size in shape)
            raise RecordError(f"{path}: data set '{name}' has shape {data.shape}, wanted ({text}).")


def _read_jsonl(path: Path) -> Latents:
    rows: list[dict[str, Any]] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break  # the writer was killed, or is, in the middle of this line
            try:
                rows.append(check_row(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise RecordError(f"{path}, line {number}, is not a row of a record: {error}.") from error
    if not rows:
        raise RecordError(f"{path} holds no complete row; wanted a record written by edgevae.")
    lengths = {len(row["latent"]) for row in rows}
    if len(lengths) > 1:
        raise RecordError(f"{path} mixes latents of lengths {sorted(lengths)}, wanted one model's latents.")
    numbers: dict[str, int] = {}
    source = [numbers.setdefault(str(row.get("source", "")), len(numbers)) for row in rows]
    unknown = np.full((4, 4), np.nan)
    poses = [row["pose"] for row in rows]
    return Latents(
        latent=np.stack([row["latent"] for row in rows]),
        timestamp_ns=np.array([row["timestamp_ns"] for row in rows], np.int64),
        frame=np.array([row["frame"] for row in rows], np.int64),
        pose=np.stack([unknown if pose is None else pose for pose in poses])
        if any(pose is not None for pose in poses)
        else None,
        attrs={key: rows[0][key] for key in ("source", "clock", "model", "model_sha256") if rows[0].get(key)},
        source=np.array(source, np.int32) if len(numbers) > 1 else None,
        sources=tuple(numbers) if len(numbers) > 1 else (),
        intrinsics=rows[0]["intrinsics"],
    )


def check_row(fields: Any) -> dict[str, Any]:
    """One line's fields with its arrays made and checked; raises ValueError, KeyError or TypeError."""
    if not isinstance(fields, dict):
        raise TypeError(f"it is a {type(fields).__name__}, wanted an object")
    absent = [key for key in ("frame", "timestamp_ns", "latent") if key not in fields]
    if absent:
        raise ValueError(f"it has no '{absent[0]}'")
    latent = np.asarray(fields["latent"], np.float32)
    if latent.ndim != 1 or latent.size == 0:
        raise ValueError(f"its latent has shape {latent.shape}, wanted a list of numbers")
    pose = fields.get("pose")
    if pose is not None:
        pose = np.asarray(pose, np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"its pose has shape {pose.shape}, wanted (4, 4)")
    return {
        **fields,
        "frame": int(fields["frame"]),
        "timestamp_ns": int(fields["timestamp_ns"]),
        "latent": latent,
        "pose": pose,
        "intrinsics": check_intrinsics(fields.get("intrinsics")),
    }


def check_intrinsics(fields: Any) -> Intrinsics | None:
    """The camera a record names; raises ValueError or TypeError where that is no camera."""
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise TypeError(f"its intrinsics are a {type(fields).__name__}, wanted an object")
    try:
        fx, fy, cx, cy = (float(fields[name]) for name in ("fx", "fy", "cx", "cy"))
        width, height = (int(fields[name]) for name in ("width", "height"))
        distortion = tuple(float(value) for value in fields.get("distortion", ()))
    except KeyError as error:
        raise ValueError(f"its intrinsics lack {error}") from error
    if not all(math.isfinite(number) for number in (fx, fy, cx, cy, *distortion)) or min(fx, fy) <= 0.0:
        raise ValueError(f"its intrinsics are no camera's: {fields}")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"its intrinsics are of {width}x{height} pixels")
    return Intrinsics(fx, fy, cx, cy, width, height, distortion)


def first_words(error: Exception) -> str:
    """HDF5 puts the reason in brackets after its own call's name."""
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text and ")" in text else text
