"""From the RealSense SDK's framesets to Frames: pairs in time, filters, alignment, clocks, intrinsics.

Knows nothing of devices and files: whatever gives framesets (a camera, a recording, a software device) may
stand before it. Pixels are copied out and framesets let go at once: the SDK has few of them, and a camera
whose framesets are held falls silent.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..frame import Frame, Intrinsics
from .matching import Skews
from .opencv_quiet import load_cv2
from .realsense_lens import intrinsics

FILTERS = ("spatial", "temporal", "hole_filling")
HELD = 4  # images of a stream that may wait for the other stream; the SDK has 16 of each


@dataclass(frozen=True, slots=True)
class _Image:
    """One image in the frameset it came with; of ``host`` time or of the device's own clock."""

    exposed_ms: float
    host: bool
    frameset: Any


@dataclass(frozen=True, slots=True)
class Pair:
    """The framesets whose colour and whose depth belong together; None for a stream that is not wanted."""

    color: Any
    depth: Any


class FrameMaker:
    """Makes a Frame of each colour image (of each depth image, for depth alone) that has its partner.

    The SDK fills a frameset up with the last image of a stream that is late, so a frameset may join new
    colour with old depth. Here a pair is the depth nearest to a colour image in time of exposure, within
    half a frame period; where the two carry different clocks, the depth that arrived last. Colour without
    such depth is counted in ``unpaired``. At most HELD images of a stream wait.

    This is not done by Matcher, which may let more images wait than the SDK has, and waits for a nearer
    image that might come; one camera's streams have one rate, and here a pair is given at once.

    Filters run in the order Intel documents: spatial and temporal in the disparity domain, then hole
    filling, then alignment of depth to colour. Spatial and temporal only change readings of this image:
    what temporal would bring back from older images stays without a reading. ``hole_filling`` does invent
    values; they stand in ``Frame.depth``, and ``Frame.measured`` tells them from the sensor's own.

    Args:
        rs: the SDK.
        name: of the source, for messages.
        streams: "both", "color" or "depth"; the frame of "depth" has the depth camera's intrinsics, and
            black for colour.
        fps: nominal rate.
        filters: names out of FILTERS.
        clock: of the frames; empty for what the SDK says: "host" for its global and system time, "sensor"
            for the camera's own clock.

    Attributes:
        unpaired: colour images that came and went without depth of their time.
        missed: images that the camera numbered and that never arrived here.
    """

    def __init__(
        self,
        rs: Any,
        name: str,
        *,
        streams: str = "both",
        fps: float = 30.0,
        filters: tuple[str, ...] = (),
        clock: str = "",
    ) -> None:
        self._rs = rs
        self._name = name
        self._streams = streams
        self.fps = fps
        self._reach_ms = 500.0 / fps
        self._clock = clock
        self._depth_images = _DepthImages(rs, filters, align=streams == "both")
        self._numbers = {"color": -1, "depth": -1}  # of the newest image of each stream
        self._colors: deque[_Image] = deque()
        self._depths: deque[_Image] = deque()
        self._intrinsics: tuple[tuple[int, int], Intrinsics | None] | None = None
        self.unpaired = 0
        self.missed = 0
        self._skews = Skews()

    def take(self, frameset: Any) -> list[Pair]:
        """The pairs that this frameset completes, oldest first; every frameset has to pass here, in order."""
        color, depth = frameset.get_color_frame(), frameset.get_depth_frame()
        if self._streams != "both":
            new = self._is_new(self._streams, color if self._streams == "color" else depth)
            return [Pair(frameset, None) if self._streams == "color" else Pair(None, frameset)] * new
        if self._is_new("color", color):
            self._colors.append(self._image(color, frameset))
        if self._is_new("depth", depth):
            self._depths.append(self._image(depth, frameset))
            if len(self._depths) > HELD:
                self._depths.popleft()
        pairs = []
        while self._colors and self._depths:
            first = self._colors[0]
            nearest = min(reversed(self._depths), key=lambda image: _distance_ms(first, image))
            if _distance_ms(first, nearest) <= self._reach_ms:
                self._colors.popleft()
                while self._depths.popleft() is not nearest:
                    pass  # what is older belongs to no later colour
                if nearest.host == first.host:
                    self._skews.add(round((nearest.exposed_ms - first.exposed_ms) * 1e6))
                pairs.append(Pair(first.frameset, nearest.frameset))
            elif self._depths[-1].exposed_ms > first.exposed_ms:
                self._colors.popleft()  # depth of its time would have come before this
                self.unpaired += 1
            else:
                break
        if len(self._colors) > HELD:
            self._colors.popleft()
            self.unpaired += 1
        return pairs

    def _is_new(self, stream: str, image: Any) -> bool:
        if not image or image.get_frame_number() == self._numbers[stream]:
            return False
        before, self._numbers[stream] = self._numbers[stream], image.get_frame_number()
        counted = "depth" if self._streams == "depth" else "color"
        if stream == counted and 0 <= before < self._numbers[stream]:  # a restarted camera counts from 0
            self.missed += self._numbers[stream] - before - 1
        return True

    def _image(self, image: Any, frameset: Any) -> _Image:
        return _Image(self._exposure_ms(image), self._clock_of(image) == "host", frameset)

    def counts(self) -> dict[str, float]:
        """``unpaired``, and how much later than their colour the depths of pairs are; see Skews."""
        return {"unpaired": self.unpaired, **self._skews.counts()} if self._streams == "both" else {}

    def frame(self, pair: Pair, index: int) -> Frame:
        """The Frame of a pair.

        Raises:
            SourceError: pixels of a format, or depth of a unit, that is not known.
        """
        arrival_ns = time.monotonic_ns()
        depth = measured = None
        scale = 0.001
        if pair.depth is not None:
            scale = self._scale(pair.depth.get_depth_frame())
            depth, measured = self._depth_images.pixels(pair.depth)
        if self._streams == "depth":
            image: Any = pair.depth.get_depth_frame()
            rgb = np.zeros((image.get_height(), image.get_width(), 3), np.uint8)
        else:
            image = pair.color.get_color_frame()
            rgb = self._rgb(image)
        return Frame(
            rgb=rgb,
            depth=depth,
            measured=measured,
            depth_scale=scale,
            timestamp_ns=round(self._exposure_ms(image) * 1e6),
            clock=self._clock or self._clock_of(image),
            index=index,
            arrival_ns=arrival_ns,
            intrinsics=self._intrinsics_of(image),
        )

    def _exposure_ms(self, image: Any) -> float:
        """The middle of the exposure; without metadata that tell it, the time of read-out."""
        at_ms = float(image.get_timestamp())
        value = self._rs.frame_metadata_value
        if image.supports_frame_metadata(value.sensor_timestamp) and image.supports_frame_metadata(
            value.frame_timestamp
        ):
            before_us = image.get_frame_metadata(value.frame_timestamp) - image.get_frame_metadata(
                value.sensor_timestamp
            )
            if 0 <= before_us < 1_000_000:  # otherwise the device's clock has wrapped round in between
                at_ms -= before_us / 1000
        return at_ms

    def _clock_of(self, image: Any) -> str:
        on_device = image.get_frame_timestamp_domain() == self._rs.timestamp_domain.hardware_clock
        return "sensor" if on_device else "host"

    def _scale(self, depth: Any) -> float:
        units = float(depth.get_units())
        if not (math.isfinite(units) and units > 0):
            raise SourceError(
                f"{self._name} states {units} metres a unit of depth, wanted a positive number."
            )
        return float(str(np.float32(units)))  # 0.001, not its float32 neighbour

    def _rgb(self, color: Any) -> npt.NDArray[np.uint8]:
        height, width = color.get_height(), color.get_width()
        kind = color.get_profile().format().name
        pixels = np.asanyarray(color.get_data())
        if kind == "rgb8":
            return np.array(pixels, np.uint8)
        cv2: Any = load_cv2()
        codes = {
            "bgr8": cv2.COLOR_BGR2RGB,
            "rgba8": cv2.COLOR_RGBA2RGB,
            "bgra8": cv2.COLOR_BGRA2RGB,
            "y8": cv2.COLOR_GRAY2RGB,
            "yuyv": cv2.COLOR_YUV2RGB_YUYV,
            "uyvy": cv2.COLOR_YUV2RGB_UYVY,
        }
        if kind not in codes:
            raise SourceError(
                f"{self._name} has colour of the format {kind}, wanted rgb8 or {', '.join(codes)}."
            )
        pixels = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, width, -1)
        return np.asarray(cv2.cvtColor(pixels, codes[kind]), np.uint8)

    def _intrinsics_of(self, image: Any) -> Intrinsics | None:
        size = (image.get_width(), image.get_height())
        if self._intrinsics is None or self._intrinsics[0] != size:
            native = image.get_profile().as_video_stream_profile().get_intrinsics()
            self._intrinsics = (size, intrinsics(self._rs, native))
        return self._intrinsics[1]


