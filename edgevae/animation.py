"""Writing a series of pictures as GIF or MP4, whole under its final name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from .errors import RecordError
from .files import os_errors_as_sentences, replacing, write_whole
from .pictures import Image
from .sources.opencv_quiet import load_cv2


def check_animation(path: Path) -> None:
    """Raise RecordError unless an animation named ``path`` can be written by this OpenCV."""
    suffix = path.suffix.lower()
    if suffix == ".gif" and not hasattr(cv2, "imencodeanimation"):
        raise RecordError(
            f"OpenCV {cv2.__version__} writes no GIF; run: pip install --upgrade opencv-python-headless, or "
            "choose .mp4 or .png."
        )
    if suffix not in (".gif", ".mp4"):
        raise RecordError(f"{path} has the suffix '{path.suffix}', wanted .gif or .mp4.")


def write_animation(path: Path, pictures: Sequence[Image], *, fps: float) -> None:
    """Write pictures uint8 (H, W, 3) R G B, all of one size, as ``.gif`` (repeating for ever) or ``.mp4``.

    Raises:
        RecordError: another suffix, or the file cannot be written.
    """
    check_animation(path)
    bgr = [cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) for picture in pictures]
    if path.suffix.lower() == ".gif":
        write_whole(path, _gif(bgr, fps))
        return
    with os_errors_as_sentences(path), replacing(path) as temporary:
        inner = temporary.with_name(f"{temporary.name}.mp4")  # the suffix tells FFmpeg the container
        try:
            _write_mp4(inner, bgr, fps)
            inner.rename(temporary)
        finally:
            inner.unlink(missing_ok=True)


def _gif(bgr: Sequence[cv2.typing.MatLike], fps: float) -> bytes:
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA) for picture in bgr]
    animation.durations = [max(1, round(1000 / fps))] * len(bgr)
    animation.loop_count = 0
    done, content = cv2.imencodeanimation(".gif", animation)
    if not done:
        raise RecordError("OpenCV could not write the GIF; choose .mp4 or .png.")
    return bytes(np.asarray(content).tobytes())


def _write_mp4(path: Path, bgr: Sequence[cv2.typing.MatLike], fps: float) -> None:
    load_cv2()  # FFmpeg is silent from here on
    height, width = bgr[0].shape[:2]
    # MPEG-4 stores colour at half the size: an odd row or column would be lost
    size = (width + width % 2, height + height % 2)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    if not writer.isOpened():
        raise RecordError("OpenCV cannot write MP4 here; choose .gif or .png.")
    for picture in bgr:
        writer.write(cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE))
    writer.release()
    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)  # OpenCV does not report a write that failed
    written = round(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
    reader.release()
    if written != len(bgr):
        raise OSError(f"OpenCV wrote {written} of {len(bgr)} pictures, as on a full disk")
