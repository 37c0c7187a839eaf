"""Sources of frames: cameras, files, and a rendered street. ``open_source`` picks one by its URI."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SourceError
from .base import Source

if TYPE_CHECKING:
    from .folder import FolderSource

__all__ = ["FORMS", "Source", "open_source"]

FORMS = (
    "a camera index, /dev/video* or a by-id path, a video file, an image folder, a picture "
    "(COLOR.png,DEPTH.png with depth), an http://, https:// or rtsp:// URL, realsense[:SERIAL], a RealSense "
    ".bag or .db3, an .mcap file, a ROS .bag, .db3 or folder, tum:DIR, nyu:FILE.mat, or synthetic[:seed]"
)
_REALSENSE = re.compile(r"realsense(:.*|\?.*)?")
_FOLDER_OPTIONS = ("depth_scale", "fps")
_WITH_DEPTH = (
    "synthetic, tum:DIR, nyu:FILE.mat, realsense, RealSense, .mcap and ROS recordings, and image folders "
    "with a depth folder"
)
_RECORDING_OPTIONS = ("color", "depth", "depth_scale")


def open_source(
    uri: str,
    *,
    depth: str | None = None,
    calibration: str | Path | None = None,
    timeout_s: float = 5.0,
    wrap: Callable[[Callable[[], Source]], Source] | None = None,
) -> Source:
    """Open a source of frames.

    Args:
        uri: a camera index (``0``), ``/dev/video*`` or ``/dev/v4l/by-id/...``, a video file, an image folder
            (``DIR`` with pictures, or with ``color`` or ``rgb`` and ``depth`` inside;
            ``DIR?depth_scale=0.001&fps=30``), a picture (``COLOR.png`` or ``COLOR.png,DEPTH.png``), an
            ``http(s)://`` or ``rtsp://`` URL, ``realsense[:SERIAL]``
            (``realsense?size=640x480&fps=30&filters=spatial,temporal,hole_filling``), a RealSense recording
            (``FILE.bag?filters=spatial``), an ``.mcap`` file or a ROS recording (``.bag``, ``.db3``, a ROS 2
            folder; ``run.mcap?color=/TOPIC&depth=/TOPIC&depth_scale=0.001``), ``tum:DIR``, ``nyu:FILE.mat``,
            or ``synthetic[:seed]``
            (``synthetic:7?size=640x480&frames=300``).
        depth: None for the depth that the source itself carries, "none" for colour alone, for an image folder
            the folder of its depth pictures, or another source: see PairedSource.
        calibration: a file that registers the depth of another source to colour; docs/calibration.md.
        timeout_s: how long a device or stream may take to open.
        wrap: makes a source of what opens one, such as ``reconnecting``; of two sources, each is wrapped, so
            that one may come and go while the other stays.

    Returns:
        A context manager that yields ``Frame``s.

    Raises:
        SourceError: the source does not exist, cannot be opened, or has no such depth.
    """
    uri = str(uri)
    if uri in ("", "tum:", "nyu:"):  # an empty path is the present folder to pathlib
        raise SourceError(f"'{uri}' names no source; wanted {FORMS}.")
    if depth is not None and depth != "none" and depth != uri:
        if calibration is None and _is_folder(uri) and _is_folder(depth):
            return _folder(uri, depth, True)
        return _paired(uri, depth, calibration, timeout_s, wrap)
    if calibration is not None:
        raise SourceError(
            f"a calibration registers the depth of one source to the colour of another; '{uri}' is one "
            "source: give the other with --depth, or leave --calibration out."
        )
    if wrap is not None:
        return wrap(lambda: _open_one(uri, depth, timeout_s))
    return _open_one(uri, depth, timeout_s)


def _open_one(uri: str, depth: str | None, timeout_s: float) -> Source:
    """One source; ``depth`` is None, "none", or ``uri`` itself, which insists on depth."""
    with_depth = depth != "none"
    scheme, separator, rest = uri.partition(":")
    if re.fullmatch(r"synthetic(:.*|\?.*)?", uri):
        return _synthetic(uri, with_depth)
    if scheme == "tum" and separator:
        from .tum import TumSource

        return TumSource(rest, with_depth=with_depth)
    if scheme == "nyu" and separator:
        from .nyu import NyuSource

        return NyuSource(rest, with_depth=with_depth)
    if _REALSENSE.fullmatch(uri):
        from .realsense import open_realsense

        return open_realsense(uri, streams="both" if with_depth else "color")

    from .opencv import CameraSource, VideoFileSource, is_url
    from .realsense_file import is_realsense_recording, open_recording

    carries_none = SourceError(f"{uri} carries no depth; sources that do are {_WITH_DEPTH}.")
    is_index = uri.isdecimal() and not Path(uri).exists()
    if is_index or uri.startswith("/dev/") or is_url(uri):
        if depth == uri:
            raise carries_none
        return CameraSource(int(uri) if is_index else uri, timeout_s=timeout_s)
    if is_realsense_recording(uri.partition("?")[0]):
        return open_recording(uri, streams="both" if with_depth else "color")
    if _is_recording(uri):
        return _recording(uri, depth)
    if _is_folder(uri):
        folder = _folder(uri, None, with_depth)
        if depth == uri and not folder.has_depth:
            raise carries_none
        return folder
    if (picture := _picture(uri, depth)) is not None:
        return picture
    if Path(uri).is_file() and Path(uri).suffix.lower() != ".mat":
        if depth == uri:
            raise carries_none
        return VideoFileSource(uri)
    found = "exists, but is no source of frames" if Path(uri).exists() else "does not exist"
    raise SourceError(f"'{uri}' {found}; wanted {FORMS}.")


def _paired(
    color_uri: str,
    depth_uri: str,
    calibration: str | Path | None,
    timeout_s: float,
    wrap: Callable[[Callable[[], Source]], Source] | None,
) -> Source:
    from .paired import PairedSource
    from .realsense_file import is_realsense_recording, open_recording

    if _is_folder(color_uri) and _is_folder(depth_uri):
        raise SourceError(
            f"the pictures of the depth folder '{depth_uri}' have no times and count as registered; leave "
            "--calibration out, or give depth as tum:DIR."
        )

    def open_color() -> Source:
        return open_source(color_uri, depth="none", timeout_s=timeout_s)

    def open_depth() -> Source:
        if _REALSENSE.fullmatch(depth_uri):
            from .realsense import open_realsense

            return open_realsense(depth_uri, streams="depth")  # as it sees it, not as its colour camera does
        if is_realsense_recording(depth_uri.partition("?")[0]):
            return open_recording(depth_uri, streams="depth")
        if _is_recording(depth_uri):
            return _recording(depth_uri, depth_uri, with_color=False)
        return open_source(depth_uri, depth=depth_uri, timeout_s=timeout_s)

    try:
        depth = open_depth() if wrap is None else wrap(open_depth)
    except SourceError as error:
        raise SourceError(f"depth: {error}") from error
    try:
        color = open_color() if wrap is None else wrap(open_color)
    except BaseException:
        depth.close()
        raise
    return PairedSource(color, depth, calibration=calibration)


def _is_folder(uri: str) -> bool:
    """Whether ``uri`` is a folder of pictures."""
    folder = Path(uri).is_dir() or Path(uri.rpartition("?")[0] or uri).is_dir()
    return folder and not _is_recording(uri)


def _folder(uri: str, depth: str | None, with_depth: bool) -> FolderSource:
    from .folder import FolderSource

    folder, options = _options(uri, _FOLDER_OPTIONS)
    scale = _positive(options["depth_scale"], "depth_scale") if "depth_scale" in options else None
    fps = _positive(options["fps"], "fps") if "fps" in options else 30.0
    return FolderSource(folder, depth_folder=depth, with_depth=with_depth, depth_scale=scale, fps=fps)


def _is_recording(uri: str) -> bool:
    from .rosbag import is_ros_folder

    if "://" in uri:
        return False
    path = uri if Path(uri).exists() else uri.rpartition("?")[0] or uri
    return Path(path).suffix.lower() in (".mcap", ".bag", ".db3") or is_ros_folder(path)


def _recording(uri: str, depth: str | None, *, with_color: bool = True) -> Source:
    from .mcap import McapLog
    from .message_source import MessageSource
    from .rosbag import RosLog

    path, options = _options(uri, _RECORDING_OPTIONS)
    scale = _positive(options["depth_scale"], "depth_scale") if "depth_scale" in options else None
    log = McapLog(path) if Path(path).suffix.lower() == ".mcap" else RosLog(path)
    try:
        source = MessageSource(
            log,
            color=options.get("color"),
            depth=options.get("depth"),
            with_depth=depth != "none",
            with_color=with_color,
            depth_scale=scale,
        )
        if depth == uri and source.depth_topic is None:
            raise SourceError(f"{uri} carries no depth; sources that do are {_WITH_DEPTH}.")
        return source
    except BaseException:
        log.close()
        raise


def _picture(uri: str, depth: str | None) -> Source | None:
    """A picture, with its depth after a comma; None if ``uri`` is no picture."""
    from .picture import PictureSource, picture_files

    body, options = _options(uri, ("depth_scale",)) if "?depth_scale=" in uri else (uri, {})
    files = picture_files(body)
    if files is None:
        return None
    scale = _positive(options["depth_scale"], "depth_scale") if options else None
    return PictureSource(files[0], None if depth == "none" else files[1], depth_scale=scale)


def _synthetic(uri: str, with_depth: bool) -> Source:
    from .synthetic import SyntheticSource

    body, options = _options(uri, ("size", "frames"))
    seed = body.partition(":")[2] or "0"
    wanted = options.get("size", "320x240")
    size = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", wanted)
    if not re.fullmatch(r"[0-9]{1,18}", seed):
        raise SourceError(f"synthetic seed is '{seed}', wanted a whole number, as in synthetic:7.")
    if size is None:
        raise SourceError(f"synthetic size is '{wanted}', wanted WxH, as in synthetic:7?size=640x480.")
    frames = options.get("frames")
    if frames is not None and not re.fullmatch(r"[1-9][0-9]{0,8}", frames):
        raise SourceError(f"synthetic frames is '{frames}', wanted a number, as in synthetic:7?frames=300.")
    return SyntheticSource(
        int(seed),
        int(size[1]),
        int(size[2]),
        frames=None if frames is None else int(frames),
        with_depth=with_depth,
    )


def _options(uri: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Split ``BODY?key=value&key=value``; a path that exists as it stands is all body."""
    body, mark, query = uri.rpartition("?")
    if not mark or Path(uri).exists():
        return uri, {}
    options = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if key not in known or not equals or not value:
            wanted = " or ".join(f"{name}=..." for name in known)
            raise SourceError(f"'{uri}' has the option '{part}', wanted {wanted}.")
        options[key] = value
    return body, options


def _positive(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise SourceError(f"{name} is '{text}', wanted a positive number.")
    return value
