"""What a sink is: somewhere a run's latents, and pictures of them, go. One file per kind of sink."""

from __future__ import annotations

import abc
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ..files import move_into_place, os_errors_as_sentences, refuse_existing, sync, temporary_name
from ..frame import Frame, Intrinsics
from ..words import counted, printable

if TYPE_CHECKING:
    from ..model import Decoded, ModelSpec

KEEP_SECONDS = 0.75


class Closable(Protocol):
    """An open file of whatever library."""

    def close(self) -> Any: ...


F = TypeVar("F", bound=Closable)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known before the first frame: the source's name, the model, and its latent's length."""

    source: str
    live: bool
    spec: ModelSpec

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", printable(self.source))

    def facts(self, row: Row) -> dict[str, Any]:
        """What a record says about all of its rows, of which ``row`` is the first; docs/records.md."""
        from .. import __version__

        spec, depth = self.spec, self.spec.input.depth
        return {
            "edgevae_version": __version__,
            "source": self.source,
            "live": self.live,
            "clock": row.clock,
            "model": spec.name,
            "model_sha256": spec.sha256,
            "precision": spec.precision,
            "latent_dim": spec.latent_dim,
            "depth_encoding": None if depth is None else asdict(depth),
            "depth_scale": row.depth_scale,
            "intrinsics": None if row.intrinsics is None else asdict(row.intrinsics),
            "created": time.time_ns(),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded frame on its way to the sinks.

    Attributes:
        latent: float32 (D,).
        depth_valid: fraction of the frame's depth pixels with a reading of the sensor's own; NaN without a
            depth image.
        frame, decoded: the pictures, None unless a sink of the run asks for them: a queue of rows then
            stays small.
    """

    index: int
    timestamp_ns: int
    clock: str
    arrival_ns: int
    latent: npt.NDArray[np.float32]
    depth_valid: float
    depth_scale: float
    intrinsics: Intrinsics | None
    pose: npt.NDArray[np.float64] | None
    frame: Frame | None = None
    decoded: Decoded | None = None

    @staticmethod
    def of(frame: Frame, latent: npt.NDArray[np.float32], decoded: Decoded | None = None) -> Row:
        """The row of ``frame``; the frame itself is kept only together with its decoded picture."""
        return Row(
            index=frame.index,
            timestamp_ns=frame.timestamp_ns,
            clock=frame.clock,
            arrival_ns=frame.arrival_ns,
            latent=latent,
            depth_valid=valid_fraction(frame.depth if frame.measured is None else frame.measured),
            depth_scale=frame.depth_scale,
            intrinsics=frame.intrinsics,
            pose=frame.pose,
            frame=None if decoded is None else frame,
            decoded=decoded,
        )


def valid_fraction(depth: npt.NDArray[Any] | None) -> float:
    """Fraction of pixels with a reading (finite and above 0; of a mask: true); NaN without depth."""
    if depth is None:
        return math.nan
    if depth.dtype != np.float32:
        return float(np.count_nonzero(depth)) / depth.size
    return float(np.count_nonzero((depth > 0) & (depth < np.inf))) / depth.size


class Sink(abc.ABC):
    """Takes rows in the order of their frames.

    The first ``open`` comes from the thread of the run, every later call from one thread of the sink's own
    (writer.py), so a sink may take its time. Where a call raises RecordError, ``close`` follows, later
    ``open``, and then once more every row that ``rows`` does not count yet: a sink counts a row when it is
    safe, and keeps nothing of the others over ``close`` and ``open``.

    Attributes:
        path: what it writes, for messages.
        rows: rows written so far, over all openings; also those it was given and had no use for.
        needs_pictures: whether rows must carry the frame and its decoded picture.
        waits_for_reader: whether it stands still for as long as somebody else likes, as a pipe does.
    """

    path: Path
    rows: int = 0
    needs_pictures: bool = False
    waits_for_reader: bool = False

    @abc.abstractmethod
    def open(self, run: RunInfo) -> None:
        """Check that the run can be written; nothing appears under the final name yet.

        After a failure it is called again, and what was written before stays as it is.

        Raises:
            RecordError: the path cannot be written, or exists and must not be replaced.
        """

    @abc.abstractmethod
    def write(self, row: Row) -> None:
        """Take one row.

        Raises:
            RowError: this row can never be written; it is left out.
            RecordError: it cannot be written now.
            BrokenPipeError: nobody reads any more; the run ends as it would on a signal.
        """

    def source_changed(self, lost: str) -> None:  # noqa: B027  # not every sink has a place for it
        """The source was lost, and why; or it is back (an empty string). Comes between rows."""

    def flush(self) -> None:  # noqa: B027  # not every sink holds something back
        """Hand everything taken so far to the operating system; called about four times a second."""

    def close(self) -> None:  # noqa: B027  # nor a file open
        """Flush and close; may be called twice. ``open`` may follow, after a failure that has passed."""

    def wrote(self) -> str:
        """What was written and how much of it, for the summary."""
        return f"{self.path} ({counted(self.rows, 'frame')})"


class RecordFile(Sink):
    """A sink that is one growing file. The file appears under its name together with its first row.

    So a run that ends before its first frame leaves nothing behind, and with ``overwrite`` the old file
    is replaced, in one step, only once the new record has started well.

    A record that failed and cannot go on in its file goes on in NAME.2.h5, NAME.3.h5, ...: no row that was
    written is ever touched again.

    Attributes:
        files: the files of this run that hold rows, oldest first.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        self.overwrite = overwrite
        self.files: list[Path] = []
        self._kept_s = -math.inf

    def flush(self) -> None:
        self.keep()

    def keep(self, *, at_once: bool = False) -> None:
        """Have the disk keep what the operating system has of the file, for the day the power fails.

        Once in KEEP_SECONDS, or ``at_once``.

        Raises:
            RecordError: the disk refuses.
        """
        now_s = time.monotonic()
        if self.path not in self.files or not (at_once or now_s - self._kept_s >= KEEP_SECONDS):
            return
        first, self._kept_s = self._kept_s == -math.inf, now_s
        with os_errors_as_sentences(self.path):
            sync(self.path, *([self.path.parent] if first else []))  # the name is in the folder

    def refuse_existing(self) -> None:
        """Raise RecordError when the file is there and may not be replaced, or is no file."""
        refuse_existing(self.path, overwrite=self.overwrite)

    @contextlib.contextmanager
    def started(self, create: Callable[[Path], F]) -> Iterator[F]:
        """A new file that gets its name when the block, which writes the first rows, ends.

        It stays open then. When anything fails it is closed, and nothing of it is left.

        Args:
            create: opens a file of the given, temporary name.

        Raises:
            RecordError: a file of that name has been made in the meantime.
            OSError: the file system refused.
        """
        temporary, file = temporary_name(self.path), None
        try:
            file = create(temporary)
            yield file
            self.refuse_existing()
            move_into_place(temporary, self.path, overwrite=self.overwrite)
        except BaseException:
            if file is not None:
                with contextlib.suppress(OSError, RuntimeError):
                    file.close()
            temporary.unlink(missing_ok=True)
            raise
        self.files.append(self.path)

    def name_next(self) -> None:
        """Turn to a name that no file has, where this run has put rows under the present one."""
        if self.path not in self.files:
            return
        first, number = self.files[0], len(self.files) + 1
        while (path := first.with_name(f"{first.stem}.{number}{first.suffix}")).exists():
            number += 1
        self.path, self.overwrite = path, False
        self._kept_s = -math.inf

    def wrote(self) -> str:
        return f"{', '.join(map(str, self.files))} ({counted(self.rows, 'frame')})"
