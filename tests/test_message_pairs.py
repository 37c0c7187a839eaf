"""Pairing by scripted clocks: jitter, drops, a stalled topic, swapped order, two rates."""

from __future__ import annotations

import random

from edgevae.sources.message_pairs import READ_AHEAD, MessagePairs
from edgevae.sources.messages import ImageMessage

PERIOD_MS = 33.0
Event = tuple[str, float]


def run(events: list[Event]) -> tuple[list[tuple[float, float]], MessagePairs]:
    """Feed ("c" or "d", milliseconds) in this order; the pairs' times come out."""
    pairs, found = MessagePairs(), []
    for which, at_ms in events:
        message = ImageMessage(which, round(at_ms * 1e6), "", b"")
        (pairs.add_color if which == "c" else pairs.add_depth)(message)
        found += list(pairs.ready())
    pairs.end()
    found += list(pairs.ready())
    return [(color.stamp_ns / 1e6, depth.stamp_ns / 1e6) for color, depth in found], pairs


def regular(which: str, count: int, *, start_ms: float = 0.0, period_ms: float = PERIOD_MS) -> list[Event]:
    return [(which, start_ms + i * period_ms) for i in range(count)]


def by_time(*streams: list[Event]) -> list[Event]:
    return sorted((event for stream in streams for event in stream), key=lambda event: event[1])


def test_two_regular_topics() -> None:
    found, pairs = run(by_time(regular("c", 50), regular("d", 50, start_ms=-12)))
    assert found == [(i * PERIOD_MS, i * PERIOD_MS - 12) for i in range(50)]
    assert (pairs.color_unpaired, pairs.depth_unpaired, pairs.skew_max_ns) == (0, 0, 12_000_000)
    assert pairs.period_ns == 33_000_000


def test_jitter_and_drops_never_join_what_is_not_nearest() -> None:
    rng = random.Random(5)
    for _ in range(30):
        streams = [
            [(name, round(at + rng.uniform(-9, 9), 3)) for _, at in regular(name, 120) if rng.random() > 0.15]
            for name in "cd"
        ]
        found, pairs = run(by_time(*streams))
        colors, depths = ([at for _, at in stream] for stream in streams)
        for color, depth in found:
            assert abs(color - depth) <= PERIOD_MS / 2 + 2  # the period is measured under jitter
            assert min(abs(depth - other) for other in depths) == 0
            assert abs(color - depth) <= 1e-6 + min(abs(color - other) for other in depths)
            assert abs(color - depth) <= 1e-6 + min(abs(depth - other) for other in colors)
        assert len({color for color, _ in found}) == len({depth for _, depth in found}) == len(found)
        assert found == sorted(found)
        assert len(found) + pairs.color_unpaired == len(colors)
        assert len(found) + pairs.depth_unpaired == len(depths)
        assert len(found) > 70


def test_a_topic_that_stalls_costs_its_own_time_only() -> None:
    depth = [event for event in regular("d", 100, start_ms=3) if not 1000 < event[1] < 2000]
    found, pairs = run(by_time(regular("c", 100), depth))
    assert len(found) == len(depth)
    assert pairs.color_unpaired == 100 - len(depth)
    assert all(depth_ms - color_ms == 3 for color_ms, depth_ms in found)


def test_order_swapped_in_the_file() -> None:
    events = by_time(regular("c", 60), regular("d", 60, start_ms=5))
    for i in range(0, len(events) - 4, 4):
        events[i], events[i + 3] = events[i + 3], events[i]
    found, pairs = run(events)
    assert found == [(i * PERIOD_MS, i * PERIOD_MS + 5) for i in range(60)]
    assert (pairs.color_unpaired, pairs.depth_unpaired) == (0, 0)


def test_depth_recorded_long_after_its_colour() -> None:
    late = [(at + 600, ("d", at + 1)) for _, at in regular("d", 60)]
    events = [event for _, event in sorted(late + [(at, ("c", at)) for _, at in regular("c", 60)])]
    found, _ = run(events)
    assert len(found) == 60


def test_two_rates() -> None:
    found, pairs = run(by_time(regular("c", 60), regular("d", 30, period_ms=66, start_ms=4)))
    assert found == [(i * 66.0, i * 66.0 + 4) for i in range(30)]
    assert (pairs.color_unpaired, pairs.depth_unpaired) == (30, 0)
    found, pairs = run(by_time(regular("c", 30, period_ms=66), regular("d", 60, start_ms=-2)))
    assert found == [(i * 66.0, i * 66.0 - 2) for i in range(30)]
    assert pairs.depth_unpaired == 30


def test_clocks_that_never_meet() -> None:
    found, pairs = run(regular("c", 300) + regular("d", 300, start_ms=1e9))
    assert found == []
    assert (pairs.color_unpaired, pairs.depth_unpaired) == (300, 300)
    assert pairs.nearest_ns is None or pairs.nearest_ns > 9e14


def test_what_waits_is_bounded() -> None:
    pairs = MessagePairs()
    for i in range(1000):
        pairs.add_color(ImageMessage("c", i * 33_000_000, "", b""))
        assert list(pairs.ready()) == []
        assert len(pairs._colors) <= READ_AHEAD
    assert pairs.color_unpaired == 1000 - READ_AHEAD
    for i in range(1000):
        pairs.add_depth(ImageMessage("d", i * 33_000_000, "", b""))
        assert len(pairs._depths) <= READ_AHEAD


def test_few_pictures() -> None:
    assert run([])[0] == []
    assert run([("c", 5), ("d", 9)])[0] == [(5, 9)]
    assert run([("d", 9), ("c", 5), ("c", 38)])[0] == [(5, 9)]
    assert run([("c", 5), ("d", 200)])[0] == []
    assert run([("c", 5), ("c", 5), ("d", 5)])[0] == [(5, 5)]
