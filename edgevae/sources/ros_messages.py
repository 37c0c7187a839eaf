"""ROS messages, as rosbags reads them without ROS, to pictures and intrinsics."""

from __future__ import annotations

from typing import Any

from ..errors import SourceError
from ..frame import Intrinsics
from .messages import ImageMessage, pinhole

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA = "sensor_msgs/msg/CameraInfo"


def need_rosbags(error: ImportError) -> SourceError:
    """The sentence for a machine without rosbags."""
    return SourceError(f'ROS messages need {error.name}, which is not installed; pip install "edgevae[ros]".')


def ros_image(topic: str, received_ns: int, message: Any) -> ImageMessage:
    """An Image or CompressedImage; a stamp that was never set gives way to the time of receipt."""
    stamp = message.header.stamp
    stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec or received_ns
    if message.__msgtype__ == COMPRESSED:
        return ImageMessage(topic, stamp_ns, message.format, message.data)
    return ImageMessage(
        topic,
        stamp_ns,
        message.encoding,
        message.data,
        message.width,
        message.height,
        message.step,
        bool(message.is_bigendian),
    )


def ros_camera(message: Any) -> Intrinsics | None:
    """A CameraInfo; ROS 1 writes its fields with capitals."""
    k, d = (getattr(message, name.upper(), None) for name in "kd")
    if k is None:
        k, d = message.k, message.d
    return pinhole(message.width, message.height, k, message.distortion_model, d)
