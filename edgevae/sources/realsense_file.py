"""RealSense recordings: ``FILE.bag`` and ``FILE.db3`` of the SDK's recorder and viewer, every frame."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import SourceError
from ..frame import Frame
from . import _options
from .base import Source
from .realsense import device_info, enable, first_line, load_sdk, parse_filters
from .realsense_frames import FrameMaker, Pair

_LOOK_BYTES = 1 << 21
_POLL_MS = 100
_LAST_FRAMES = 10  # a recording may end so many frame periods after its last frame


def is_realsense_recording(path: str | Path) -> bool:
    """Whether a .bag or .db3 was made by the RealSense SDK; ROS tools write such files, too.

    Its topics tell: their names stand in plain bytes near the start of a db3 and near the end of a bag, and
    in either where the file is cut off.
    """
    path = Path(path)
    if path.suffix.lower() not in (".bag", ".db3"):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_LOOK_BYTES)
            file.seek(max(0, path.stat().st_size - _LOOK_BYTES))
            return b"/device_0/" in head or b"/device_0/" in file.read(_LOOK_BYTES)
    except OSError:
        return False


def open_recording(uri: str, *, streams: str = "both") -> RealsenseFile:
    """Open ``FILE[?filters=spatial,temporal,hole_filling]``; ``streams`` as in ``RealsenseFile``.

    Raises:
        SourceError: an option makes no sense, or the file cannot be read.
    """
    path, options = _options(uri, ("filters",))
    return RealsenseFile(path, filters=parse_filters(options.get("filters", "")), streams=streams)


class RealsenseFile(Source):
    """Every colour image of a recording with the depth of its time, aligned to it; not in real time.

    Colour images without such depth are left out and counted. With ``streams="depth"`` every depth image, as
    the depth camera saw it and with its intrinsics, beside black. Timestamps are as recorded, on the clock
    "file"; ``serial`` is the recorded camera's.

    Args:
        path: a .bag or .db3.
        filters: post-filters of depth, see FrameMaker.
        streams: "both", or as much of it as was recorded; "color" gives every colour image, without depth;
            "depth".

    Raises:
        SourceError: the file is missing, damaged, or holds no colour, or with "depth" no depth.
    """

    def __init__(self, path: str | Path, *, filters: tuple[str, ...] = (), streams: str = "both") -> None:
        self.name = str(path)
        self._pipeline: Any = None
        self._playback: Any = None
        self._pairs: deque[Pair] = deque()
        if not Path(path).is_file():
            raise SourceError(f"no file {path}. Check the path.")
        rs: Any = load_sdk()
        self._stopped_state = rs.playback_status.stopped
        config = rs.config()
        try:
            self._playback = rs.context().load_device(str(path))
            recorded = _recorded(self._playback)
            first = "depth" if streams == "depth" else "color"
            if first not in recorded:
                holds = ", ".join(recorded) or "no video"
                word = {"color": "colour"}.get(first, first)
                raise SourceError(f"{path} holds {holds}; wanted a recording with {word}.")
            if streams == "both" and "depth" not in recorded:
                streams = "color"
            for stream in ("color", "depth") if streams == "both" else (first,):
                enable(config, recorded[stream])
            self._playback.set_real_time(False)
            # Playing begins when the first stream is open, and a stream that opens later misses images:
            # it begins paused. Resuming waits for the reading, which waits for read(): a thread does it.
            self._playback.pause()
            pipeline = rs.pipeline()
            pipeline.set_device(self._playback)
            pipeline.start(config)
            self._pipeline = pipeline
            self._resuming = threading.Thread(
                target=self._playback.resume, name="edgevae-realsense", daemon=True
            )
            self._resuming.start()
        except RuntimeError as error:
            self.close()
            raise SourceError(
                f"{path} is no RealSense recording that can be read ({Path(path).stat().st_size} bytes: "
                f"{first_line(error)}). If it was cut off, copy it again."
            ) from error
        self.serial = device_info(rs, self._playback, "serial_number")
        self.fps = float(recorded[first].fps()) or 30.0
        self._duration_ns = round(self._playback.get_duration().total_seconds() * 1e9)
        self._maker = FrameMaker(rs, self.name, streams=streams, fps=self.fps, filters=filters, clock="file")
        self._next = 0
        self._position_ns = 0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame.

        Raises:
            SourceError: the SDK gave none within ``timeout_s``, the file is damaged from here on, or the
                source is closed.
        """
        until_s = time.monotonic() + timeout_s
        while not self._pairs:
            if self._pipeline is None:
                raise SourceError(f"{self.name} is closed; open it again with open_source.")
            stopped = self._playback.current_status() == self._stopped_state
            position_ns = self._playback.get_position()
            arrived, frameset = self._pipeline.try_wait_for_frames(_POLL_MS)
            if arrived:
                self._position_ns = max(self._position_ns, position_ns)
                self._pairs.extend(self._maker.take(frameset.as_frameset()))
                until_s = time.monotonic() + timeout_s
            elif stopped:
                self._check_whole()
                return None
            elif time.monotonic() > until_s:
                raise SourceError(f"{self.name} gave no frame within {timeout_s:g} s; copy it again.")
        self._next += 1
        return self._maker.frame(self._pairs.popleft(), self._next - 1)

    def _check_whole(self) -> None:
        """Raise SourceError where playing stopped long before the end: the SDK does so at a damaged image."""
        rest_ns = self._duration_ns - self._position_ns
        if rest_ns > _LAST_FRAMES * 1e9 / self._maker.fps:
            raise SourceError(
                f"{self.name} is damaged: it could be read for {self._position_ns * 1e-9:.1f} s of "
                f"{self._duration_ns * 1e-9:.1f} s ({self._next} frames). Copy it again."
            )

    def counts(self) -> dict[str, float]:
        """Colour images without depth of their time, and the skew of those with it; see FrameMaker."""
        return self._maker.counts()

    def close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with suppress(RuntimeError):
                pipeline.stop()
            self._resuming.join()
        self._playback = None
        self._pairs.clear()


def _recorded(device: Any) -> dict[str, Any]:
    """The first video profile of each kind of stream in a recording."""
    found: dict[str, Any] = {}
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if profile.is_video_stream_profile():
                found.setdefault(profile.stream_type().name, profile.as_video_stream_profile())
    return found
