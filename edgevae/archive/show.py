"""What ``edgevae embed`` shows while it runs, and the lines it ends with."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..panel import Display, Lines, Quiet
from ..stats import Stats
from ..stream import Stop
from .embed import Tally


class SourcesBar(Display):
    """A bar of sources done, with rows and their rate; of one source there is only what has been counted."""

    interval_s = 0.2

    def __init__(self, stats: Stats, stop: Stop, console: Console, tally: Tally) -> None:
        super().__init__(stats, stop)
        self._tally = tally
        self._bar = Progress(
            TextColumn("embedding"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        many = tally.sources > 1
        self._task = self._bar.add_task("embedding", total=tally.sources if many else None, text="")
        self._started = False

    def draw(self) -> None:
        if not self._started:
            self._bar.start()
            self._started = True
        tally = self._tally
        parts = [f"{tally.finished}/{tally.sources} sources"] if tally.sources > 1 else []
        parts += [f"{tally.rows} rows", f"{self.stats.fps_now:.0f} fps"]
        if tally.failed:
            parts.append(f"{tally.failed} failed")
        done = max(0, tally.finished)
        self._bar.update(self._task, completed=done, text="  ".join(parts))
        self._bar.refresh()

    def finish(self) -> None:
        if self._started:
            self._bar.stop()


def choose_display(stats: Stats, stop: Stop, tally: Tally, *, quiet: bool) -> Display:
    """The display for standard output as it is: terminal or not."""
    console = Console()
    if quiet:
        return Quiet(stats, stop)
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        return Lines(stats, stop, sys.stdout)
    return SourcesBar(stats, stop, console, tally)
