"""OpenCV for the sources: loaded when a source that needs it is opened, and silent on stderr."""

from __future__ import annotations

import os
from types import ModuleType

from ..errors import SourceError


def load_cv2() -> ModuleType:
    """The cv2 module, with its log and FFmpeg's off unless the user's environment asks for them.

    Raises:
        SourceError: OpenCV is not installed.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")  # seconds; 10 would hold up close()
    try:
        import cv2
    except ImportError as error:
        install = "Run 'pip install opencv-python-headless'."
        raise SourceError(f"OpenCV is missing ({error}). {install}") from error
    if "OPENCV_LOG_LEVEL" not in os.environ:
        # a failure is reported once, by an exception of ours
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
