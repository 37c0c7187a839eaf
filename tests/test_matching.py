"""Which frames become pairs, by scripted stamps and arrivals; no thread, no clock."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from edgevae.frame import Frame
from edgevae.sources.matching import COLOR, DEPTH, HELD, LOOKAHEAD, READ_AHEAD, Matcher, Pair

MS = 1_000_000
RGB = np.zeros((1, 1, 3), np.uint8)
Event = tuple[int, float]


def frame(side: int, number: int) -> Frame:
    return Frame(RGB, index=1000 * side + number)


def recorded(
    color_ms: list[float], depth_ms: list[float], **rates: float
) -> tuple[list[Pair[Frame]], Matcher[Frame]]:
    """Every pair of two recordings, read as PairedSource reads them."""
    matcher: Matcher[Frame] = Matcher(live=False, **rates)
    stamps = [iter(enumerate(color_ms)), iter(enumerate(depth_ms))]
    pairs: list[Pair[Frame]] = []
    while not matcher.finished:
        for side in (COLOR, DEPTH):
            while matcher.wants(side):
                number, stamp_ms = next(stamps[side], (None, 0.0))
                if number is None:
                    matcher.end(side)
                else:
                    matcher.add(side, round(stamp_ms * MS), 0, frame(side, number))
        pairs += matcher.match()
    matcher.finish()
    return pairs, matcher


def in_one_file(events: list[Event]) -> tuple[list[Pair[Frame]], Matcher[Frame]]:
    """Every pair of one recording that holds both sides, as MessageSource reads it.

    ``events``: (side, stamp) in ms, in the order of the file.
    """
    matcher: Matcher[Frame] = Matcher(live=False)
    pairs: list[Pair[Frame]] = []
    for side, stamp_ms in events:
        stream = matcher.sides[side]
        matcher.add(side, round(stamp_ms * MS), 0, frame(side, stream.arrived))
        pairs += matcher.match()
        assert all(len(each.waiting) <= READ_AHEAD for each in matcher.sides)
    matcher.end(COLOR)
    matcher.end(DEPTH)
    pairs += matcher.match()
    matcher.finish()
    return pairs, matcher


def by_time(color_ms: list[float], depth_ms: list[float], *, depth_late_ms: float = 0.0) -> list[Event]:
    """The order in which a recorder that gets depth so much later writes both."""
    written = [(t, (COLOR, t)) for t in color_ms] + [(t + depth_late_ms, (DEPTH, t)) for t in depth_ms]
    return [event for _, event in sorted(written)]


class Live:
    """Frames that arrive at scripted times; the matcher is asked at each, and when it wants to be."""

    def __init__(self, color_fps: float | None = 30.0, depth_fps: float | None = 30.0) -> None:
        self.matcher: Matcher[Frame] = Matcher(live=True, color_fps=color_fps, depth_fps=depth_fps)
        self.pairs: list[tuple[float, Pair[Frame]]] = []  # when each was certain, ms
        self.numbers = [0, 0]

    def play(self, events: list[tuple[float, int, float]], until_ms: float = 0.0) -> Live:
        """``events``: (arrival, side, stamp) in ms."""
        for arrival_ms, side, stamp_ms in sorted(events, key=lambda event: event[0]):
            self.wake(arrival_ms)
            self.matcher.add(
                side, round(stamp_ms * MS), round(arrival_ms * MS), frame(side, self.numbers[side])
            )
            self.numbers[side] += 1
            self.ask(arrival_ms)
        self.wake(until_ms)
        return self

    def wake(self, until_ms: float) -> None:
        while (wake_ns := self.matcher.wake_ns) is not None and wake_ns <= until_ms * MS:
            self.ask(wake_ns / MS)

    def ask(self, now_ms: float) -> None:
        self.pairs += [(now_ms, pair) for pair in self.matcher.match(round(now_ms * MS))]
        assert all(len(side.waiting) <= HELD for side in self.matcher.sides)

    def numbered(self) -> list[tuple[int, int]]:
        return numbers([pair for _, pair in self.pairs])


def numbers(pairs: list[Pair[Frame]]) -> list[tuple[int, int]]:
    return [(pair.color.index, pair.depth.index - 1000) for pair in pairs]


def every(period_ms: float, count: int, *, start_ms: float = 0.0) -> list[float]:
    return [start_ms + i * period_ms for i in range(count)]


def test_equal_rates_pair_one_to_one() -> None:
    pairs, matcher = recorded(every(100 / 3, 20), every(100 / 3, 20, start_ms=7))
    assert numbers(pairs) == [(i, i) for i in range(20)]
    assert {pair.skew_ns for pair in pairs} == {7 * MS}
    assert matcher.counts() == {"pair_limit_ms": 16.667, "skew_ms_median": 7.0, "skew_ms_max": 7.0}


def test_skew_keeps_its_sign() -> None:
    _, matcher = recorded([0, 33, 66], [2, 30, 54])
    assert (matcher.counts()["skew_ms_median"], matcher.counts()["skew_ms_max"]) == (-3.0, -12.0)


@pytest.mark.parametrize(("color_ms", "depth_ms", "wanted"), [
    ([0, 66, 132], [17, 83, 149], []),  # just beyond half a period
    ([0, 33, 66], [16, 49, 82], [(0, 0), (1, 1), (2, 2)]),
    ([0, 33, 66, 100], [33, 100], [(1, 0), (3, 1)]),  # the slower stream decides the reach
    ([0, 12], [10], [(1, 0)]),  # a depth serves the nearer of two colours
    ([10], [0, 12], [(0, 1)]),  # and a colour takes the nearer of two depths
    ([10], [0, 20], [(0, 0)]),  # of two as near the earlier
    ([5, 5, 5], [5], [(0, 0)]),  # stamps that repeat
    ([], [0, 33], []),
    ([0], [], []),
    ([66, 0, 33, 133, 100], [0, 33, 66, 100, 133], [(1, 0), (2, 1), (0, 2), (4, 3), (3, 4)]),  # swapped order
    ([0, 33, 66], [0], [(0, 0)]),  # one side ends early
])  # fmt: skip
def test_recordings(color_ms: list[float], depth_ms: list[float], wanted: list[tuple[int, int]]) -> None:
    pairs, matcher = recorded(color_ms, depth_ms, color_fps=30, depth_fps=30)
    if len(depth_ms) == 2 and len(color_ms) == 4:
        pairs, matcher = recorded(color_ms, depth_ms, color_fps=30, depth_fps=15)
    assert numbers(pairs) == wanted
    for side in matcher.sides:
        assert side.arrived == len(pairs) + side.unpaired
        assert not side.waiting


@pytest.mark.parametrize(("color_fps", "depth_fps"), [(30, 15), (30, 60), (60, 30), (15, 30)])
def test_the_slower_stream_gets_the_nearest_of_the_faster(color_fps: int, depth_fps: int) -> None:
    color_ms, depth_ms = (
        every(1000 / color_fps, color_fps * 2),
        every(1000 / depth_fps, depth_fps * 2, start_ms=3),
    )
    pairs, matcher = recorded(color_ms, depth_ms)
    slower = min(color_fps, depth_fps)
    assert len(pairs) >= slower * 2 - 1  # before the rates are measured the first may find none
    assert matcher.limit_ns == pytest.approx(1e9 / slower / 2, rel=1e-6)
    assert {round(pair.skew_ns / MS) for pair in pairs} == {3}


def test_only_relative_times_are_counted_from_the_first_frames() -> None:
    start_ms = 1_305_031_247_000.0
    for color_start, depth_start, aligned in ((0, start_ms, True), (start_ms, 90, True), (0, 5000, False)):
        matcher: Matcher[Frame] = Matcher(live=False)
        for i in range(LOOKAHEAD):
            matcher.add(COLOR, round((color_start + 33 * i) * MS), 0, frame(COLOR, i))
            matcher.add(DEPTH, round((depth_start + 33 * i + (2 if i else 0)) * MS), 0, frame(DEPTH, i))
        assert matcher.align() is aligned
        assert len(matcher.match()) == (1 if aligned else 0)  # the others wait for what comes
        matcher.end(COLOR)
        matcher.end(DEPTH)
        pairs = matcher.match()
        assert numbers(pairs) == ([(i, i) for i in range(1, LOOKAHEAD)] if aligned else [])


def test_one_file_with_depth_written_long_after_its_colour() -> None:
    pairs, matcher = in_one_file(by_time(every(33, 60), every(33, 60, start_ms=1), depth_late_ms=600))
    assert numbers(pairs) == [(i, i) for i in range(60)]
    assert [side.unpaired for side in matcher.sides] == [0, 0]


def test_one_file_in_swapped_order() -> None:
    events = by_time(every(33, 60), every(33, 60, start_ms=5))
    for i in range(0, len(events) - 8, 8):
        events[i : i + 8] = reversed(events[i : i + 8])
    pairs, matcher = in_one_file(events)
    assert {pair.skew_ns for pair in pairs} == {5 * MS}
    assert (len(pairs), [side.unpaired for side in matcher.sides]) == (60, [0, 0])


@pytest.mark.parametrize("stalled", [COLOR, DEPTH])
def test_a_topic_that_stalls_costs_its_own_time_only(stalled: int) -> None:
    sides = [every(33, 400), every(33, 400, start_ms=3)]
    sides[stalled] = [t for t in sides[stalled] if not 1000 < t < 9000]
    pairs, matcher = in_one_file(by_time(*sides))
    assert len(pairs) == len(sides[stalled])
    assert {pair.skew_ns for pair in pairs} == {3 * MS}
    assert matcher.sides[1 - stalled].unpaired == 400 - len(pairs)


@pytest.mark.parametrize("late", [COLOR, DEPTH])
def test_a_topic_that_begins_or_ends_an_hour_apart_keeps_memory_bounded(late: int) -> None:
    hour, minute = every(100, 36_000), every(100, 600, start_ms=1_800_000)
    sides = [hour, hour]
    sides[late] = minute  # in_one_file looks at what waits
    pairs, matcher = in_one_file(by_time(*sides))
    assert len(pairs) == 600
    assert {pair.skew_ns for pair in pairs} == {0}
    assert matcher.sides[1 - late].unpaired == 36_000 - 600


@pytest.mark.parametrize("fast", [COLOR, DEPTH])
def test_one_file_of_a_fast_and_a_very_slow_topic_pairs_all_of_the_slow(fast: int) -> None:
    """Within LOOKAHEAD periods of the slow one more than READ_AHEAD frames of the fast one come."""
    slow = every(5000, 20, start_ms=3)
    sides = [slow, slow]
    sides[fast] = every(1000 / 30, 3000)
    pairs, _ = in_one_file(by_time(*sides))
    assert len(pairs) == 20
    assert max(abs(pair.skew_ns) for pair in pairs) <= 17 * MS


def test_the_nearest_distance_is_known_where_nothing_pairs() -> None:
    for depth_start_ms, nearest_ms in ((5000, 5000 - 9 * 33), (-1000, 1000 - 9 * 33), (1e9, 1e9 - 9 * 33)):
        events = by_time(every(33, 10), every(33, 10, start_ms=depth_start_ms))
        for each in (events, events[::-1]):
            pairs, matcher = in_one_file(each)
            assert not pairs
            assert matcher.nearest_ns == round(nearest_ms * MS)
            assert [side.unpaired for side in matcher.sides] == [10, 10]
    assert in_one_file([(COLOR, 5)])[1].nearest_ns is None


def test_a_recording_whose_clock_is_set_back_goes_on() -> None:
    events = by_time(every(33, 300, start_ms=60_000), every(33, 300, start_ms=60_003))
    events += by_time(every(33, 300), every(33, 300, start_ms=3))
    pairs, matcher = in_one_file(events)
    assert len(pairs) >= 600 - 2 * LOOKAHEAD
    assert {pair.skew_ns for pair in pairs} == {3 * MS}
    assert len(pairs) + matcher.sides[COLOR].unpaired == 600


def test_live_pairs_at_once_what_is_close() -> None:
    events = [(t + 5, COLOR, t) for t in every(100 / 3, 30)]
    events += [(t + 8, DEPTH, t + 4) for t in every(100 / 3, 30)]
    live = Live().play(events)
    assert live.numbered() == [(i, i) for i in range(30)]
    assert all(when_ms == pytest.approx(100 / 3 * i + 8) for i, (when_ms, _) in enumerate(live.pairs))


def test_live_waits_for_a_nearer_frame_as_long_as_it_could_come() -> None:
    # depth 14 ms before colour: the next depth could lie 14 ms after, so before its time nothing is certain
    live = Live().play([(5, DEPTH, 0), (16, COLOR, 14)], until_ms=100)
    ((when_ms, pair),) = live.pairs
    assert pair.skew_ns == -14 * MS
    assert when_ms == pytest.approx(5 + 28 + 100 / 3 / 4)
    # the next depth does come, and is nearer
    live = Live().play([(5, DEPTH, 0), (16, COLOR, 14), (29, DEPTH, 24)], until_ms=100)
    assert live.numbered() == [(0, 1)]
    assert live.pairs[0][0] <= 29 + 100 / 3
    # or comes and is not: the waiting is over at once
    live = Live().play([(5, DEPTH, 0), (16, COLOR, 14), (36, DEPTH, 31)], until_ms=100)
    assert live.numbered() == [(0, 0)]
    assert live.pairs[0][0] == pytest.approx(36)


def test_live_learns_how_soon_the_next_frame_comes() -> None:
    period = 100 / 3
    events = [(t + 3, COLOR, t) for t in every(period, 60)]
    events += [(t + 3, DEPTH, t) for t in every(period, 60, start_ms=14)]
    live = Live().play(events, until_ms=5000)
    assert live.numbered() == [(i, i) for i in range(60)]
    waited = [when_ms - (pair.color.index * period + 17) for when_ms, pair in live.pairs]
    assert max(waited[:7]) > 10
    assert max(waited[12:]) < 0.1  # two steady cameras: no nearer frame was ever to come


def test_a_stalled_stream_gives_no_stale_pair() -> None:
    period = 100 / 3
    events = [(t + 3, COLOR, t) for t in every(period, 300)]
    depths = [t for t in every(period, 300, start_ms=1) if not 2000 <= t <= 7000]
    events += [(t + 4, DEPTH, t) for t in depths]
    events.append((7010, DEPTH, 3001))  # what was stuck in a buffer
    live = Live().play(events, until_ms=20_000)
    assert all(abs(pair.skew_ns) == MS for _, pair in live.pairs)
    assert len(live.pairs) == len(depths)
    assert all(when_ms - pair.color.index * period < 10 for when_ms, pair in live.pairs)
    assert live.matcher.sides[COLOR].unpaired == 300 - len(depths)
    assert live.matcher.sides[DEPTH].unpaired == 1


def test_frames_that_never_find_a_partner_are_given_up() -> None:
    live = Live().play([(t, COLOR, t) for t in every(100 / 3, 1000)], until_ms=60_000)
    assert not live.pairs
    assert live.matcher.sides[COLOR].unpaired >= 1000 - HELD


def test_a_late_frame_of_the_past_stays_alone() -> None:
    events = [
        (40, COLOR, 33),
        (41, DEPTH, 33),
        (45, COLOR, 0),
        (46, DEPTH, 0),
        (70, COLOR, 66),
        (71, DEPTH, 66),
    ]
    live = Live().play(events)
    assert live.numbered() == [(0, 0), (2, 2)]
    assert [side.unpaired for side in live.matcher.sides] == [1, 1]


def test_clocks_that_are_set_back_start_anew() -> None:
    hour_ms = 3_600_000
    events = [(t + 5, side, t + 60 * hour_ms) for t in every(33, 20) for side in (COLOR, DEPTH)]
    events += [
        (t + 5, side, t + 59 * hour_ms) for t in every(33, 20, start_ms=660) for side in (COLOR, DEPTH)
    ]
    live = Live().play(events)
    # colour comes back first: the depth of its moment still bears the old time
    assert live.numbered() == [(i, i) for i in range(40) if i != 20]


def test_an_ended_side_ends_the_pairs() -> None:
    live = Live().play([(1, COLOR, 0), (2, DEPTH, 1), (34, COLOR, 33), (67, COLOR, 66)])
    live.matcher.end(DEPTH)
    live.ask(70)
    assert live.matcher.finished
    assert live.numbered() == [(0, 0)]
    assert live.matcher.sides[COLOR].unpaired == 2


def mangled(random_: random.Random, fps: float, seconds: float) -> list[float]:
    """Stamps with jitter, drops, and gaps."""
    period_ms = 1000 / fps
    phase_ms = random_.uniform(0, period_ms)
    jitter_ms = random_.choice((0, 0.02, 0.2, 0.45)) * period_ms
    lost = random_.choice((0, 0.05, 0.4))
    gap_ms = random_.uniform(0, 1000 * seconds)
    stamps = [
        t + phase_ms + random_.uniform(-jitter_ms, jitter_ms)
        for t in every(period_ms, round(seconds * fps))
        if random_.random() >= lost and not (lost and gap_ms <= t <= gap_ms + 700)
    ]
    return stamps


@pytest.mark.parametrize("seed", range(60))
def test_no_reuse_no_pair_beyond_the_limit_every_frame_counted(seed: int) -> None:
    random_ = random.Random(seed)
    rates = [random_.choice((5.0, 15.0, 29.97, 30.0, 60.0)) for _ in range(2)]
    stamps = [mangled(random_, fps, 4) for fps in rates]
    shuffled = [sorted(each, key=lambda t: t + random_.uniform(0, 0.5)) for each in stamps]
    pairs, matcher = recorded(*shuffled)
    check(pairs, matcher, shuffled, whole=False)
    certain = mutual_nearest(*shuffled)
    limits = {pair.limit_ns for pair in pairs} | {matcher.limit_ns}
    missed = [gap for gap in certain.keys() - set(numbers(pairs)) if certain[gap] * MS <= min(limits)]
    assert not missed  # each other's nearest are always a pair

    delay_ms = random_.uniform(0, 300)
    pairs, matcher = in_one_file(by_time(*stamps, depth_late_ms=delay_ms))
    check(pairs, matcher, stamps, whole=True)
    certain = mutual_nearest(*stamps)
    limits = {pair.limit_ns for pair in pairs} | {matcher.limit_ns}
    assert not [gap for gap in certain.keys() - set(numbers(pairs)) if certain[gap] * MS <= min(limits)]

    live = Live(*rates)
    for side, each in enumerate(shuffled):
        delay_ms = random_.uniform(0, 60)
        shuffled[side] = [*each]
        events = [(t + delay_ms + random_.uniform(0, 10), side, t) for t in each]
        stamps[side] = [t for _, _, t in sorted(events, key=lambda event: event[0])]
        live.events = [*getattr(live, "events", []), *events]
    live.play(live.events, until_ms=100_000)
    live.matcher.finish()
    check([pair for _, pair in live.pairs], live.matcher, stamps, whole=True)
    if min(rates) == max(rates) and len(pairs) > 30:
        assert len(live.pairs) > 0.8 * len(pairs)


def check(
    pairs: list[Pair[Frame]], matcher: Matcher[Frame], stamps: list[list[float]], *, whole: bool
) -> None:
    found = numbers(pairs)
    columns = [c for c, _ in found], [d for _, d in found]
    for column, side, each in zip(columns, matcher.sides, stamps, strict=True):
        assert len(set(column)) == len(column)
        assert side.arrived == len(pairs) + side.unpaired
        assert side.arrived == len(each) if whole else side.arrived <= len(each)  # else read no further
    for (c, d), pair in zip(found, pairs, strict=True):
        assert round(stamps[DEPTH][d] * MS) - round(stamps[COLOR][c] * MS) == pair.skew_ns
        assert abs(pair.skew_ns) <= pair.limit_ns
    times = [(stamps[COLOR][c], stamps[DEPTH][d]) for c, d in found]
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(times))


def mutual_nearest(color_ms: list[float], depth_ms: list[float]) -> dict[tuple[int, int], float]:
    """By looking at every combination."""
    if not color_ms or not depth_ms:
        return {}
    gaps = np.abs(np.array(color_ms)[:, None] - np.array(depth_ms)[None, :])
    return {
        (c, int(d)): float(gaps[c, d])
        for c, d in enumerate(gaps.argmin(axis=1))
        if gaps[:, d].argmin() == c
        and (gaps[:, d] == gaps[c, d]).sum() == 1
        and (gaps[c] == gaps[c, d]).sum() == 1
    }
