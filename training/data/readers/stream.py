"""Frames of the runtime's sources: rendered drives, and whatever ``edgevae.open_source`` opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import edgevae
from edgevae.errors import FrameError, SourceError

from .base import Entry, Picture

if TYPE_CHECKING:
    from edgevae.sources import Source


class Synthetic:
    """Drives rendered by ``edgevae.open_source("synthetic:SEED")``; each seed is a scene, "seed-SEED".

    Args:
        seeds: one drive for each.
        frames: frames taken of each drive.
        stride: every how many-th frame is taken, since neighbours look alike.
    """

    def __init__(self, seeds: list[int], frames: int, stride: int) -> None:
        self.order = [(seed, i * stride) for seed in seeds for i in range(frames)]
        self.inputs: list[Path] = []
        self._seed, self._source = -1, cast(Any, None)

    def entries(self) -> list[Entry]:
        return [
            Entry(f"{seed}/{number}", f"seed-{seed}", "none (rendered)", "", f"seed-{seed}")
            for seed, number in self.order
        ]

    def read(self, index: int) -> Picture:
        seed, number = self.order[index]
        if self._seed != seed:
            self._seed, self._source = seed, edgevae.open_source(f"synthetic:{seed}")
        frame = self._source.frame(number)
        return frame.rgb, frame.depth_m()


class Stream:
    """Frames of a recording, read in its order: ``tum:DIR``, ``FILE.mcap`` (an edgevae record with pictures
    among them), ``FILE.bag``, ``FILE.mp4``, a folder, ...; all of them are one scene.

    Args:
        uri: as for ``edgevae.open_source``.
        name: of the scene.
        licence: for provenance.
        frames: so many are taken at most; 0 for all.
        stride: every how many-th frame is taken.
    """

    def __init__(self, uri: str, name: str, licence: str, frames: int = 0, stride: int = 1) -> None:
        self.uri, self.name, self.licence, self.frames, self.stride = uri, name, licence, frames, stride
        self._source: Source | None = None
        self._read = 0  # frames read from it
        with edgevae.open_source(uri) as source:
            if source.live or (source.length is None and source.endless and not frames):
                raise SourceError(
                    f"{uri} does not end; wanted a recording, or a number of frames in the set's 'frames'."
                )
            self._length = source.length
        body = uri.partition("?")[0]
        body = body if Path(body).exists() else body.partition(":")[2]
        path = Path(body)
        files = sorted(path.rglob("*")) if body and path.is_dir() else [path] if body else []
        self.inputs = [file for file in files if file.is_file()]

    def entries(self) -> list[Entry]:
        # Most recordings do not say how long they are, so they are read once to count and once to keep.
        total = self._count() if self._length is None else self._length
        taken = range(0, total, self.stride)
        if self.frames:
            taken = taken[: self.frames]
        if not taken:
            raise SourceError(f"{self.uri} gave no frame; wanted a recording of pictures.")
        return [Entry(str(i), self.name, self.licence, "", self.name) for i in taken]

    def _count(self) -> int:
        count, enough = 0, self.frames * self.stride
        with edgevae.open_source(self.uri) as source:
            while not enough or count < enough:
                try:
                    if source.read() is None:
                        break
                except FrameError:
                    pass
                count += 1
        return count

    def read(self, index: int) -> Picture:
        number = index * self.stride
        if self._source is None or number < self._read:
            self.close()
            self._source = edgevae.open_source(self.uri)
        while True:
            self._read += 1
            try:
                frame = self._source.read()
            except FrameError:
                if self._read > number:
                    raise
                continue
            if frame is None:
                raise FrameError(f"{self.uri} ended before its frame {number}; is it cut off?")
            if self._read > number:
                return frame.rgb, frame.depth_m()

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source, self._read = None, 0
