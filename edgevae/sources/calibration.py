"""Where a depth camera stands beside a colour camera, and both lenses; see docs/calibration.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..frame import Intrinsics
from .opencv_quiet import load_cv2

_LARGEST_FILE = 1 << 20  # bytes; a calibration has two thousand
_LARGEST_SIDE = 8192  # pixels; maps of every pixel are kept
_DISTORTION_COUNTS = (4, 5, 8, 12, 14)
_ROTATION_SLACK = 1e-3  # files are written with six digits and more
_FAR_APART_M = 1.0
_MANUAL = "see docs/calibration.md"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two cameras that look at the same scene.

    Attributes:
        color: the colour camera's intrinsics, with distortion.
        depth: the depth camera's intrinsics, with distortion.
        color_from_depth: float64 (4, 4), takes points of the depth camera's frame into the colour camera's;
            OpenCV axes (x right, y down, z forward), metres.
        warning: a sentence about what looks wrong but may be right, or "".
    """

    color: Intrinsics
    depth: Intrinsics
    color_from_depth: npt.NDArray[np.float64]
    warning: str = ""


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration from a file of OpenCV's FileStorage (YAML, XML or JSON).

    Raises:
        SourceError: the file is missing, no such document, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise SourceError(f"calibration {path} {found}; wanted a file of OpenCV's FileStorage, {_MANUAL}.")
    if path.stat().st_size > _LARGEST_FILE:
        size_mb = path.stat().st_size / 1e6
        raise SourceError(f"calibration {path} has {size_mb:.0f} MB, wanted a few kilobytes, {_MANUAL}.")
    cv2 = load_cv2()
    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        opened = bool(storage.isOpened())
        document = _Document(path, storage, cv2.error)
        document.node("R")  # in a file that is no document at all, asking for a name is what fails
    except (cv2.error, SystemError) as error:  # SystemError: how OpenCV's constructor fails in Python
        raise _no_document(path) from error
    if not opened:
        raise _no_document(path)
    try:
        color, depth = _camera(document, "color"), _camera(document, "depth")
        rotation = document.numbers("R", (3, 3))
        _check_rotation(path, rotation)
        translation_m = document.numbers("T", (3, 1), (1, 3)).reshape(3)
    finally:
        storage.release()
    color_from_depth = np.eye(4)
    color_from_depth[:3, :3] = rotation
    color_from_depth[:3, 3] = translation_m
    return Calibration(color, depth, color_from_depth, _distance_warning(path, translation_m))


def _no_document(path: Path) -> SourceError:
    return SourceError(f"calibration {path} cannot be read as OpenCV YAML, XML or JSON; {_MANUAL}.")


class _Document:
    """The entries of a calibration file, each checked as it is asked for."""

    def __init__(self, path: Path, storage: Any, cv_error: type[Exception]) -> None:
        self._path, self._storage, self._cv_error = path, storage, cv_error

    def node(self, key: str) -> Any:
        return self._storage.getNode(key)

    def numbers(self, key: str, *shapes: tuple[int, int]) -> npt.NDArray[np.float64]:
        """The matrix ``key`` of one of ``shapes``, finite."""
        wanted = "wanted a matrix " + " or ".join(f"{rows}x{columns}" for rows, columns in shapes)
        node = self.node(key)
        if node.empty():
            raise SourceError(f"calibration {self._path} has no {key}, {wanted}; {_MANUAL}.")
        try:
            matrix = node.mat()
        except self._cv_error:
            matrix = None
        if matrix is None:
            raise SourceError(f"calibration {self._path} has a {key} that is no matrix, {wanted}.")
        if matrix.ndim != 2 or matrix.shape not in shapes:
            got = "x".join(str(side) for side in matrix.shape)
            raise SourceError(f"calibration {self._path} has a {key} of {got} numbers, {wanted}.")
        values = np.asarray(matrix, np.float64)
        if not np.isfinite(values).all():
            raise SourceError(f"calibration {self._path} has a {key} that is not finite, {wanted}.")
        return values

    def side(self, key: str) -> int:
        """The image side ``key`` in pixels."""
        node = self.node(key)
        value = float(node.real()) if node.isInt() or node.isReal() else 0.0
        if not (1 <= value <= _LARGEST_SIDE and value % 1 == 0):
            got = "no" if node.empty() else f"{value:g} as" if value else "no number as"
            raise SourceError(
                f"calibration {self._path} has {got} {key}, wanted the image's side in pixels, at most "
                f"{_LARGEST_SIDE}; {_MANUAL}."
            )
        return int(value)


def _camera(document: _Document, name: str) -> Intrinsics:
    """The camera whose keys begin with ``name``."""
    path = document._path
    key = f"{name}_camera_matrix"
    matrix = document.numbers(key, (3, 3))
    width, height = document.side(f"{name}_image_width"), document.side(f"{name}_image_height")
    (fx, skew, cx), (zero, fy, cy), last = matrix.tolist()
    if not (fx > 0 and fy > 0 and last == [0, 0, 1]):
        rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in matrix)
        raise SourceError(f"calibration {path} has {key} = {rows}; wanted fx 0 cx; 0 fy cy; 0 0 1.")
    if skew or zero:
        raise SourceError(f"calibration {path} has a {key} with skew, wanted fx 0 cx; 0 fy cy; 0 0 1.")
    if not (0 <= cx < width and 0 <= cy < height):
        raise SourceError(
            f"calibration {path} has {key} with its centre at {cx:g}, {cy:g} in an image of {width}x"
            f"{height}; wanted the matrix of images of that size, in pixels."
        )
    shapes = [shape for count in _DISTORTION_COUNTS for shape in ((1, count), (count, 1))]
    distortion = document.numbers(f"{name}_distortion_coefficients", *shapes).reshape(-1)
    coefficients = tuple(distortion.tolist()) if distortion.any() else ()
    return Intrinsics(fx, fy, cx, cy, width, height, coefficients)


def _check_rotation(path: Path, rotation: npt.NDArray[np.float64]) -> None:
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    determinant = float(np.linalg.det(rotation))
    if error > _ROTATION_SLACK or determinant < 0:
        why = "mirrors" if error <= _ROTATION_SLACK else f"is off orthonormal by {error:.2g}"
        raise SourceError(
            f"calibration {path} has an R that is no rotation (it {why}); wanted R of cv2.stereoCalibrate."
        )


def _distance_warning(path: Path, translation_m: npt.NDArray[np.float64]) -> str:
    distance_m = float(np.linalg.norm(translation_m))
    if distance_m <= _FAR_APART_M:
        return ""
    return (
        f"calibration {path} puts the cameras {distance_m:g} m apart; T is in metres, as were the board's "
        "squares in cv2.stereoCalibrate: divide millimetres by 1000"
    )
