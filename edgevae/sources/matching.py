"""Which colour frame and which depth frame belong together: arithmetic on time stamps, no clock, no threads.

Two frames are a pair when each is the other's nearest in time, and they are no further apart than half a
frame period of the slower stream. Take the earliest frame x that waits, and the earliest frame y of the other
side, g later:

    x . . . . . y          g > limit              no partner for x any more: x stays alone
    x . . . x'. y          x' is nearer to y      x stays alone
    x . . . . . y . . x'   nothing nearer         a pair

The middle case may still be coming when x' has not arrived. A recording is read on until it has, or until
READ_AHEAD frames of the other side wait; a camera is waited for only while a frame could arrive that lies
within g of y.

A frame is whatever is to be paired, of type T: a decoded Frame, or a message that is decoded later.
"""

from __future__ import annotations

import bisect
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

COLOR, DEPTH = 0, 1

HELD = 16  # frames of a live side that may wait for a partner; an older one gives way
LOOKAHEAD = 5  # frames of a recording that are in hand before one is decided on: repairs order within four
READ_AHEAD = 90  # frames of a recorded side that may wait for the other, which may be missing for long
_INTERVALS = 31
_ENOUGH_INTERVALS = 8
_UNKNOWN_PERIOD_NS = 33_333_333
_HOLD_NS = 1_000_000_000
_RESTART_NS = 1_000_000_000  # stamps that jump back so far were set anew, they are not late
_SKEWS = 512
_ABSOLUTE_NS = 10**17  # times since 1970 lie above (from 1973 on), times since some start below


@dataclass(slots=True, order=True)
class Waiting(Generic[T]):
    """A frame that waits for its partner; ``arrival_ns`` is on the clock that ``match`` is called with."""

    stamp_ns: int
    arrival_ns: int = field(compare=False)
    frame: T = field(compare=False)


