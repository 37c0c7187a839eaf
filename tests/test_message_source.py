"""In which order a recording's frames and faults come, and how much of it is held; by a scripted log."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from edgevae.errors import FrameError, SourceError
from edgevae.sources.matching import READ_AHEAD
from edgevae.sources.message_source import MessageLog, MessageSource
from edgevae.sources.messages import ImageMessage, PoseMessage

PERIOD_NS = 33_333_333
Item = ImageMessage | PoseMessage | FrameError | SourceError


def color(number: int) -> ImageMessage:
    return ImageMessage("/color", number * PERIOD_NS, "rgb8", np.zeros(3, np.uint8), 1, 1, 3)


def depth(number: int) -> ImageMessage:
    return ImageMessage("/depth", number * PERIOD_NS + 2_000_000, "16UC1", np.zeros(2, np.uint8), 1, 1, 2)


class ScriptedLog(MessageLog):
    """Gives ``items``; a SourceError among them is raised."""

    def __init__(self, items: Iterator[Item]) -> None:
        self.name = "scripted"
        self.first = {"/color": color(0), "/depth": depth(0)}
        self.cameras, self.depth_scales, self.other_topics = {}, {}, []
        self.items = items

    def messages(self, topics: set[str]) -> Iterator[ImageMessage | PoseMessage | FrameError]:
        for item in self.items:
            if isinstance(item, SourceError):
                raise item
            if not isinstance(item, ImageMessage) or item.topic in topics:
                yield item


def told(source: MessageSource) -> list[str]:
    """Numbers of frames, and what was raised, as they come."""
    found: list[str] = []
    while True:
        try:
            frame = source.read()
        except FrameError as error:
            found.append(str(error))
            continue
        except SourceError as error:
            return [*found, str(error)]
        if frame is None:
            return found
        found.append(str(round(frame.timestamp_ns / PERIOD_NS)))


def both(numbers: range) -> list[Item]:
    return [message for number in numbers for message in (color(number), depth(number))]


@pytest.mark.parametrize("with_depth", [True, False])
def test_a_damaged_message_is_told_in_its_place(with_depth: bool) -> None:
    items = [*both(range(7)), FrameError("bad"), *both(range(8, 20)), FrameError("worse")]
    source = MessageSource(ScriptedLog(iter(items)), with_depth=with_depth)
    wanted = [str(number) for number in range(20)]
    wanted[7] = "bad"
    assert told(source) == [*wanted, "worse"]


def test_frames_before_the_place_that_cannot_be_read_are_given() -> None:
    source = MessageSource(ScriptedLog(iter([*both(range(10)), SourceError("torn")])))
    assert told(source) == [*map(str, range(10)), "torn"]
    assert told(source) == ["torn"]


def test_nothing_but_damage() -> None:
    source = MessageSource(ScriptedLog(iter([color(0), *[FrameError("bad")] * 1000, color(1)])))
    for _ in range(1000 - READ_AHEAD):
        with pytest.raises(FrameError, match="bad"):
            source.read()
    assert told(source)[READ_AHEAD:] == [
        "none of the 2 pictures of /color has depth of /depth within 17 ms (there is none); choose topics by "
        "scripted?color=/TOPIC&depth=/TOPIC, or use --depth none."
    ]


def test_an_hour_of_colour_before_the_first_depth_is_not_held() -> None:
    hour, alive, most = 108_000, 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def items() -> Iterator[Item]:
        nonlocal alive, most
        for number in range(hour):
            message = color(number)
            weakref.finalize(message.data, gone)
            alive, most = alive + 1, max(most, alive + 1)
            yield message
            if number >= hour - 30:
                yield depth(number)

    source = MessageSource(ScriptedLog(items()))
    assert told(source) == [str(number) for number in range(hour - 30, hour)]
    assert most <= READ_AHEAD + 4  # and what is on its way in and out
    assert source.counts() == {
        "color_unpaired": hour - 30,
        "depth_unpaired": 0,
        "pair_limit_ms": 16.667,
        "skew_ms_median": 2.0,
        "skew_ms_max": 2.0,
    }
