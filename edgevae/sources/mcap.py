"""MCAP recordings of pictures: Foxglove's messages (edgevae's own record among them), ROS 1 and ROS 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import mcap_layout as layout
from ..errors import FrameError, SourceError
from ..frame import Intrinsics
from ..mcap_file import MAGIC, McapScan, need_mcap
from ..trajectory import pose_matrix
from .message_source import MessageLog
from .messages import ImageMessage, PoseMessage, pinhole
from .ros_messages import need_rosbags, ros_camera, ros_image

if TYPE_CHECKING:
    from mcap.records import Channel, Message, Schema
    from mcap.summary import Summary

Item = ImageMessage | PoseMessage | Intrinsics | None
_FOXGLOVE = ("RawImage", "CompressedImage", "CameraCalibration", "FrameTransform")
_ROS = ("Image", "CompressedImage", "CameraInfo")


class McapLog(MessageLog):
    """The pictures and intrinsics of an MCAP file, and the poses of edgevae's own; its index is not needed.

    Raises:
        SourceError: the file is missing or no MCAP, or a library is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self._path = Path(path)
        self.first: dict[str, ImageMessage] = {}
        self.cameras: dict[str, Intrinsics] = {}
        self.depth_scales: dict[str, float] = {}
        self._decoders: dict[int, Callable[[str, Message], Item] | None] = {}
        try:
            with self._path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise SourceError(f"{path} is not an MCAP file, or is cut off in its first bytes.")
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror or error}.") from error
        self._look()

    def messages(self, topics: set[str]) -> Iterator[ImageMessage | PoseMessage | FrameError]:
        scan, damaged = McapScan(self._path), 0
        for message in self._messages(scan):
            if scan.damaged > damaged:
                damaged = scan.damaged
                yield FrameError(
                    f"{self.name} is damaged before {message.log_time / 1e9:.3f} s, what was there is lost."
                )
            topic = scan.topic(message)
            if topic in topics or topic == layout.POSE:
                item = self._item(scan, message)
                if isinstance(item, ImageMessage | PoseMessage | FrameError):
                    yield item
        self.cut_off = not scan.complete

    def _messages(self, scan: McapScan) -> Iterator[Message]:
        try:
            from mcap.records import Message
        except ImportError as error:
            raise need_mcap(error) from error
        try:
            for record in scan:
                if isinstance(record, Message):
                    yield record
        except OSError as error:
            raise SourceError(f"cannot read {self.name}: {error.strerror or error}.") from error

    def _look(self) -> None:
        """Take the first picture and the first intrinsics of each topic; stop once all have been met."""
        scan, summary, met = McapScan(self._path), self._summary(), set()
        expected = None if summary is None else _promised(summary)
        for message in self._messages(scan):
            topic = scan.topic(message)
            if topic not in met:
                item = self._item(scan, message)
                if isinstance(item, FrameError):
                    continue  # the next one may be whole
                met.add(topic)
                self._keep(topic, item, scan.channels[message.channel_id])
            if expected is not None and met >= expected:
                break
        about = scan if summary is None else summary
        self.other_topics = [
            f"{channel.topic} ({_schema_name(about.schemas.get(channel.schema_id), channel)})"
            for channel in about.channels.values()
            if channel.topic not in self.first
        ]

    def _keep(self, topic: str, item: Item, channel: Channel) -> None:
        if isinstance(item, ImageMessage):
            self.first[topic] = item
            if "depth_scale" in channel.metadata:
                self.depth_scales[topic] = _scale(channel.metadata["depth_scale"], self.name)
        elif isinstance(item, Intrinsics):
            self.cameras[topic] = item

    def _summary(self) -> Summary | None:
        """The index at the end of the file; None without one."""
        from mcap.reader import make_reader

        try:
            with self._path.open("rb") as file:
                return make_reader(file).get_summary()
        except Exception:  # a file that was cut off fails in many ways, and is read without an index
            return None

    def _item(self, scan: McapScan, message: Message) -> Item | FrameError:
        channel = scan.channels[message.channel_id]
        if channel.id not in self._decoders:
            self._decoders[channel.id] = _decoder(channel, scan.schemas.get(channel.schema_id))
        decode = self._decoders[channel.id]
        if decode is None:
            return None
        try:
            return decode(channel.topic, message)
        except Exception as error:  # protobuf and rosbags meet damage in many ways
            return FrameError(
                f"a message on {channel.topic} at {message.log_time / 1e9:.3f} s is damaged: {error}."
            )


