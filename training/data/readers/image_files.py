"""Pictures in files: colour, grey and depth, decoded as the runtime's own sources do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevae.errors import FrameError, SourceError
from edgevae.sources import image_files
from edgevae.sources.folder import natural_key

COLOR_SUFFIXES = image_files.COLOR_SUFFIXES
CURE = "Remove it or copy it again."


def read_color(path: Path) -> npt.NDArray[np.uint8]:
    """A colour picture, uint8 (H, W, 3) in R, G, B order.

    Raises:
        FrameError: the file is missing, truncated or no picture.
    """
    # Not cv2.imread: of a truncated JPEG it returns the upper part over grey and says nothing.
    color = image_files.read_color(path)
    data = path.read_bytes()
    # Nor does OpenCV always miss the end mark. That of a thumbnail comes before the picture's start of scan.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise FrameError(f"picture {path} is truncated ({len(data)} bytes, no end mark). {CURE}")
    return color


def read_depth(path: Path, depth_scale: float) -> npt.NDArray[np.float32]:
    """A depth picture: 8 or 16 bits in units of ``depth_scale`` metres, or .npy of float metres.

    Returns:
        float32 (H, W) metres.

    Raises:
        FrameError: the file is missing, truncated, or no depth picture.
    """
    try:
        depth = image_files.read_depth(path, eight_bit=True)
    except SourceError as error:
        raise FrameError(f"{str(error).rstrip('.')}; are colour and depth exchanged?") from error
    if depth.dtype == np.float32:
        return depth
    return depth.astype(np.float32) * np.float32(depth_scale)


def find_pictures(folder: Path) -> list[Path]:
    """Every picture below ``folder`` at any depth, in natural order; hidden files and folders left out.

    Raises:
        SourceError: a folder cannot be listed.
    """
    found = []
    try:
        for path in folder.rglob("*"):
            parts = path.relative_to(folder).parts
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
            if path.suffix.lower() in COLOR_SUFFIXES and not hidden and path.is_file():
                found.append(path)
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror or error}.") from error
    return sorted(found, key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts])
