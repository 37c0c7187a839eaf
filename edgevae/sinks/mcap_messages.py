"""The fields of the Foxglove messages that a record holds: pictures, cameras, poses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ..frame import Intrinsics

WORLD, CAMERA = "world", "camera"


def raw_image(image: npt.NDArray[Any]) -> dict[str, Any]:
    """The fields of a RawImage: rgb8, 16UC1 in the frame's own units, or 32FC1 in metres."""
    encoding = {"uint8": "rgb8", "uint16": "16UC1", "float32": "32FC1"}[image.dtype.name]
    image = np.ascontiguousarray(image, image.dtype.newbyteorder("<"))
    height, width = image.shape[:2]
    return {
        "frame_id": CAMERA,
        "width": width,
        "height": height,
        "encoding": encoding,
        "step": image.nbytes // height,
        "data": image.tobytes(),
    }


def millimetres(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Metres as ROS stores them in 16 bits; beyond 65.535 m stays there."""
    return np.asarray(np.rint(np.clip(depth_m * np.float32(1000), 0, 65535)), np.uint16)


def calibration(camera: Intrinsics) -> dict[str, Any]:
    """The fields of a CameraCalibration; its distortion is OpenCV's, under the name ROS gives it."""
    k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    distortion = list(camera.distortion)
    if distortion and len(distortion) < 5:
        distortion += [0.0] * (5 - len(distortion))
    return {
        "frame_id": CAMERA,
        "width": camera.width,
        "height": camera.height,
        "distortion_model": "plumb_bob" if len(distortion) <= 5 else "rational_polynomial",
        "D": distortion,
        "K": k,
        "R": np.eye(3).ravel().tolist(),
        "P": [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0],
    }


def transform(pose: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The fields of a FrameTransform that puts the camera into the world."""
    x, y, z = (float(value) for value in pose[:3, 3])
    qx, qy, qz, qw = quaternion(pose[:3, :3])
    return {
        "parent_frame_id": WORLD,
        "child_frame_id": CAMERA,
        "translation": {"x": x, "y": y, "z": z},
        "rotation": {"x": qx, "y": qy, "z": qz, "w": qw},
    }


def quaternion(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation matrix: the eigenvector of Bar-Itzhack (2000), exact to rounding."""
    (a, b, c), (d, e, f), (g, h, i) = rotation.tolist()
    k = np.array(
        [
            [a - e - i, 0.0, 0.0, 0.0],
            [d + b, e - a - i, 0.0, 0.0],
            [g + c, h + f, i - a - e, 0.0],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    values, vectors = np.linalg.eigh(k)  # reads the lower triangle
    x, y, z, w = vectors[:, np.argmax(values)].tolist()
    return (x, y, z, w) if w >= 0 else (-x, -y, -z, -w)
