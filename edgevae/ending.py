"""How a command ends when it is asked to: by Ctrl-C (SIGINT), SIGTERM, or the end of its terminal (SIGHUP).

Wherever it is, ``Ended`` is raised there: what is half-written is removed on the way out, and one sentence
says why. ``stream`` and ``embed`` take the signals over while they run (stream.py), as they have an end in
order. This file imports nothing that takes time: it is in force before anything that does.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_came: list[signal.Signals] = []


class Ended(BaseException):
    """A signal asks for the end. Neither Exception nor KeyboardInterrupt: libraries catch those."""

    def __init__(self, by: signal.Signals) -> None:
        super().__init__("interrupted." if by is signal.SIGINT else f"ended by {by.name}.")
        self.exit_code = 128 + by


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Within the block the first signal raises ``Ended`` in the main thread, and a second one kills.

    So does every signal after the block: there is nothing left to put in order. What the caller has this
    process ignore stays ignored, as under nohup.
    """
    _handle_by(_end)
    try:
        yield
    finally:
        _handle_by(signal.SIG_DFL)
        _came.clear()


def check_ended() -> None:
    """Raise ``Ended`` if a signal has come; compiled code may have lost the first one, or renamed it."""
    if _came:
        raise Ended(_came[0])


def _handle_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    _handle_by(signal.SIG_DFL)
    _came.append(signal.Signals(number))
    check_ended()
