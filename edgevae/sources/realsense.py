"""``realsense[:SERIAL]``: colour and depth of an Intel RealSense camera, through pyrealsense2."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..errors import SourceError
from ..frame import Frame
from . import _options, _positive
from .base import Source
from .realsense_frames import FILTERS, FrameMaker, Pair

PREFERRED_SIZE = (640, 480)  # every model has it, on USB 2 as well; alignment costs by the pixel
PREFERRED_FPS = 30
_POLL_S = 0.001
_LOOK_S = 0.25  # a camera that gives nothing is looked for so often
INSTALL = "Run 'pip install \"edgevae[realsense]\"' and 'apt install libusb-1.0-0'."


def load_sdk() -> Any:
    """The pyrealsense2 module.

    Raises:
        SourceError: it, or the system library it needs, is not installed.
    """
    try:
        import pyrealsense2
    except ImportError as error:
        raise SourceError(f"the RealSense SDK is missing ({error}). {INSTALL}") from error
    if not hasattr(pyrealsense2, "pipeline"):  # older wheels nest the module in a package
        from pyrealsense2 import pyrealsense2

    return pyrealsense2


def open_realsense(uri: str, *, streams: str = "both") -> RealsenseSource:
    """Open ``realsense[:SERIAL][?size=640x480&fps=30&filters=spatial,temporal,hole_filling]``.

    ``streams`` is "both", "color" or "depth".

    Raises:
        SourceError: an option makes no sense, or the camera cannot be opened.
    """
    body, options = _options(uri, ("size", "fps", "filters"))
    size = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", options.get("size", "0x0"))
    if size is None or options.get("size") == "0x0":
        raise SourceError(f"RealSense size is '{options['size']}', wanted WxH, as in realsense?size=640x480.")
    fps = _positive(options["fps"], "fps") if "fps" in options else None
    return RealsenseSource(
        body.partition(":")[2],
        size=(int(size[1]), int(size[2])) if "size" in options else None,
        fps=fps,
        filters=parse_filters(options.get("filters", "")),
        streams=streams,
    )


def parse_filters(text: str) -> tuple[str, ...]:
    """Filters named in a URI, by comma; their order there has no meaning.

    Raises:
        SourceError: a name is unknown or stands there twice.
    """
    names = tuple(text.split(",")) if text else ()
    for name in names:
        if name not in FILTERS or names.count(name) > 1:
            wanted = ", ".join(FILTERS)
            raise SourceError(
                f"RealSense filters are '{text}', wanted some of {wanted}, each once, by comma."
            )
    return names


class RealsenseSource(Source):
    """The newest frame of a connected RealSense camera, depth aligned to colour by the SDK.

    ``index`` counts every colour image that the camera numbered, so a jump shows a drop. Timestamps are
    the middle of the exposure where the camera tells it (kernel metadata), on the clock "host" (the SDK's
    global time) or "sensor" (without it). ``streams="depth"`` gives depth alone, unaligned, with the depth
    camera's intrinsics; its frames are black in colour.

    Args:
        serial: which camera; empty where only one is connected.
        size: width and height of colour, of depth too if the camera has that; None: nearest to 640x480.
        fps: frames per second of both; None: nearest to 30.
        filters: post-filters of depth, see FrameMaker.
        streams: "both", "color" or "depth".
        device: an rs.device to open in place of looking for one.

    Raises:
        SourceError: no such camera, it has no such mode, or it cannot be started. It says so at once.
    """

    def __init__(
        self,
        serial: str = "",
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        filters: tuple[str, ...] = (),
        streams: str = "both",
        device: Any = None,
    ) -> None:
        rs: Any = load_sdk()
        self.live = True
        self._device: Any = _find(rs, serial) if device is None else device
        self.serial = device_info(rs, self._device, "serial_number")
        self.name = f"realsense:{self.serial}" if self.serial else "realsense"
        self._pipeline: Any = None
        self._replaced = self._given = 0
        try:
            chosen = _choose(rs, self._device, self.name, size, fps, streams)
            config = rs.config()
            for profile in chosen:
                enable(config, profile)
            for sensor in self._device.query_sensors():
                if sensor.supports(rs.option.global_time_enabled):
                    sensor.set_option(rs.option.global_time_enabled, 1)
            pipeline = rs.pipeline()
            pipeline.set_device(self._device)
            pipeline.start(config)
        except RuntimeError as error:
            raise SourceError(
                f"{self.name} cannot be started ({first_line(error)}). Close other programs that use it, "
                "plug it in again, then run 'edgevae cameras'."
            ) from error
        self._pipeline = pipeline
        self.fps = float(chosen[0].fps())
        self._maker = FrameMaker(rs, self.name, streams=streams, fps=self.fps, filters=filters)

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The newest frame that has not been given yet, waiting for one if need be.

        Raises:
            SourceError: no new frame within ``timeout_s``, the camera is gone, or the source is closed.
        """
        began_s = looked_s = time.monotonic()
        unpaired = self._maker.unpaired
        while True:
            pipeline, device = self._pipeline, self._device
            if pipeline is None:
                raise SourceError(f"{self.name} is closed; open it again with open_source.")
            now_s = time.monotonic()
            try:
                # The pipeline's own waiting restarts it when the camera is lost, and may block for 15 s then.
                # A frame queue handed to it would be called through Python, in the SDK's threads.
                frameset = pipeline.poll_for_frames()
                gone = not frameset and now_s - looked_s > _LOOK_S and not device.is_connected()
            except RuntimeError as error:
                raise SourceError(f"{self.name} failed ({first_line(error)}). Check its cable.") from error
            if gone:
                raise SourceError(f"{self.name} is gone: unplugged, or without power. Check its cable.")
            if frameset:
                if pairs := self._maker.take(frameset):
                    return self._give(pairs)
                continue
            if now_s - looked_s > _LOOK_S:
                looked_s = now_s
            if now_s - began_s > timeout_s:
                passed = self._maker.unpaired - unpaired
                what = f"{passed} colour images without depth of their time" if passed else "no frame"
                raise SourceError(f"{self.name} gave {what} within {timeout_s:g} s. Run 'edgevae cameras'.")
            time.sleep(_POLL_S)

    def _give(self, pairs: list[Pair]) -> Frame:
        self._replaced += len(pairs) - 1
        self._given += 1
        self.dropped = self._replaced + self._maker.missed
        return self._maker.frame(pairs[-1], self._given - 1 + self.dropped + self._maker.unpaired)

    def counts(self) -> dict[str, float]:
        """Colour images without depth of their time, and the skew of those with it; see FrameMaker."""
        return self._maker.counts()

    def close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with suppress(RuntimeError):  # it is gone already
                pipeline.stop()
        self._device = None