class Stream(Generic[T]):
    """The frames of one side that wait, in order of time, and the pace at which they come."""

    def __init__(self, fps: float | None) -> None:
        self.waiting: list[Waiting[T]] = []
        self.ended = False
        self.arrived = self.unpaired = 0
        self.origin_ns = 0
        self.last_ns: int | None = None  # the latest stamp that came
        self._decided_ns: int | None = None  # up to here every frame is paired or left alone
        self._nominal_ns = round(1e9 / fps) if fps else None
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)
        self._median_ns: int | None = None

    @property
    def measured(self) -> bool:
        """Whether ``period_ns`` was measured; else it is nominal, or assumed."""
        return len(self._intervals) >= _ENOUGH_INTERVALS or (
            self._nominal_ns is None and bool(self._intervals)
        )

    @property
    def period_ns(self) -> int:
        """Median time between frames; nominal until enough have come."""
        if self.measured:
            if self._median_ns is None:
                self._median_ns = round(statistics.median(self._intervals))
            return self._median_ns
        return self._nominal_ns or _UNKNOWN_PERIOD_NS

    @property
    def short_step_ns(self) -> int:
        """No sooner than this after a frame the next is expected; an eighth of the last steps was shorter.

        Half a period until enough have come.
        """
        if len(self._intervals) < _ENOUGH_INTERVALS:
            return self.period_ns // 2
        return sorted(self._intervals)[len(self._intervals) // 8]

    def add(self, new: Waiting[T]) -> None:
        new.stamp_ns -= self.origin_ns
        self.arrived += 1
        if self.last_ns is not None:
            step_ns = new.stamp_ns - self.last_ns
            if step_ns > 0:
                self._intervals.append(step_ns)
                self._median_ns = None
            elif step_ns < -_RESTART_NS:
                self.restart()
        self.last_ns = new.stamp_ns if self.last_ns is None else max(self.last_ns, new.stamp_ns)
        if self._decided_ns is not None and new.stamp_ns < self._decided_ns:
            self.unpaired += 1  # late: its place in the order is behind what was decided
        else:
            bisect.insort(self.waiting, new)

    def take(self) -> Waiting[T]:
        """Decide on the earliest frame."""
        first = self.waiting.pop(0)
        self._decided_ns = first.stamp_ns
        return first

    def leave_alone(self) -> None:
        """The earliest frame gets no partner."""
        self.take()
        self.unpaired += 1

    def restamp(self, stamps_ns: list[int]) -> None:
        """Give the frames that wait other times, before anything was decided on the new clock."""
        for each, stamp_ns in zip(self.waiting, stamps_ns, strict=True):
            each.stamp_ns = stamp_ns
        self.waiting.sort()
        self.last_ns = self.waiting[-1].stamp_ns if self.waiting else None
        self._decided_ns = None

    def restart(self) -> None:
        """Forget the times so far; what waits stays alone."""
        self.unpaired += len(self.waiting)
        self.waiting.clear()
        self.last_ns = self._decided_ns = None


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """Two frames of one moment; ``skew_ns`` is the depth's stamp less the colour's."""

    color: T
    depth: T
    skew_ns: int
    limit_ns: int


class Skews:
    """How much later the depth of pairs is than their colour."""

    def __init__(self) -> None:
        self._last_ns: deque[int] = deque(maxlen=_SKEWS)
        self._largest_ns = 0

    def add(self, skew_ns: int) -> None:
        self._last_ns.append(skew_ns)
        self._largest_ns = max(self._largest_ns, skew_ns, key=abs)

    def counts(self) -> dict[str, float]:
        """The median of the last 512 pairs, and the largest, which keeps its sign; empty before the first."""
        if not self._last_ns:
            return {}
        return {
            "skew_ms_median": round(statistics.median(self._last_ns) / 1e6, 3),
            "skew_ms_max": round(self._largest_ns / 1e6, 3),
        }


class Matcher(Generic[T]):
    """Pairs the frames of two streams as they are added, in order of time; memory is bounded.

    Args:
        live: frames come in real time, and ``match`` is called with the time; else they are recorded, and
            every decision is made with LOOKAHEAD frames of both sides in hand. They may be added as ``wants``
            asks for them, or as one recording of both sides holds them; then at most READ_AHEAD wait.
        color_fps, depth_fps: nominal rates, None where unknown.

    Attributes:
        paired: pairs so far.
        nearest_ns: the smallest distance seen between a colour and a depth, None before the first.
        wake_ns: see ``match``.
    """

    def __init__(self, *, live: bool, color_fps: float | None = None, depth_fps: float | None = None) -> None:
        self.sides: tuple[Stream[T], Stream[T]] = Stream(color_fps), Stream(depth_fps)
        self.paired = 0
        self.nearest_ns: int | None = None
        self.wake_ns: int | None = None
        self._live = live
        self._skews = Skews()

    @property
    def limit_ns(self) -> int:
        """Half a frame period of the slower stream."""
        return max(side.period_ns for side in self.sides) // 2

    @property
    def finished(self) -> bool:
        """Whether no further pair can come: a side has ended, and none of its frames waits."""
        return any(side.ended and not side.waiting for side in self.sides)

    def wants(self, side: int) -> bool:
        """Whether a recording has to be read on before anything can be decided."""
        stream = self.sides[side]
        return not stream.ended and len(stream.waiting) < LOOKAHEAD

    def add(self, side: int, stamp_ns: int, arrival_ns: int, frame: T) -> None:
        """A frame of COLOR or DEPTH has come; call ``match`` then."""
        self.sides[side].add(Waiting(stamp_ns, arrival_ns, frame))

    def end(self, side: int) -> None:
        """No frame of this side will come any more."""
        self.sides[side].ended = True

    def finish(self) -> None:
        """Nothing more will be asked; what waits stays alone."""
        for side in self.sides:
            side.restart()

    def use_arrival(self) -> None:
        """From now on stamps are times of arrival; so is every stamp there is."""
        for side in self.sides:
            side.restamp([each.arrival_ns for each in side.waiting])

    def align(self) -> bool:
        """Count both recordings from their first frames if only one of them has absolute times.

        Returns:
            Whether that was so. To be asked once, with the first frames of both sides in hand.
        """
        firsts = [side.waiting[0].stamp_ns for side in self.sides if side.waiting]
        if len(firsts) < 2 or (firsts[0] > _ABSOLUTE_NS) == (firsts[1] > _ABSOLUTE_NS):
            return False
        for side, first_ns in zip(self.sides, firsts, strict=True):
            side.origin_ns = first_ns
            side.restamp([each.stamp_ns - first_ns for each in side.waiting])
        return True

    def match(self, now_ns: int = 0) -> list[Pair[T]]:
        """The pairs that are certain by now, in order of time.

        ``wake_ns`` is then when to ask again if nothing arrives before, None if nothing waits for time.

        Args:
            now_ns: the time, on the clock of ``arrival_ns``; live only.
        """
        self.wake_ns = None
        pairs: list[Pair[T]] = []
        while self._decide(now_ns, pairs):
            pass
        if self._live:
            self._forget(now_ns)
        return pairs

    def _decide(self, now_ns: int, pairs: list[Pair[T]]) -> bool:
        """Decide on the earliest frame that waits; False if that has to wait, too."""
        color, depth = self.sides
        full = not self._live and max(len(color.waiting), len(depth.waiting)) > READ_AHEAD
        if not self._live and not full and (self.wants(COLOR) or self.wants(DEPTH)):
            return False
        if not color.waiting or not depth.waiting:
            if full:
                (color if color.waiting else depth).leave_alone()
            return full
        early, late = (color, depth) if color.waiting[0] <= depth.waiting[0] else (depth, color)
        x, y = early.waiting[0], late.waiting[0]
        gap_ns = y.stamp_ns - x.stamp_ns
        self.nearest_ns = gap_ns if self.nearest_ns is None else min(gap_ns, self.nearest_ns)
        limit_ns = self.limit_ns
        if gap_ns > limit_ns:
            early.leave_alone()
            return True
        if len(early.waiting) > 1:
            if abs(early.waiting[1].stamp_ns - y.stamp_ns) < gap_ns:
                early.leave_alone()
                return True
        elif self._live and self._nearer_may_come(early, x, gap_ns, now_ns):
            return False
        skew_ns = depth.waiting[0].stamp_ns - color.waiting[0].stamp_ns
        pairs.append(Pair(color.take().frame, depth.take().frame, skew_ns, limit_ns))
        self.paired += 1
        self._skews.add(skew_ns)
        return True

    def _nearer_may_come(self, early: Stream[T], x: Waiting[T], gap_ns: int, now_ns: int) -> bool:
        """Whether the frame after ``x`` may lie within ``gap_ns`` of a frame ``gap_ns`` after ``x``.

        It would lie less than twice the gap after ``x``, and arrive as much later; a quarter of a period is
        for delay.
        """
        if early.ended or early.short_step_ns >= 2 * gap_ns:
            return False
        until_ns = x.arrival_ns + 2 * gap_ns + early.period_ns // 4
        self.wake_ns = until_ns if now_ns < until_ns else None
        return now_ns < until_ns

    def _forget(self, now_ns: int) -> None:
        """Give up live frames that have waited too long, or whose time the other side has passed."""
        limit_ns = self.limit_ns
        hold_ns = max(_HOLD_NS, 2 * limit_ns)
        for side, other in ((self.sides[0], self.sides[1]), (self.sides[1], self.sides[0])):
            while side.waiting:
                first = side.waiting[0]
                passed = not other.waiting and (
                    other.ended or (other.last_ns is not None and other.last_ns > first.stamp_ns + limit_ns)
                )
                if not passed and len(side.waiting) <= HELD and now_ns - first.arrival_ns <= hold_ns:
                    break
                side.leave_alone()

    def counts(self) -> dict[str, float]:
        """The limit of the pairs in ms, and their skew."""
        return {"pair_limit_ms": round(self.limit_ns / 1e6, 3), **self._skews.counts()}
