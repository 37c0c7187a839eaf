"""A record in MCAP that robotics viewers (Foxglove, Rerun) open as it is: pictures, camera, poses, latents.

The library collects messages into chunks, compresses each, and writes an index at the end. A killed writer
loses the open chunk and the index, so chunks are small: they end with a row, twice a second or, with
pictures, after eight rows.

The library cannot go on after a write that failed. So it is given a chunk only when the disk has room for
that and for the index, and it writes into memory; a file that still could not take a chunk is cut back to
the last one. A full disk leaves a complete file behind.

What a 640x480 frame costs, measured on one core of a server processor: JPEG at quality 90 1.1 ms and 60 KB
(raw colour 1.7 ms and 880 KB), depth as it is in a chunk under LZ4 1.4 ms and 175 KB (under Zstandard 2.8 ms
and 100 KB; as PNG 7 ms and 130 KB). With everything else 5 ms in all, 0.2 ms for latents alone.
"""

from __future__ import annotations

import errno
import io
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import mcap_layout as layout
from ..errors import RecordError
from ..files import os_errors_as_sentences, ready_folder
from ..mcap_file import need_mcap
from .base import RecordFile, Row, RunInfo
from .mcap_messages import CAMERA, calibration, millimetres, raw_image, transform

PICTURES = ("color", "color-raw", "depth", "reconstruction")
DEFAULT_PICTURES = ("color", "depth", "reconstruction")
FLUSH_SECONDS = 0.5
FLUSH_PICTURES = 8  # rows with pictures that may wait: as many as wait before a sink
JPEG_QUALITY = 90
_NEVER = 1 << 62
_SPARE_BYTES = 1 << 15
_INDEX_BYTES = 320  # of one chunk in the index, with all topics
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
        self.name_next()
        self.refuse_existing()
        ready_folder(self.path.parent)
        self._run = run
        self._memory = _Memory()
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._waiting: list[_Message] = []
        self._waiting_rows = 0
        self._broken = False
        self._last: Row | None = None
        self._early_logs: list[tuple[str, int]] = []
        self._flushed_s = time.monotonic()

    def write(self, row: Row) -> None:
        self._last = row
        for text, at_ns in self._early_logs:
            self._log(row.timestamp_ns - max(row.arrival_ns - at_ns, 0), text)
        self._early_logs.clear()
        self._add(row)
        self._waiting_rows += 1
        due = time.monotonic() - self._flushed_s >= FLUSH_SECONDS
        if self._file is None or due or (self.needs_pictures and self._waiting_rows >= FLUSH_PICTURES):
            self.flush()

    def source_changed(self, lost: str) -> None:
        now_ns = time.monotonic_ns()
        if self._last is None:  # no clock to state a time on, and no file yet
            self._early_logs.append((lost, now_ns))
        else:
            self._log(self._last.timestamp_ns + max(now_ns - self._last.arrival_ns, 0), lost)

    def flush(self) -> None:
        messages, self._waiting = self._waiting, []
        rows, self._waiting_rows = self._waiting_rows, 0
        if not messages:
            return
        with os_errors_as_sentences(self.path):
            if self._file is None:
                self._start(messages)
            else:
                self._append(self._file, messages)
        self.rows += rows
        self._flushed_s = time.monotonic()
        self.keep()

    def close(self) -> None:
        try:
            if self._file is not None:
                self.flush()
        finally:
            if self._file is not None:
                file, self._file = self._file, None
                with os_errors_as_sentences(self.path), file:
                    if not self._broken:
                        self._writer.finish()
                        self._hand_over(file)
                self.keep(at_once=True)

    # --- the file

    def _start(self, messages: list[_Message]) -> None:
        with self.started(lambda name: io.FileIO(name, "w")) as file:
            self._start_library()
            self._append(file, messages)
        self._file = file

    def _append(self, file: io.FileIO, messages: list[_Message]) -> None:
        """Add a chunk, all of it or, raising OSError, nothing."""
        if self._broken:
            raise RecordError(f"{self.path} could not take a chunk before; nothing is added to it.")
        self._check_space(file, sum(len(message.data) for message in messages), len(messages))
        for message in messages:
            if message.topic not in self._channels:
                self._channels[message.topic] = self._channel(message)
            log_ns = max(message.at_ns, 0)  # MCAP's own times have no sign
            self._writer.add_message(
                self._channels[message.topic], log_ns, message.data, log_ns, message.sequence
            )
        self._writer.flush()  # into memory
        self._chunks += 1
        self._hand_over(file)

    def _check_space(self, file: io.FileIO, data_bytes: int, messages: int) -> None:
        """Make sure of room for what the next chunk and then the index can need.

        Raises:
            OSError: the disk is full, or a quota or limit is reached.
        """
        wanted = _SPARE_BYTES + data_bytes + data_bytes // 100 + 64 * messages + _INDEX_BYTES * self._chunks
        try:
            os.posix_fallocate(file.fileno(), self._whole_bytes, wanted)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            # This file system cannot set space aside; writing to it works all the same.
        finally:
            with suppress(
                OSError
            ):  # given back at once: zeros behind a killed writer's last chunk are no use
                file.truncate(self._whole_bytes)

    def _hand_over(self, file: io.FileIO) -> None:
        """Write what is in memory; on failure cut the file back to where it was whole."""
        parts, self._memory.parts = self._memory.parts, []
        try:
            for part in parts:
                view = memoryview(part)
                while view:  # a raw file may take less than it is given
                    view = view[file.write(view) :]
            self._whole_bytes = self._memory.position
        except OSError:
            self._broken = True  # the library believes in a chunk that is not there
            with suppress(OSError):
                file.truncate(self._whole_bytes)
            raise

    # --- the messages

    def _start_library(self) -> None:
        from .. import __version__

        row = self._last
        assert row is not None
        self._chunks = self._whole_bytes = 0
        self._writer: Any = self._mcap.Writer(
            self._memory, chunk_size=_NEVER, compression=self._mcap.CompressionType.LZ4
        )
        self._writer.start(library=f"edgevae {__version__}")
        facts = {"format_version": layout.FORMAT_VERSION, **self._run.facts(row)}
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
        self._waiting.append(_Message(topic, kind, at_ns, sequence & 0xFFFFFFFF, data))

    def _channel(self, first: _Message) -> int:
        message = self._classes[first.kind]
        if first.kind not in self._schemas:
            name = message.DESCRIPTOR.full_name
            definition = self._descriptors(message).SerializeToString()
            self._schemas[first.kind] = self._writer.register_schema(name, "protobuf", definition)
        about = {}
        if first.topic == layout.DEPTH and self._last is not None:
            about["depth_scale"] = repr(self._last.depth_scale)  # metres a unit of 16UC1
        return int(self._writer.register_channel(first.topic, "protobuf", self._schemas[first.kind], about))


class _Message(NamedTuple):
    topic: str
    kind: str
    at_ns: int
    sequence: int
    data: bytes


class _Memory:
    """What the library takes for the file; ``parts`` are what it wrote and the file has not taken yet."""

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