def _promised(summary: Summary) -> set[str] | None:
    """The topics of which a message that matters will come; None if the index does not say."""
    if summary.statistics is None:
        return None
    counts = summary.statistics.channel_message_counts
    return {
        channel.topic
        for id, channel in summary.channels.items()
        if counts.get(id) and _decoder(channel, summary.schemas.get(channel.schema_id)) is not None
    }


def _decoder(channel: Channel, schema: Schema | None) -> Callable[[str, Message], Item] | None:
    """What turns a channel's messages into pictures, intrinsics or poses; None for every other channel."""
    name, encoding = _schema_name(schema, channel), channel.message_encoding
    package, _, kind = name.replace("/msg/", "/").replace("/", ".").rpartition(".")
    if encoding == "protobuf" and package == "foxglove" and kind in _FOXGLOVE:
        return _foxglove(kind)
    if encoding in ("cdr", "ros1") and package == "sensor_msgs" and kind in _ROS:
        return _ros(kind, encoding)
    return None


def _foxglove(kind: str) -> Callable[[str, Message], Item]:
    import importlib

    try:
        module = importlib.import_module(f"foxglove_schemas_protobuf.{kind}_pb2")
    except ImportError as error:
        raise need_mcap(error) from error
    parse = getattr(module, kind).FromString

    def raw(topic: str, message: Message) -> Item:
        image = parse(message.data)
        return ImageMessage(
            topic, _stamp(image, message), image.encoding, image.data, image.width, image.height, image.step
        )

    def compressed(topic: str, message: Message) -> Item:
        image = parse(message.data)
        return ImageMessage(topic, _stamp(image, message), image.format, image.data)

    def camera(topic: str, message: Message) -> Item:
        info = parse(message.data)
        return pinhole(info.width, info.height, info.K, info.distortion_model, info.D)

    def pose(topic: str, message: Message) -> Item:
        if topic != layout.POSE:
            return None
        transform = parse(message.data)
        t, q = transform.translation, transform.rotation
        rotation = np.array([q.x, q.y, q.z, q.w])
        length = float(np.linalg.norm(rotation))
        if not 0.5 < length < 2.0:
            return None
        return PoseMessage(
            _stamp(transform, message), pose_matrix(np.array([t.x, t.y, t.z]), rotation / length)
        )

    return dict(zip(_FOXGLOVE, (raw, compressed, camera, pose), strict=True))[kind]


def _ros(kind: str, encoding: str) -> Callable[[str, Message], Item]:
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise need_rosbags(error) from error
    store = get_typestore(Stores.ROS1_NOETIC if encoding == "ros1" else Stores.ROS2_HUMBLE)
    deserialize = store.deserialize_ros1 if encoding == "ros1" else store.deserialize_cdr

    def decode(topic: str, message: Message) -> Item:
        parsed = deserialize(message.data, f"sensor_msgs/msg/{kind}")
        return ros_camera(parsed) if kind == "CameraInfo" else ros_image(topic, message.log_time, parsed)

    return decode


def _stamp(parsed: Any, message: Message) -> int:
    stamp = parsed.timestamp
    return stamp.seconds * 1_000_000_000 + stamp.nanos if parsed.HasField("timestamp") else message.log_time


def _schema_name(schema: Schema | None, channel: Channel) -> str:
    return schema.name if schema is not None else channel.message_encoding or "no schema"


def _scale(text: str, name: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0.0 < scale < np.inf:
        raise SourceError(
            f"{name} says that depth_scale is '{text}', wanted metres a unit; set ?depth_scale=."
        )
    return scale
