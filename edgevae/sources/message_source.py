"""A recording of messages as a source: which topics are colour and depth, and pairs of them as frames."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Iterator

import numpy as np

from ..errors import FrameError, SourceError
from ..frame import Frame, Intrinsics
from .base import Source
from .matching import COLOR, DEPTH, READ_AHEAD, Matcher
from .messages import ImageMessage, PoseMessage, decode_color, decode_depth, kind

_POSES_KEPT = 256
# What a topic's name says about its fitness, most wanted first.
_COLOR_NAMES = ("color", "colour", "rgb", "image_raw", "image")
_DEPTH_NAMES = ("aligned", "registered", "depth")
_OTHER_NAMES = ("reconstruction", "infra", "confidence", "/left", "/right", "ir/")


class MessageLog(abc.ABC):
    """A recording of messages.

    Attributes:
        name: the URI it was opened with.
        first: the first picture on each topic that has pictures.
        cameras: the first intrinsics on each topic that has them.
        depth_scales: metres a unit of the topics whose recorder says so.
        other_topics: topics without pictures, for messages.
        cut_off: whether its end is missing; known after the last message.
    """

    name: str
    first: dict[str, ImageMessage]
    cameras: dict[str, Intrinsics]
    depth_scales: dict[str, float]
    other_topics: list[str]
    cut_off: bool = False

    @abc.abstractmethod
    def messages(self, topics: set[str]) -> Iterator[ImageMessage | PoseMessage | FrameError]:
        """Pictures on ``topics``, and poses, as recorded; an error in place of a message that is damaged.

        Raises:
            SourceError: nothing behind this place can be read.
        """

    def close(self) -> None:  # noqa: B027  # not every log stays open
        """Close the files."""


class MessageSource(Source):
    """Frames of a recording: colour alone, with the depth of its time, paired as ``Matcher`` says, or depth
    alone, beside black.

    What is wrong with a message, or with the file from there on, is raised after the frames before it.

    Args:
        log: the recording; the source closes it.
        color, depth: topics, or None to choose: by encoding, then by name.
        with_depth: False leaves depth unread.
        with_color: False leaves colour unread: depth may then be of any size, and stamps and intrinsics are
            its own.
        depth_scale: metres a unit of 16-bit depth; None takes what the recorder said, else 0.001.

    Attributes:
        depth_topic: where depth comes from, None for colour alone.

    Raises:
        SourceError: there is no such topic, or no colour (without colour, no depth), or depth and colour
            differ in size.
    """

    def __init__(
        self,
        log: MessageLog,
        *,
        color: str | None = None,
        depth: str | None = None,
        with_depth: bool = True,
        with_color: bool = True,
        depth_scale: float | None = None,
    ) -> None:
        self.name = log.name
        self._log = log
        self._color: str | None = None
        self.depth_topic: str | None = None
        if with_color:
            self._color = _chosen(log, "color", color, _COLOR_NAMES)
            if with_depth:
                self.depth_topic = _depth_for(log, self._color, depth)
        else:
            self.depth_topic = _chosen(log, "depth", depth, _DEPTH_NAMES)
        self._depth_scale = depth_scale or log.depth_scales.get(self.depth_topic or "", 0.001)
        topics = {topic for topic in (self._color, self.depth_topic) if topic}
        self._camera = _camera_of(log, self._color or self.depth_topic or "")
        self._alone = len(topics) == 1
        self._messages = log.messages(topics)
        self._matcher: Matcher[ImageMessage] = Matcher(live=False)
        self._ready: deque[tuple[ImageMessage, ImageMessage | None] | FrameError] = deque()
        self._damaged: deque[tuple[int, FrameError]] = deque()  # each after so many pictures of colour
        self._poses: dict[int, PoseMessage] = {}
        self._failure: SourceError | None = None
        self._ended = False
        self._next = 0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame.

        Raises:
            FrameError: its colour or depth is damaged; the next call goes on behind it.
            SourceError: the recording cannot be read further, or no colour in it has depth.
        """
        while not self._ready and not self._ended:
            self._advance()
        if not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._matcher.sides[COLOR].arrived and not self._matcher.paired:
                raise self._nothing_joined()
            return None
        item = self._ready.popleft()
        if isinstance(item, FrameError):
            raise item
        index, self._next = self._next, self._next + 1
        first, depth_message = item
        depth = None
        if self._color is None:
            depth = decode_depth(first)
            rgb = np.zeros((*depth.shape, 3), np.uint8)
        else:
            rgb = decode_color(first)
            if depth_message is not None:
                depth = decode_depth(depth_message)
                if depth.shape != rgb.shape[:2]:
                    raise FrameError(_sizes(self._color, rgb.shape, depth_message.topic, depth.shape))
        camera = self._camera
        fits = camera is not None and (camera.height, camera.width) == rgb.shape[:2]
        pose = self._poses.get(first.stamp_ns)
        return Frame(
            rgb=rgb,
            depth=depth,
            depth_scale=self._depth_scale,
            timestamp_ns=first.stamp_ns,
            clock="file",
            index=index,
            intrinsics=camera if fits else None,
            pose=None if pose is None else pose.pose,
        )

    def counts(self) -> dict[str, float]:
        """``cut_off`` for a file without its end, and with depth how well it fits.

        ``color_unpaired``, ``depth_unpaired``: pictures that stayed alone; ``pair_limit_ms``,
        ``skew_ms_median`` and ``skew_ms_max`` as ``Matcher`` states them.
        """
        counts: dict[str, float] = {}
        if not self._alone:
            color, depth = self._matcher.sides
            counts = {"color_unpaired": color.unpaired, "depth_unpaired": depth.unpaired}
            counts.update(self._matcher.counts())
        if self._log.cut_off:
            counts["cut_off"] = 1
        return counts

    def close(self) -> None:
        self._ended = True
        self._ready.clear()
        self._messages = iter(())  # lets go of the file that was being read
        self._log.close()

    def _advance(self) -> None:
        """Take one message."""
        message = None
        try:
            message = next(self._messages, None)
        except SourceError as error:
            self._failure = error
        if message is None:
            self._ended = True
            for side in (COLOR, DEPTH):
                self._matcher.end(side)
        elif isinstance(message, FrameError):
            self._damaged.append((self._matcher.sides[COLOR].arrived, message))
        elif isinstance(message, PoseMessage):
            self._poses[message.stamp_ns] = message
            if len(self._poses) > _POSES_KEPT:
                del self._poses[next(iter(self._poses))]
        elif self._alone:
            self._ready.append((message, None))
        else:
            self._matcher.add(COLOR if message.topic == self._color else DEPTH, message.stamp_ns, 0, message)
        self._deliver()

    def _deliver(self) -> None:
        """Give what is decided by now, in the order of the recording."""
        self._ready.extend((pair.color, pair.depth) for pair in self._matcher.match())
        if self._ended:
            self._matcher.finish()  # what still waits stays alone
        color = self._matcher.sides[COLOR]
        decided = color.arrived - len(color.waiting)
        while self._damaged and (self._damaged[0][0] <= decided or len(self._damaged) > READ_AHEAD):
            self._ready.append(self._damaged.popleft()[1])

    def _nothing_joined(self) -> SourceError:
        matcher = self._matcher
        away = "there is none"
        if matcher.nearest_ns is not None:
            away = f"the nearest is {matcher.nearest_ns / 1e6:.0f} ms away"
        return SourceError(
            f"none of the {matcher.sides[COLOR].arrived} pictures of {self._color} has depth of "
            f"{self.depth_topic} within {matcher.limit_ns / 1e6:.0f} ms ({away}); choose topics by "
            f"{self.name}?color=/TOPIC&depth=/TOPIC, or use --depth none."
        )