def connected(rs: Any) -> list[Any]:
    """The devices the SDK finds and can talk to, by serial; takes milliseconds."""
    found = {}
    listed = rs.context().query_devices()
    for place in range(len(listed)):
        with suppress(RuntimeError):  # unplugged since, or taken by another program
            device = listed[place]
            found[device_info(rs, device, "serial_number"), place] = device
    return [found[key] for key in sorted(found)]


def device_info(rs: Any, device: Any, name: str) -> str:
    """What a device says of itself under rs.camera_info.NAME, empty where it says nothing."""
    key = getattr(rs.camera_info, name)
    return str(device.get_info(key)) if device.supports(key) else ""


def modes(rs: Any, device: Any, stream: str) -> list[Any]:
    """The profiles of a device for ``stream`` ("color" or "depth") in the format that is used here."""
    kind, pixels = getattr(rs.stream, stream), rs.format.z16 if stream == "depth" else rs.format.rgb8
    return [
        profile.as_video_stream_profile()
        for sensor in device.query_sensors()
        for profile in sensor.get_stream_profiles()
        if profile.stream_type() == kind and profile.format() == pixels
    ]


def enable(config: Any, profile: Any) -> None:
    """Ask an rs.config for exactly this profile."""
    config.enable_stream(
        profile.stream_type(),
        profile.stream_index(),
        profile.width(),
        profile.height(),
        profile.format(),
        profile.fps(),
    )


def first_line(error: Exception) -> str:
    """What the SDK says, without what it adds on further lines."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _find(rs: Any, serial: str) -> Any:
    devices = {device_info(rs, device, "serial_number"): device for device in connected(rs)}
    if serial in devices:
        return devices[serial]
    if not serial and len(devices) == 1:
        return next(iter(devices.values()))
    if not devices:
        wanted = f"RealSense {serial}" if serial else "RealSense camera"
        raise SourceError(f"no {wanted} found (0 connected). Check its cable, then run 'edgevae cameras'.")
    names = " or ".join(f"realsense:{each}" for each in devices)
    if serial:
        raise SourceError(f"no RealSense {serial} found; connected: {names}. Run 'edgevae cameras'.")
    raise SourceError(f"{len(devices)} RealSense cameras are connected; say which: {names}.")


def _choose(
    rs: Any, device: Any, name: str, size: tuple[int, int] | None, fps: float | None, streams: str
) -> list[Any]:
    """The profiles to open: one of each stream, at one rate, depth of colour's size where it has that."""
    first = "depth" if streams == "depth" else "color"
    profile = _nearest(rs, device, name, first, size, fps)
    if streams != "both":
        return [profile]
    shape = (profile.width(), profile.height())
    return [profile, _nearest(rs, device, name, "depth", None, profile.fps(), near=shape)]


def _nearest(
    rs: Any,
    device: Any,
    name: str,
    stream: str,
    size: tuple[int, int] | None,
    fps: float | None,
    near: tuple[int, int] = PREFERRED_SIZE,
) -> Any:
    offered = modes(rs, device, stream)
    fitting = [
        profile
        for profile in offered
        if size in (None, (profile.width(), profile.height())) and fps in (None, profile.fps())
    ]
    if not fitting:
        asked = f" of {size[0]}x{size[1]}" if size else ""
        asked += f" at {fps:g} fps" if fps else ""
        have = "; ".join(f"{w}x{h} at {rates}" for (w, h), rates in rates_by_size(offered).items())
        raise SourceError(
            f"{name} has no {stream}{asked}; it has {have or 'none at all'}. Run 'edgevae cameras'."
        )
    return min(
        fitting,
        key=lambda profile: (
            abs(profile.width() - near[0]) + abs(profile.height() - near[1]),
            abs(profile.fps() - PREFERRED_FPS),
        ),
    )


def rates_by_size(profiles: Iterable[Any]) -> dict[tuple[int, int], str]:
    """(width, height) -> its frame rates, "15, 30", smallest first."""
    rates: dict[tuple[int, int], set[int]] = {}
    for profile in profiles:
        rates.setdefault((profile.width(), profile.height()), set()).add(profile.fps())
    return {size: ", ".join(map(str, sorted(rates[size]))) for size in sorted(rates)}
