"""A live source that goes away and comes back: back-off, numbers, counts, nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from memory_source import MemorySource, corrupt, raising

from edgevae.errors import FrameError, SourceError, SourceLost
from edgevae.frame import Frame
from edgevae.sources import reconnecting as module
from edgevae.sources.base import Source
from edgevae.sources.reconnecting import ReconnectingSource, reconnecting


def unplugged_after(frames: int) -> MemorySource:
    gone = raising(SourceError("it was unplugged."))
    return MemorySource(1000, live=True, actions=dict.fromkeys(range(frames, 1000), gone))


class Socket:
    """Where a device is plugged in: opens the ones it was given, one after another."""

    def __init__(self, *devices: Source | SourceError) -> None:
        self._devices: Iterator[Source | SourceError] = iter(devices)
        self.opened_s: list[float] = []

    def __call__(self) -> Source:
        self.opened_s.append(time.monotonic())
        device = next(self._devices, None)
        if device is None:
            raise SourceError("no device there.")
        if isinstance(device, SourceError):
            raise device
        return device


def next_frame(source: Source, timeout_s: float = 20.0) -> Frame:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            frame = source.read(0.2)
        except SourceLost:
            continue
        assert frame is not None
        return frame
    raise AssertionError("it did not come back")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgevae-reconnect")]


def test_numbers_go_on_rising_over_a_hundred_losses() -> None:
    devices = [unplugged_after(3) for _ in range(101)]
    with reconnecting(Socket(*devices)) as source:
        source._delay_s = 0.0
        indices = []
        for _ in range(303):
            indices.append(next_frame(source).index)
            source._delay_s = 0.0
        assert source.counts()["recoveries"] == 100
    assert indices == list(range(303))
    assert [device.closed for device in devices] == [1] * 101
    assert threads() == []


def test_a_loss_is_told_at_once_and_then_within_the_timeout() -> None:
    with reconnecting(Socket(unplugged_after(2))) as source:
        assert [source.read().index, source.read().index] == [0, 1]
        began_s = time.monotonic()
        with pytest.raises(SourceLost, match=r"^it was unplugged\.$"):
            source.read(60.0)
        with pytest.raises(SourceLost, match=r"unplugged|no device"):
            source.read(0.3)
        assert 0.3 <= time.monotonic() - began_s < 20
        lost_s = source.counts()["lost_seconds"]
        assert 0.3 <= lost_s <= time.monotonic() - began_s + 0.001
        assert source.counts()["recoveries"] == 0
    with pytest.raises(SourceError, match="memory is closed; open it again") as caught:
        source.read()
    assert not isinstance(caught.value, SourceLost)
    assert threads() == []


def test_the_back_off_doubles_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_LONGEST_S", 0.4)
    socket = Socket(unplugged_after(1), *[SourceError("busy.")] * 4, unplugged_after(1))
    with reconnecting(socket) as source:
        source.read()
        assert next_frame(source).index == 1
        assert source.counts()["recoveries"] == 1
    waits_s = np.diff(socket.opened_s)[1:]
    assert (waits_s >= [0.2, 0.4, 0.4, 0.4]).all()
    assert source.counts()["lost_seconds"] >= 0.1 + sum(waits_s)


def test_a_device_that_was_never_there_is_an_error_at_once() -> None:
    with pytest.raises(SourceError, match="no device there") as caught:
        reconnecting(Socket())
    assert not isinstance(caught.value, SourceLost)


def test_files_are_left_as_they_are() -> None:
    file = MemorySource(3)
    assert reconnecting(lambda: file) is file


def test_a_device_of_another_size_may_come_back() -> None:
    small = Frame(np.zeros((5, 7, 3), np.uint8))
    with reconnecting(
        Socket(unplugged_after(2), MemorySource(9, live=True, actions={0: lambda: small}))
    ) as source:
        assert [next_frame(source).rgb.shape for _ in range(4)] == [(24, 32, 3)] * 2 + [
            (5, 7, 3),
            (24, 32, 3),
        ]


def test_frames_dropped_by_every_device_add_up() -> None:
    first, second = unplugged_after(2), MemorySource(9, live=True)
    first.dropped, second.dropped = 5, 7
    with reconnecting(Socket(first, second)) as source:
        source.read()
        assert source.dropped == 5
        source.read()
        next_frame(source)
        assert source.dropped == 12


def test_corrupt_frames_are_passed_on_until_they_are_too_many() -> None:
    bad = MemorySource(100, live=True, actions=corrupt(1, 2, *range(4, 100)))
    with reconnecting(Socket(bad, MemorySource(9, live=True))) as source:
        source.read()
        for _ in range(2):
            with pytest.raises(FrameError):
                source.read()
        assert source.read().index == 3
        for _ in range(module.BAD_FRAMES_IN_A_ROW - 1):
            with pytest.raises(FrameError):
                source.read()
        with pytest.raises(
            SourceLost, match=r"memory gave 10 unusable frames in a row; the last: frame 13 is"
        ):
            source.read()
        assert next_frame(source).index == 4
        assert bad.closed == 1


def test_a_lull_is_no_loss_until_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.5)

    def lull() -> Frame | None:
        time.sleep(0.2)
        raise SourceError("no frame within 0.2 s.")

    device = MemorySource(100, live=True, actions={1: lull, **dict.fromkeys(range(3, 100), lull)})
    with reconnecting(Socket(device, MemorySource(9, live=True))) as source:
        source.read()
        with pytest.raises(SourceLost, match="no frame within"):
            source.read(0.2)
        assert source.read(0.2).index == 2
        assert source.counts()["recoveries"] == device.closed == 0
        assert next_frame(source).index == 3
        assert source.counts()["recoveries"] == device.closed == 1


def test_a_device_that_comes_back_as_a_file_is_not_taken() -> None:
    file = MemorySource(9)
    with reconnecting(Socket(unplugged_after(1), file, MemorySource(9, live=True))) as source:
        assert [next_frame(source).clock for _ in range(2)] == ["host", "host"]
        assert file.closed == 1


def test_closing_while_the_device_is_opened_again_leaves_nothing_open() -> None:
    opening, release = threading.Event(), threading.Event()
    late = MemorySource(9, live=True)

    def reopen() -> Source:
        opening.set()
        release.wait(30)
        return late

    source = ReconnectingSource(unplugged_after(0), reopen)
    with pytest.raises(SourceLost):
        source.read()
    assert opening.wait(30)
    threading.Timer(0.2, release.set).start()
    source.close()
    deadline_s = time.monotonic() + 20
    while threads() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert threads() == []
    assert late.closed == 1
    source.close()


def test_two_levels_share_the_news() -> None:
    """Inside another source, as a pair of two cameras holds them, a loss is passed on as it is."""
    with reconnecting(Socket(unplugged_after(1), MemorySource(5, live=True))) as inner:
        outer = ReconnectingSource(inner, Socket())
        assert outer.read().index == 0
        with pytest.raises(SourceLost):
            outer.read()
        assert next_frame(outer).index == 1
        assert outer.counts()["recoveries"] == 0  # the outer one had nothing to do
