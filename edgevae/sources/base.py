"""What a source of frames is. One file per kind of source; each imports its SDK when it is opened."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from types import TracebackType

from ..frame import Frame


class Source(abc.ABC):
    """A stream of frames, used as a context manager.

    ``live`` sources (cameras, network streams) deliver the newest frame and drop the rest; others
    deliver every frame.

    Attributes:
        name: the URI it was opened with.
        live: whether frames arrive in real time.
        length: number of frames, None where it cannot be known beforehand.
        endless: whether it is no device and yet never ends.
        fps: nominal frames per second, None where it is not known.
        dropped: frames that arrived and were replaced by a newer one before they were read.
    """

    name: str = ""
    live: bool = False
    length: int | None = None
    endless: bool = False
    fps: float | None = None
    dropped: int = 0

    @abc.abstractmethod
    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame, or None at the end of the source.

        Raises:
            SourceError: the device gave no frame within ``timeout_s``, or nothing more can be read.
            SourceLost: the device is gone and being looked for; the caller may read again.
            FrameError: this one frame is unusable; the next call goes on behind it.
        """

    def counts(self) -> dict[str, float]:
        """What the source counted beside frames (recoveries, unpaired frames, skew), for the statistics."""
        return {}

    def close(self) -> None:
        """Release the device or files; may be called twice."""
        return None

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
