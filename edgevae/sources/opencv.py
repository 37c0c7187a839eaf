"""Colour from cameras, video files and network streams through cv2.VideoCapture."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SourceError
from ..frame import Frame
from .base import Source
from .opencv_quiet import load_cv2

_URL = re.compile(r"^(https?|rtsps?)://", re.IGNORECASE)
_GIVE_UP_S = 3.0  # without a frame for so long, a device counts as gone,
_GIVE_UP_READS = 30  # or after so many reads in a row that failed, which an unplugged one does at once
_JOIN_S = 4.0


def is_url(uri: str) -> bool:
    """Whether ``uri`` is a network stream that this file opens."""
    return _URL.match(uri) is not None


class VideoFileSource(Source):
    """Every frame of a video file. Timestamps are the file's, from 0, on the clock "file".

    Raises:
        SourceError: the file is missing or no video.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        if not Path(path).is_file():
            raise SourceError(f"no file {path}. Check the path.")
        self._cv2: Any = load_cv2()
        self._capture: Any = self._cv2.VideoCapture(str(path), self._cv2.CAP_FFMPEG)
        self._next = 0
        self._last_ns = -1
        if not self._capture.isOpened():
            self.close()
            raise SourceError(
                f"{path} is not a video that can be read ({Path(path).stat().st_size} bytes); wanted a whole "
                "video file, such as mp4, mkv, mov, webm or avi."
            )
        self.length = _count(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        self.fps = _rate(self._capture.get(self._cv2.CAP_PROP_FPS))

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame.

        Raises:
            SourceError: the file has no readable picture at all, or the source is closed.
        """
        if self._capture is None:
            raise SourceError(f"{self.name} is closed; open it again with open_source.")
        ok, bgr = self._capture.read()
        if not ok:
            if self._next == 0:
                raise SourceError(f"{self.name} is a video without a readable picture. Copy it again.")
            return None
        index = self._next
        self._next += 1
        stamp = round(self._capture.get(self._cv2.CAP_PROP_POS_MSEC) * 1e6)
        if stamp <= self._last_ns:  # a container without times
            stamp = max(round(index * 1e9 / (self.fps or 30.0)), self._last_ns + 1)
        self._last_ns = stamp
        return Frame(rgb=_rgb(self._cv2, bgr, self.name), timestamp_ns=stamp, clock="file", index=index)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class CameraSource(Source):
    """The newest frame of a camera or network stream; a thread reads, older frames are dropped and counted.

    ``index`` of a frame counts every frame that arrived, so a jump shows a drop. Timestamps are on the
    clock "host": the driver's stamp of a V4L2 camera carried over to it, else the time of arrival.
    A URL that leads to a video file of known length is no live source: every frame is given, with the
    file's own times, and then the end.

    Args:
        target: camera index, device path (``/dev/video0``, ``/dev/v4l/by-id/...``), or http(s)/rtsp URL.
        timeout_s: how long opening may take.

    Raises:
        SourceError: the device or stream cannot be opened in time.
    """

    def __init__(self, target: int | str, *, timeout_s: float = 5.0) -> None:
        self.name = without_password(str(target))
        self.live = True
        self._cv2: Any = load_cv2()
        self._target = target
        self._wake = threading.Condition()
        self._opened: bool | None = None  # None: still trying
        self._stopping = False
        self._failure: str | None = None
        self._ended = False
        self._newest: tuple[Any, int, int, int] | None = None  # bgr, timestamp_ns, arrival_ns, index
        # The thread owns the capture from opening to release: nothing in OpenCV may be released while
        # another thread waits inside it, and opening can block past any timeout of its own.
        self._thread = threading.Thread(
            target=self._run, args=(timeout_s,), name=f"edgevae-camera-{self.name}", daemon=True
        )
        self._thread.start()
        with self._wake:
            self._wake.wait_for(lambda: self._opened is not None, timeout_s + 0.5)
            opened = self._opened
        if not opened:
            self._stopping = True  # a thread that still waits for an answer ends when it has it
            if opened is False:
                self.close()
            raise SourceError(self._cannot_open(timeout_s, timed_out=opened is None))

    def _cannot_open(self, timeout_s: float, timed_out: bool) -> str:
        if isinstance(self._target, str) and is_url(self._target):
            why = f"no answer within {timeout_s:g} s" if timed_out else "no video there, or nobody listens"
            return f"cannot open stream {self.name} ({why}). Check the address and the network."
        path = f"/dev/video{self._target}" if isinstance(self._target, int) else self._target
        why = f"{path} did not answer within {timeout_s:g} s" if timed_out else f"cannot open {path}"
        return f"no camera {self._target} ({why}). Run 'edgevae cameras'."

    def _open(self, timeout_s: float) -> Any:
        cv2 = self._cv2
        if isinstance(self._target, str) and is_url(self._target):
            wait_ms = max(1, int(timeout_s * 1000))
            options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait_ms]
            return cv2.VideoCapture(self._target, cv2.CAP_FFMPEG, options)
        backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
        if isinstance(self._target, str):
            # by-id links are stable across reboots, but OpenCV wants the device they lead to
            return cv2.VideoCapture(str(Path(self._target).resolve()), backend)
        return cv2.VideoCapture(self._target, backend)

    def _run(self, timeout_s: float) -> None:
        capture: Any = None
        try:
            capture = self._open(timeout_s)
            opened = bool(capture.isOpened())
            with self._wake:
                if opened:
                    self.fps = _rate(capture.get(self._cv2.CAP_PROP_FPS))
                    if is_url(self.name):
                        self.length = _count(capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
                        self.live = self.length is None
                self._opened = opened
                self._wake.notify_all()
            if opened:
                self._read_all(capture)
        except Exception as error:  # a thread's exception would be lost: read() raises it
            with self._wake:
                self._opened = bool(self._opened)
                self._failure = f"{type(error).__name__}: {error}"
                self._wake.notify_all()
        finally:
            if capture is not None:
                capture.release()

    def _read_all(self, capture: Any) -> None:
        count = failed = 0
        last_ns = time.monotonic_ns()
        while not self._stopping:
            ok, bgr = capture.read()
            arrival_ns = time.monotonic_ns()
            if not ok and not self.live:
                with self._wake:
                    self._ended = True
                    self._wake.notify_all()
                return
            if not ok:
                failed += 1
                lull_s = (arrival_ns - last_ns) * 1e-9
                if lull_s > _GIVE_UP_S or failed >= _GIVE_UP_READS or not capture.isOpened():
                    with self._wake:
                        self._failure = "it stopped giving frames"
                        self._wake.notify_all()
                    return
                time.sleep(0.01)
                continue
            failed, last_ns = 0, arrival_ns
            stamp_ns = self._stamp(capture)
            with self._wake:
                if not self.live:
                    self._wake.wait_for(lambda: self._newest is None or self._stopping)
                if self._newest is not None:
                    self.dropped += 1
                self._newest = (bgr, stamp_ns, arrival_ns, count)
                self._wake.notify_all()
            count += 1

    def _stamp(self, capture: Any) -> int:
        """Time of the frame that was just read, ns; V4L2 stamps are on the monotonic clock."""
        now_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        stamp_ns = round(float(capture.get(self._cv2.CAP_PROP_POS_MSEC)) * 1e6)
        if not self.live:
            return stamp_ns
        age_ns = monotonic_ns - stamp_ns
        return now_ns - age_ns if not is_url(self.name) and 0 <= age_ns < 1_000_000_000 else now_ns

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The newest frame that has not been given yet, waiting for one if need be.

        Raises:
            SourceError: no new frame within ``timeout_s``, the device is gone, or the source is closed.
        """
        with self._wake:
            self._wake.wait_for(
                lambda: (
                    self._newest is not None or self._failure is not None or self._ended or self._stopping
                ),
                timeout_s,
            )
            if self._stopping:
                raise SourceError(f"{self._label()} is closed; open it again with open_source.")
            newest, self._newest = self._newest, None
            failure, ended = self._failure, self._ended
            self._wake.notify_all()
        if newest is None:
            if ended:
                return None
            if failure is not None:
                raise SourceError(f"{self._label()} is gone: {failure}. Check its cable or network.")
            raise SourceError(f"{self._label()} gave no frame within {timeout_s:g} s. Run 'edgevae cameras'.")
        bgr, timestamp_ns, arrival_ns, index = newest
        return Frame(
            rgb=_rgb(self._cv2, bgr, self._label()),
            timestamp_ns=timestamp_ns,
            clock="host" if self.live else "file",
            index=index,
            arrival_ns=arrival_ns,
        )

    def _label(self) -> str:
        if isinstance(self._target, str) and is_url(self._target):
            return f"stream {self.name}"
        return f"camera {self._target}"

    def close(self) -> None:
        with self._wake:
            self._stopping = True
            self._newest = None
            self._wake.notify_all()
        # a thread that is still stuck inside the driver after this releases the device when it returns
        self._thread.join(_JOIN_S)


def without_password(url: str) -> str:
    """``url`` without the name and password it may carry, for messages and records."""
    return re.sub(r"//[^/@]*@", "//", url)


def _rgb(cv2: Any, bgr: Any, label: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if bgr.dtype != np.uint8 or bgr.ndim != 3 or bgr.shape[2] != 3:
        raise SourceError(f"{label} gives {bgr.dtype} {bgr.shape}, wanted 8-bit colour (H, W, 3).")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _count(value: float) -> int | None:
    return int(value) if math.isfinite(value) and 0 < value < 1e9 else None


def _rate(value: float) -> float | None:
    return float(value) if math.isfinite(value) and 0 < value < 1000 else None
