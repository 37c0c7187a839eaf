"""Colour and depth of one recording, two topics, joined into pairs by their times."""

from __future__ import annotations

import bisect
import statistics
from collections import deque
from collections.abc import Iterator

from .messages import ImageMessage

READ_AHEAD = 90  # pictures of one topic that wait for the other
_PERIODS = 32
_USUAL_PERIOD_NS = 33_333_333

Pair = tuple[ImageMessage, ImageMessage]


class MessagePairs:
    """Takes pictures about in the order of their times, gives pairs in the order of colour.

    A colour picture and the depth nearest to it in time are a pair if they are no further apart than half
    the distance of colour pictures, and no other colour is nearer to that depth. Each picture is used once.

    Attributes:
        color_unpaired, depth_unpaired: pictures that were left out.
        nearest_ns: the smallest distance seen between any colour and depth, None before the first.
        skew_max_ns: the largest distance within a pair.
    """

    def __init__(self) -> None:
        self._colors: list[ImageMessage] = []
        self._depths: list[ImageMessage] = []
        self._distances: deque[int] = deque(maxlen=_PERIODS)
        self._newest_color_ns: int | None = None
        self._decided_ns: int | None = None
        self._ended = False
        self.color_unpaired = self.depth_unpaired = 0
        self.nearest_ns: int | None = None
        self.skew_max_ns = 0

    @property
    def period_ns(self) -> int:
        """The usual distance of two colour pictures, the median of the last ones."""
        return round(statistics.median(self._distances)) if self._distances else _USUAL_PERIOD_NS

    def add_color(self, message: ImageMessage) -> None:
        if self._newest_color_ns is not None and message.stamp_ns > self._newest_color_ns:
            self._distances.append(message.stamp_ns - self._newest_color_ns)
        self._newest_color_ns = max(message.stamp_ns, self._newest_color_ns or message.stamp_ns)
        if self._decided_ns is not None and message.stamp_ns <= self._decided_ns:
            self.color_unpaired += 1  # its turn is over
        else:
            bisect.insort(self._colors, message, key=_stamp)

    def add_depth(self, message: ImageMessage) -> None:
        bisect.insort(self._depths, message, key=_stamp)
        if len(self._depths) > READ_AHEAD:
            del self._depths[0]
            self.depth_unpaired += 1

    def end(self) -> None:
        """Nothing more will be added."""
        self._ended = True

    def ready(self) -> Iterator[Pair]:
        """The pairs that nothing yet to come can change."""
        while self._colors and (self._ended or self._can_decide() or len(self._colors) > READ_AHEAD):
            pair = self._decide()
            if pair is not None:
                yield pair
        if self._ended and not self._colors:
            self.depth_unpaired += len(self._depths)
            self._depths.clear()

    def _can_decide(self) -> bool:
        """Whether the next colour is known, and all depth up to half a period behind the first."""
        if len(self._colors) < 2 or len(self._distances) < 3 or not self._depths:
            return False
        return self._depths[-1].stamp_ns > self._colors[0].stamp_ns + self.period_ns // 2

    def _decide(self) -> Pair | None:
        color = self._colors.pop(0)
        self._decided_ns = color.stamp_ns
        at = bisect.bisect_left(self._depths, color.stamp_ns, key=_stamp)
        nearby = [i for i in (at - 1, at) if 0 <= i < len(self._depths)]
        best = min(nearby, key=lambda i: abs(self._depths[i].stamp_ns - color.stamp_ns), default=None)
        if best is None:
            self.color_unpaired += 1
            return None
        depth = self._depths[best]
        skew_ns = abs(depth.stamp_ns - color.stamp_ns)
        self.nearest_ns = skew_ns if self.nearest_ns is None else min(skew_ns, self.nearest_ns)
        nearer_to_next = bool(self._colors) and abs(self._colors[0].stamp_ns - depth.stamp_ns) < skew_ns
        if skew_ns > self.period_ns // 2 or nearer_to_next:
            self.color_unpaired += 1
            self._drop_depths(at)  # what is older than this colour is out of reach of the next, too
            return None
        self._drop_depths(best)
        self._depths.pop(0)
        self.skew_max_ns = max(self.skew_max_ns, skew_ns)
        return color, depth

    def _drop_depths(self, count: int) -> None:
        del self._depths[:count]
        self.depth_unpaired += count


def _stamp(message: ImageMessage) -> int:
    return message.stamp_ns
