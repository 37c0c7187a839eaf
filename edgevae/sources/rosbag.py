"""ROS 1 ``.bag`` files and ROS 2 recordings (a folder with metadata.yaml, a ``.db3``), read without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import FrameError, SourceError
from ..frame import Intrinsics
from .message_source import MessageLog
from .messages import ImageMessage
from .ros_messages import CAMERA, COMPRESSED, IMAGE, need_rosbags, ros_camera, ros_image


class RosLog(MessageLog):
    """The pictures and intrinsics of a ROS recording.

    Raises:
        SourceError: it is missing, damaged or no ROS recording, or rosbags is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise need_rosbags(error) from error
        self.name = str(path)
        self.first: dict[str, ImageMessage] = {}
        self.cameras: dict[str, Intrinsics] = {}
        self.depth_scales: dict[str, float] = {}
        self.other_topics: list[str] = []
        if not Path(path).exists():
            raise SourceError(f"no recording {path}; wanted a ROS .bag or .db3 file, or a ROS 2 folder.")
        self._reader: Any = None
        try:
            # Recordings older than ROS 2 Iron do not say how their messages are laid out.
            self._reader = AnyReader([Path(path)], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
            self._look()
        except Exception as error:  # rosbags, SQLite and YAML each fail in many ways
            self.close()
            if isinstance(error, SourceError):
                raise
            raise self._damaged(error) from error

    def messages(self, topics: set[str]) -> Iterator[ImageMessage | FrameError]:
        connections = [c for c in self._reader.connections if c.topic in topics]
        try:
            for connection, received_ns, data in self._reader.messages(connections):
                yield self._image(connection, received_ns, data)
        except Exception as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            if reader.stack is not None:
                reader.close()

    def _look(self) -> None:
        """Take the first message of each topic that matters."""
        for connection in self._reader.connections:
            topic = connection.topic
            if connection.msgtype not in (IMAGE, COMPRESSED):
                self.other_topics.append(f"{topic} ({connection.msgtype})")
                if connection.msgtype != CAMERA:
                    continue
            first = next(iter(self._reader.messages([connection])), None)
            if first is None or topic in self.first or topic in self.cameras:
                continue
            _, received_ns, data = first
            if connection.msgtype == CAMERA:
                camera = ros_camera(self._reader.deserialize(data, connection.msgtype))
                if camera is not None:
                    self.cameras[topic] = camera
            else:
                image = self._image(connection, received_ns, data)
                if isinstance(image, ImageMessage):
                    self.first[topic] = image

    def _image(self, connection: Any, received_ns: int, data: bytes) -> ImageMessage | FrameError:
        try:
            message = self._reader.deserialize(data, connection.msgtype)
            return ros_image(connection.topic, received_ns, message)
        except Exception as error:  # deserialisation runs over an end, or finds bytes that are no text
            return FrameError(
                f"a message on {connection.topic} at {received_ns / 1e9:.3f} s is damaged: {error}."
            )

    def _damaged(self, error: Exception) -> SourceError:
        hint = " ('rosbag reindex' may repair a .bag)" if self.name.endswith(".bag") else ""
        reason = str(error).rstrip(".").splitlines()[0] if str(error) else type(error).__name__
        return SourceError(f"{self.name} cannot be read as a ROS recording: {reason}{hint}.")


def is_ros_folder(path: str | Path) -> bool:
    """Whether this is a folder as ROS 2 records into."""
    try:
        with (Path(path) / "metadata.yaml").open("rb") as file:
            return b"rosbag2_bagfile_information" in file.read(4096)
    except OSError:
        return False
