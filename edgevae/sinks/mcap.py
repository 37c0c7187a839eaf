"""A record in MCAP that robotics viewers (Foxglove, Rerun) open as it is: pictures, camera, poses, latents.

The library collects messages into chunks, compresses each, and writes an index at the end. A killed writer
loses the open chunk and the index, so chunks are small: they end with a row, twice a second or every few
megabytes.

The library cannot go on after a write that failed. So it writes into memory, and whole chunks are handed to
the file from there: a chunk that the disk does not take is cut off again and kept for the next try.

What a 640x480 frame costs, measured on one core of a server processor: JPEG at quality 90 1.1 ms and 60 KB
(raw colour 1.7 ms and 880 KB), depth as it is in a chunk under LZ4 1.4 ms and 175 KB (under Zstandard 2.8 ms
and 100 KB; as PNG 7 ms and 130 KB).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import mcap_layout as layout
from ..errors import RecordError
from ..files import move_into_place, os_errors_as_sentences, ready_folder, temporary_name
from ..mcap_file import need_mcap
from .base import RecordFile, Row, RunInfo
from .mcap_messages import CAMERA, calibration, millimetres, raw_image, transform

PICTURES = ("color", "color-raw", "depth", "reconstruction")
DEFAULT_PICTURES = ("color", "depth", "reconstruction")
CHUNK_BYTES = 4 << 20
FLUSH_SECONDS = 0.5
JPEG_QUALITY = 90
_NEVER = 1 << 62
_NS = 1_000_000_000


class McapSink(RecordFile):
    """Latents on ``/latent``; what else is known of a frame beside them, on the topics of ``mcap_layout``.

    Args:
        path: the file.
        overwrite: replace one that is there.
        pictures: which pictures to keep, of PICTURES: ``color`` as JPEG or ``color-raw`` as it came,
            ``depth`` as it came, ``reconstruction`` as decoded. With none, latents are not decoded.

    Raises:
        RecordError: a word in ``pictures`` is unknown.
    """

    _run: RunInfo
    _file: io.FileIO | None = None

    def __init__(
        self, path: Path, *, overwrite: bool = False, pictures: Iterable[str] = DEFAULT_PICTURES
    ) -> None:
        super().__init__(path, overwrite=overwrite)
        self._pictures = frozenset(pictures)
        unknown = sorted(self._pictures - set(PICTURES))
        if unknown or self._pictures >= {"color", "color-raw"}:
            what = f"unknown: {unknown[0]}" if unknown else "color and color-raw are two ways of one picture"
            raise RecordError(f"cannot record these pictures ({what}); wanted some of {', '.join(PICTURES)}.")
        self.needs_pictures = bool(self._pictures)
        self._forget()

    def _forget(self) -> None:
        """Back to a sink that has seen no row; ``rows`` stays, for the summary."""
        self._writer: Any = None
        self._memory = _Memory()
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._identity: tuple[int, int] | None = None
        self._whole_bytes = 0
        self._open_bytes = 0
        self._taken = 0
        self._failed = False
        self._last: Row | None = None
        self._waiting_logs: list[tuple[str, int]] = []
        self._flushed_s = time.monotonic()

    def open(self, run: RunInfo) -> None:
        try:
            import cv2
            import mcap.writer
            from foxglove_schemas_protobuf import (
                CameraCalibration_pb2,
                CompressedImage_pb2,
                FrameTransform_pb2,
                Log_pb2,
                RawImage_pb2,
            )
            from mcap_protobuf.schema import build_file_descriptor_set
        except ImportError as error:
            raise need_mcap(error) from error
        self._cv2: Any = cv2
        self._mcap: Any = mcap.writer
        self._descriptors = build_file_descriptor_set
        self._classes: dict[str, Any] = {
            "latent": layout.latent_class(),
            "raw": RawImage_pb2.RawImage,
            "compressed": CompressedImage_pb2.CompressedImage,
            "calibration": CameraCalibration_pb2.CameraCalibration,
            "pose": FrameTransform_pb2.FrameTransform,
            "log": Log_pb2.Log,
        }
        self._run = run
        if self._goes_on():
            self._reopen()
            return
        self._forget()
        self.refuse_existing()
        ready_folder(self.path.parent)

    def write(self, row: Row) -> None:
        self._last = row
        if self._writer is None:
            self._start_library(row)
        for text, at_ns in self._waiting_logs:
            self._log(row.timestamp_ns - max(row.arrival_ns - at_ns, 0), text)
        self._waiting_logs.clear()
        self._add(row)
        self._taken += 1
        due = self._open_bytes >= CHUNK_BYTES or time.monotonic() - self._flushed_s >= FLUSH_SECONDS
        if self._file is None or due:
            self.flush()

    def source_changed(self, lost: str) -> None:
        now_ns = time.monotonic_ns()
        if self._last is None:  # no clock to state a time on, and no file yet
            self._waiting_logs.append((lost, now_ns))
        else:
            self._log(self._last.timestamp_ns + max(now_ns - self._last.arrival_ns, 0), lost)

    def flush(self) -> None:
        if self._writer is None or self._taken == 0:
            return
        self._writer.flush()  # into memory
        self._open_bytes = 0
        with os_errors_as_sentences(self.path):
            if self._file is None:
                self._appear()
            else:
                self._hand_over()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        if self._file is None:
            return
        try:
            self.flush()
            with os_errors_as_sentences(self.path):
                self._write_index()
        finally:
            file, self._file = self._file, None
            with os_errors_as_sentences(self.path):
                file.close()
        if not self._failed:
            self._forget()

    # --- the file

    def _appear(self) -> None:
        """The file with the first row in it, under its own name; on failure there is none."""
        temporary = temporary_name(self.path)
        try:
            self._file = io.FileIO(temporary, "w")
            self._hand_over()
            self.refuse_existing()
            move_into_place(temporary, self.path, overwrite=self.overwrite)
        except BaseException:
            if self._file is not None:
                self._file.close()
                self._file = None
            temporary.unlink(missing_ok=True)
            self._forget()
            raise
        stat = os.fstat(self._file.fileno())
        self._identity = (stat.st_dev, stat.st_ino)

    def _hand_over(self) -> None:
        """Append what waits in memory, all of it or, raising OSError, nothing."""
        self._append(self._memory.parts)
        self._whole_bytes = self._memory.position
        self._memory.parts.clear()
        self.rows = self._taken

    def _append(self, parts: list[bytes]) -> None:
        assert self._file is not None
        try:
            for part in parts:
                view = memoryview(part)
                while view:  # a raw file may take less than it is given
                    view = view[self._file.write(view) :]
        except OSError:
            self._failed = True
            with suppress(OSError):
                self._cut()
            raise

    def _cut(self) -> None:
        """Back to the last whole chunk."""
        assert self._file is not None
        self._file.truncate(self._whole_bytes)
        self._file.seek(self._whole_bytes)

    def _write_index(self) -> None:
        """The end of the file. After a failure ``open`` may follow, so then a copy of the writer ends."""
        writer, memory = self._writer, self._memory
        if self._failed:
            writer, memory = pickle.loads(pickle.dumps((writer, memory)))
        writer.finish()
        self._append(memory.parts)

    def _goes_on(self) -> bool:
        """Whether the file that was begun is still the one at the path."""
        if self._identity is None:
            return False
        try:
            stat = self.path.stat()
        except OSError:
            return False
        return (stat.st_dev, stat.st_ino) == self._identity

    def _reopen(self) -> None:
        with os_errors_as_sentences(self.path):
            self._file = io.FileIO(self.path, "r+")
            try:
                self._cut()
                self._hand_over()
                self._failed = False
            except BaseException:
                self._file.close()
                self._file = None
                raise

    # --- the messages

    def _start_library(self, row: Row) -> None:
        from .. import __version__

        spec = self._run.spec
        self._writer = self._mcap.Writer(
            self._memory, chunk_size=_NEVER, compression=self._mcap.CompressionType.LZ4
        )
        self._writer.start(library=f"edgevae {__version__}")
        depth = spec.input.depth
        facts: dict[str, Any] = {
            "format_version": layout.FORMAT_VERSION,
            "edgevae_version": __version__,
            "source": self._run.source,
            "live": self._run.live,
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
        # Strings as they are, everything else as JSON; a name of a file may hold bytes that are no text.
        self._writer.add_metadata(
            layout.METADATA,
            {
                key: value.encode(errors="replace").decode() if isinstance(value, str) else json.dumps(value)
                for key, value in facts.items()
            },
        )

    def _add(self, row: Row) -> None:
        at_ns = row.timestamp_ns
        if row.pose is not None:
            self._put(layout.POSE, "pose", at_ns, row.index, **transform(row.pose))
        if row.intrinsics is not None:
            self._put(layout.CALIBRATION, "calibration", at_ns, row.index, **calibration(row.intrinsics))
        if self._pictures:
            self._add_pictures(row)
        # Last, so that a latent is never there without what belongs to it.
        self._put(
            layout.LATENT,
            "latent",
            at_ns,
            row.index,
            frame=row.index,
            timestamp_ns=at_ns,
            clock=row.clock,
            arrival_ns=row.arrival_ns,
            latent=row.latent.tolist(),
            pose=[] if row.pose is None else row.pose.ravel().tolist(),
            depth_valid=row.depth_valid,
            model_sha256=self._run.spec.sha256,
        )

    def _add_pictures(self, row: Row) -> None:
        frame, decoded = row.frame, row.decoded
        assert frame is not None
        assert decoded is not None
        at = (row.timestamp_ns, row.index)
        if "color" in self._pictures:
            data = self._jpeg(frame.rgb)
            self._put(layout.COLOR, "compressed", *at, frame_id=CAMERA, format="jpeg", data=data)
        elif "color-raw" in self._pictures:
            self._put(layout.COLOR, "raw", *at, **raw_image(frame.rgb))
        if "depth" in self._pictures and frame.depth is not None:
            self._put(layout.DEPTH, "raw", *at, **raw_image(frame.depth))
        if "reconstruction" in self._pictures:
            data = self._jpeg(decoded.rgb)
            self._put(layout.DECODED_COLOR, "compressed", *at, frame_id=CAMERA, format="jpeg", data=data)
            if decoded.depth is not None:
                depth = millimetres(decoded.depth) if self._metric() else decoded.depth
                self._put(layout.DECODED_DEPTH, "raw", *at, **raw_image(depth))
            if row.intrinsics is not None:
                small = row.intrinsics.scaled(decoded.rgb.shape[1], decoded.rgb.shape[0])
                self._put(layout.DECODED_CALIBRATION, "calibration", *at, **calibration(small))

    def _metric(self) -> bool:
        depth = self._run.spec.input.depth
        return depth is not None and depth.metric

    def _jpeg(self, rgb: npt.NDArray[np.uint8]) -> bytes:
        bgr = self._cv2.cvtColor(rgb, self._cv2.COLOR_RGB2BGR)
        _, data = self._cv2.imencode(".jpg", bgr, [self._cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return bytes(data)

    def _log(self, at_ns: int, lost: str) -> None:
        level = self._classes["log"].Level.Value("WARNING" if lost else "INFO")
        text = f"the source was lost: {lost}" if lost else "the source is back"
        self._put(layout.LOG, "log", at_ns, 0, level=level, message=text, name="edgevae")

    def _put(self, topic: str, kind: str, at_ns: int, sequence: int, **fields: Any) -> None:
        if kind != "latent":
            seconds, nanoseconds = divmod(at_ns, _NS)
            fields["timestamp"] = {"seconds": seconds, "nanos": nanoseconds}
        data = self._classes[kind](**fields).SerializeToString()
        if topic not in self._channels:
            self._channels[topic] = self._channel(topic, kind)
        log_ns = max(at_ns, 0)  # MCAP's own times have no sign
        self._writer.add_message(self._channels[topic], log_ns, data, log_ns, sequence & 0xFFFFFFFF)
        self._open_bytes += len(data)

    def _channel(self, topic: str, kind: str) -> int:
        message = self._classes[kind]
        if kind not in self._schemas:
            name = message.DESCRIPTOR.full_name
            definition = self._descriptors(message).SerializeToString()
            self._schemas[kind] = self._writer.register_schema(name, "protobuf", definition)
        about = {}
        if topic == layout.DEPTH and self._last is not None:
            about["depth_scale"] = repr(self._last.depth_scale)  # metres a unit of 16UC1
        return int(self._writer.register_channel(topic, "protobuf", self._schemas[kind], about))


class _Memory:
    """What the library takes for the file; it holds ``parts`` until the file has taken them."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.position = 0

    def write(self, data: bytes) -> None:
        self.parts.append(data)
        self.position += len(data)

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        pass  # the sink hands the parts over itself