def _chosen(log: MessageLog, wanted: str, topic: str | None, names: tuple[str, ...]) -> str:
    """The topic of the given kind, as asked for or the best by name."""
    word = {"color": "colour"}.get(wanted, wanted)
    if topic is not None:
        if topic not in log.first:
            raise SourceError(f"{log.name} has no pictures on {topic}; it has {_listed(log)}.")
        if kind(log.first[topic]) != wanted:
            raise SourceError(
                f"{topic} of {log.name} holds {log.first[topic].encoding or 'unnamed'} pictures, wanted "
                f"{word}; it has {_listed(log)}."
            )
        return topic
    fit = [name for name, message in log.first.items() if kind(message) == wanted]
    if not fit:
        raise SourceError(f"{log.name} holds no {word} pictures; it has {_listed(log)}.")
    return min(fit, key=lambda name: _rank(log.first[name], names))


def _rank(message: ImageMessage, names: tuple[str, ...]) -> tuple[bool, int, bool, str]:
    name = message.topic.lower()
    place = next((i for i, word in enumerate(names) if word in name), len(names))
    return any(word in name for word in _OTHER_NAMES), place, message.compressed, name


def _depth_for(log: MessageLog, color: str, topic: str | None) -> str | None:
    """The depth topic; None where there is none and none was asked for.

    Depth of another size than colour is not registered to it, and cannot be used.
    """
    shape = decode_color(log.first[color]).shape[:2]
    decoded = "reconstruction" in color  # a picture and its depth are both measured, or both decoded
    fit = [
        name
        for name, message in log.first.items()
        if kind(message) == "depth" and ("reconstruction" in name) == decoded
    ]
    if topic is None and not fit:
        return None
    if topic is not None:
        fit = [_chosen(log, "depth", topic, _DEPTH_NAMES)]
    shapes = {name: decode_depth(log.first[name]).shape for name in fit}
    same = [name for name in fit if shapes[name] == shape]
    if not same:
        best = min(fit, key=lambda name: _rank(log.first[name], _DEPTH_NAMES))
        raise SourceError(_sizes(color, shape, best, shapes[best]))
    return min(same, key=lambda name: _rank(log.first[name], _DEPTH_NAMES))


def _sizes(color: str, shape: tuple[int, ...], depth: str, depth_shape: tuple[int, ...]) -> str:
    return (
        f"depth {depth} is {depth_shape[1]}x{depth_shape[0]}, colour {color} is {shape[1]}x{shape[0]}; "
        "wanted the same size, depth registered to colour. Choose another by ?depth=/TOPIC, or --depth none."
    )


def _camera_of(log: MessageLog, pictures: str) -> Intrinsics | None:
    """The intrinsics published beside a topic of pictures, or the next level above."""

    def folder(topic: str) -> str:
        return topic.rpartition("/")[0] + "/"

    topics = [topic for topic in log.cameras if pictures.startswith(folder(topic))]
    return log.cameras[max(topics, key=lambda topic: (len(folder(topic)), topic))] if topics else None


def _listed(log: MessageLog) -> str:
    pictures = [f"{topic} ({message.encoding or 'unnamed'})" for topic, message in sorted(log.first.items())]
    return ", ".join(pictures) or f"no pictures, only {', '.join(sorted(log.other_topics)[:8]) or 'nothing'}"
