"""What a run shows while it goes: a live panel or a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import abc
import os
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .stats import STAGES, Stats

if TYPE_CHECKING:
    from .stream import Stop

_SPARKS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 16


class Display(abc.ABC):
    """Draws ``stats`` at a steady pace from its own thread; a terminal that hangs does not hold up the run.

    A closed standard output ends the run as a signal would.
    """

    interval_s = 1.0

    def __init__(self, stats: Stats, stop: Stop) -> None:
        self.stats = stats
        self._stop_run = stop
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgevae-display", daemon=True)

    @abc.abstractmethod
    def draw(self) -> None:
        """Show the statistics as they are now."""

    def finish(self) -> None:  # noqa: B027  # not every display has something to undo
        """Leave the terminal as it was; called in the display's thread after the last ``draw``."""

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            while not self._done.wait(self.interval_s):
                self.draw()
            self.finish()
        except (OSError, ValueError):
            self._stop_run.request("closed output")


class Quiet(Display):
    """Shows nothing."""

    def draw(self) -> None:
        pass


class Lines(Display):
    """One plain line a second."""

    def draw(self) -> None:
        stages = self.stats.stages()
        times = "".join(
            f"  {stage.replace('_', ' ')} {stages[stage]['p50']:.2f} ms"
            for stage in ("encode", "end_to_end")
            if stage in stages
        )
        print(
            f"{self.stats.seconds:7.1f} s  {self.stats.encoded} frames  {self.stats.fps_now:.1f} fps{times}  "
            f"dropped {self.stats.dropped}  skipped {self.stats.skipped}",
            flush=True,
        )


class LivePanel(Display):
    """The panel of ``edgevae stream``, four times a second."""

    interval_s = 0.25

    def __init__(self, stats: Stats, stop: Stop, console: Console, title: str) -> None:
        super().__init__(stats, stop)
        self._title = title
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def draw(self) -> None:
        if not self._live.is_started:
            self._live.start()
        self._live.update(self.picture(), refresh=True)

    def finish(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def picture(self) -> RenderableType:
        """The panel as it stands."""
        stats = self.stats
        minutes, seconds = divmod(int(stats.seconds), 60)
        counts = Text.assemble(
            (f"{stats.fps_now:.1f} fps", "bold green"),
            f"   {stats.encoded} frames",
            ("   dropped ", "dim"),
            (str(stats.dropped), "yellow" if stats.dropped else ""),
            ("   skipped ", "dim"),
            (str(stats.skipped), "red" if stats.skipped else ""),
            *([(f"   not recorded {stats.not_recorded}", "red")] if stats.not_recorded else []),
            (f"   {minutes}:{seconds:02d}", "dim"),
        )
        parts: list[RenderableType] = [Text(self._title, overflow="ellipsis", no_wrap=True), counts, Text()]
        parts.append(stage_table(stats))
        recent = stats.recent_ms()
        if recent:
            parts += [
                Text(),
                Text.assemble(
                    ("end to end  ", "dim"), (sparkline(recent), "cyan"), (f"  {recent[-1]:.1f} ms", "")
                ),
            ]
        if stats.last_skip:
            parts.append(Text(f"skipped: {stats.last_skip}", style="red", overflow="ellipsis", no_wrap=True))
        return Panel(Group(*parts), title="edgevae", title_align="left", expand=False, border_style="dim")


class ProgressBar(Display):
    """Frames done of the source's length, for ``edgevae embed``."""

    interval_s = 0.2

    def __init__(self, stats: Stats, stop: Stop, console: Console, length: int | None) -> None:
        super().__init__(stats, stop)
        self._bar = Progress(
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[fps]:.0f} fps"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("embedding", total=length, fps=0.0)
        self._started = False

    def draw(self) -> None:
        if not self._started:
            self._bar.start()
            self._started = True
        self._bar.update(self._task, completed=self.stats.frames_in, fps=self.stats.fps_now)
        self._bar.refresh()

    def finish(self) -> None:
        if self._started:
            self._bar.stop()


def stage_table(stats: Stats) -> Table:
    """Each stage's percentiles in ms, its p50 also as a bar relative to the slowest stage."""
    stages = stats.stages()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("ms", style="dim")
    for name in ("p50", "p95", "p99", "max"):
        table.add_column(name, justify="right", header_style="dim")
    table.add_column("", width=_BAR_WIDTH)
    longest_ms = max((stage["p50"] for stage in stages.values()), default=0.0)
    for name in STAGES:
        if name in stages:
            stage = stages[name]
            length = round(_BAR_WIDTH * stage["p50"] / longest_ms) if longest_ms > 0 else 0
            figures = (f"{stage[key]:.2f}" for key in ("p50", "p95", "p99", "max"))
            table.add_row(name.replace("_", " "), *figures, Text("█" * length, style="cyan"))
    return table


def sparkline(values: list[float]) -> str:
    """``values`` as one line of blocks from 0 to the largest."""
    top = max(*values, 1e-9) if len(values) > 1 else max(values[0], 1e-9)
    return "".join(
        _SPARKS[min(int(max(value, 0.0) / top * len(_SPARKS)), len(_SPARKS) - 1)] for value in values
    )


def choose_display(
    stats: Stats, stop: Stop, *, title: str, quiet: bool, progress: bool = False, length: int | None = None
) -> Display:
    """The display for standard output as it is: terminal or not."""
    console = Console()
    if quiet:
        return Quiet(stats, stop)
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        return Lines(stats, stop)
    if progress:
        return ProgressBar(stats, stop, console, length)
    return LivePanel(stats, stop, console, title)


def summary(stats: Stats, wrote: list[str]) -> str:
    """The closing lines: what happened, how long it took, what was written."""
    head = (
        f"{stats.frames_in} frames in, {stats.encoded} encoded, {stats.dropped} dropped, "
        f"{stats.skipped} skipped, {stats.fps:.1f} fps, {stats.seconds:.1f} s, stopped by {stats.stopped_by}"
    )
    lines = [head]
    stages = stats.stages()
    if stages:
        lines.append(f"{'ms':<14}" + "".join(f"{name:>9}" for name in ("p50", "p95", "p99", "max")))
        for name in STAGES:
            if name in stages:
                figures = "".join(f"{stages[name][key]:9.2f}" for key in ("p50", "p95", "p99", "max"))
                lines.append(f"{name.replace('_', ' '):<14}{figures}")
    if stats.not_recorded:
        lines.append(f"{stats.not_recorded} frames were encoded but not written: writing them takes too long")
    if stats.last_skip:
        lines.append(f"last skipped frame: {stats.last_skip}")
    lines += [f"wrote {what}" for what in wrote]
    return "\n".join(lines)


def print_summary(stats: Stats, wrote: list[str]) -> None:
    """Print ``summary`` unless nobody listens any more."""
    try:
        print(summary(stats, wrote), flush=True)
    except BrokenPipeError:
        # Python flushes once more at exit and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