def _distance_ms(color: _Image, depth: _Image) -> float:
    return abs(color.exposed_ms - depth.exposed_ms) if color.host == depth.host else 0.0


class _DepthImages:
    """The filters and the alignment, with what they remember from image to image."""

    def __init__(self, rs: Any, filters: tuple[str, ...], *, align: bool) -> None:
        smoothing = [
            block()
            for name, block in (("spatial", rs.spatial_filter), ("temporal", rs.temporal_filter))
            if name in filters
        ]
        if smoothing:
            smoothing = [rs.disparity_transform(True), *smoothing, rs.disparity_transform(False)]
        self._smoothing = smoothing
        self._fill = rs.hole_filling_filter() if "hole_filling" in filters else None
        self._align = rs.align(rs.stream.color) if align else None

    def pixels(self, frameset: Any) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_] | None]:
        """Depth after all steps, and where it was measured if that is not everywhere it is above 0."""
        if self._smoothing:
            unread = np.asanyarray(frameset.get_depth_frame().get_data()) == 0
            for block in self._smoothing:
                frameset = block.process(frameset).as_frameset()
            # a frame of the filters' own: writing to it changes nothing that anyone else holds
            np.asanyarray(frameset.get_depth_frame().get_data())[unread] = 0
        depth = self._aligned(frameset)
        if self._fill is None:
            return depth, None
        filled = self._aligned(self._fill.process(frameset).as_frameset())
        # where both agree, the nearest surface is a measured one: nothing invented has covered it
        return filled, (depth > 0) & (filled == depth)

    def _aligned(self, frameset: Any) -> npt.NDArray[np.uint16]:
        if self._align is not None:
            frameset = self._align.process(frameset).as_frameset()
        return np.array(frameset.get_depth_frame().get_data(), np.uint16)
