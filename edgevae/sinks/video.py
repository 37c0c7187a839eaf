"""``--save-video FILE``: the sheets of a run as one video, through OpenCV's FFmpeg.

A video has one frame rate, a camera has not: every sheet stands where its sensor time puts it on the video's
even beat, and stays until the next one. The beat is that of the first rows, which wait until it is known.

A killed run leaves an .mkv or .avi that plays up to its last 256 KB; an .mp4 has no index before its end, so
it gets its name only then.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import RecordError
from ..files import move_into_place, os_errors_as_sentences, ready_folder, temporary_name
from .base import RecordFile, Row, RunInfo

if TYPE_CHECKING:
    import cv2

    from .sheets import Sheets

SUFFIXES = (".mp4", ".mkv", ".avi")
ROWS_FOR_RATE = 12
LONGEST_STILL_S = 2.0  # a source that was away for an hour does not become an hour of one picture
_CODEC = "mp4v"  # MPEG-4 part 2: in every build of OpenCV's wheel, H.264 in none
_RATES = (1.0, 240.0)
_NOMINAL_FPS = 30.0
_CLAIM_SECONDS = 1.0
_ROOM_BYTES = 1 << 20  # more than is written in that time


class VideoSink(RecordFile):
    """One video, ``.mp4``, ``.mkv`` or ``.avi``: camera beside decoded, colour above depth.

    Raises:
        RecordError: another suffix.
    """

    needs_pictures = True
    _video: cv2.VideoWriter | None = None
    _sheets: Sheets
    _name: Path
    _last: npt.NDArray[np.uint8]

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        super().__init__(path, overwrite=overwrite)
        if path.suffix.lower() not in SUFFIXES:
            raise RecordError(
                f"cannot save a video as {path}: its suffix is '{path.suffix}', wanted .mkv or .avi (both "
                "survive a kill) or .mp4."
            )

    def open(self, run: RunInfo) -> None:
        from .sheets import Sheets

        self.name_next()
        self.refuse_existing()
        ready_folder(self.path.parent)
        self._sheets = Sheets(run.spec)
        self._waiting: list[tuple[int, npt.NDArray[np.uint8]]] = []

    def write(self, row: Row) -> None:
        self._waiting.append((row.timestamp_ns, self._bgr(row)))
        if self._video is not None or len(self._waiting) >= ROWS_FOR_RATE:
            self._write_waiting()

    def close(self) -> None:
        try:
            if self._waiting:
                self._write_waiting()
        finally:
            video, self._video = self._video, None
            if video is not None:
                video.release()
                self._finish()

    def _bgr(self, row: Row) -> npt.NDArray[np.uint8]:
        """The sheet as OpenCV writes it; both sides even, as the codec wants."""
        import cv2

        picture = cv2.cvtColor(self._sheets.draw(row), cv2.COLOR_RGB2BGR)
        height, width = picture.shape[:2]
        padded = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        return np.asarray(padded, np.uint8)

    def _write_waiting(self) -> None:
        rows, self._waiting = self._waiting, []
        with os_errors_as_sentences(self.path):
            if self._video is None:
                self._start(rows)
            assert self._video is not None
            self._claim_room()
            for timestamp_ns, picture in rows:
                for _ in range(self._beats(timestamp_ns)):
                    self._video.write(self._last)
                    self._written += 1
                self._last = picture
                self._video.write(picture)
                self._written += 1
                self.rows += 1

    def _start(self, rows: list[tuple[int, npt.NDArray[np.uint8]]]) -> None:
        import cv2

        self._fps = frame_rate([timestamp_ns for timestamp_ns, _ in rows])
        self._first_ns = rows[0][0]
        self._written, self._last = 0, rows[0][1]
        self._origin = 0
        height, width = self._last.shape[:2]
        self._name = temporary = temporary_name(self.path).with_suffix(self.path.suffix)
        self._claimed_s = -math.inf
        codec = cv2.VideoWriter.fourcc(*_CODEC)
        self._video = cv2.VideoWriter(str(temporary), cv2.CAP_FFMPEG, codec, self._fps, (width, height))
        try:
            if not self._video.isOpened():
                raise RecordError(f"OpenCV cannot write {self.path}; save as .avi, or use another OpenCV.")
            self._claim_room()
            if self.path.suffix.lower() != ".mp4":
                self.refuse_existing()
                move_into_place(temporary, self.path, overwrite=self.overwrite)
                self._name = self.path
                self.files.append(self.path)
        except BaseException:
            self._video.release()
            self._video = None
            temporary.unlink(missing_ok=True)
            raise

    def _beats(self, timestamp_ns: int) -> int:
        """How many beats the last picture has to stay before one of ``timestamp_ns`` comes on."""
        due = round((timestamp_ns - self._first_ns) / 1e9 * self._fps) + self._origin
        still = due - self._written
        limit = round(LONGEST_STILL_S * self._fps)
        if abs(still) > limit:
            self._origin -= (
                still  # a jump of the clock, or a long absence: from here on as if there were none
            )
            return 0
        return max(0, still)

    def _claim_room(self) -> None:
        """Have the disk show that it takes more, as OpenCV does not report a write that failed.

        Raises:
            OSError: the disk is full, or a quota or limit is reached.
        """
        if time.monotonic() - self._claimed_s < _CLAIM_SECONDS:
            return
        self._claimed_s = time.monotonic()
        with open(self._name, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                os.posix_fallocate(file.fileno(), end, _ROOM_BYTES)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                # This file system cannot set space aside; writing to it works all the same.
            finally:
                file.truncate(end)

    def _finish(self) -> None:
        """Give an .mp4 its name, after making sure that the video is all there.

        Raises:
            RecordError: it is not.
        """
        import cv2

        reader = cv2.VideoCapture(str(self._name), cv2.CAP_FFMPEG)
        try:
            frames = round(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        finally:
            reader.release()
        with os_errors_as_sentences(self.path):
            if abs(frames - self._written) > 1:  # a container states its length in milliseconds
                if self._name != self.path:
                    self._name.unlink(missing_ok=True)
                raise RecordError(
                    f"{self.path} holds {frames} of {self._written} frames; the disk may be full: check it "
                    "or choose another path."
                )
            if self._name != self.path:
                self.refuse_existing()
                move_into_place(self._name, self.path, overwrite=self.overwrite)
                self.files.append(self.path)


def frame_rate(timestamps_ns: list[int]) -> float:
    """Frames per second by the mean of the usual intervals, 30 where the times say nothing."""
    intervals_ns = [b - a for a, b in itertools.pairwise(timestamps_ns) if b > a]
    if not intervals_ns:
        return _NOMINAL_FPS
    longest_ns = 1.6 * statistics.median(intervals_ns)  # beyond, a frame is missing
    usual_ns = statistics.mean(interval for interval in intervals_ns if interval <= longest_ns)
    lowest, highest = _RATES
    return round(min(max(1e9 / usual_ns, lowest), highest), 2)
