"""What a run shows while it goes: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import abc
import os
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from .stats import STAGES, Stats
from .words import counted

if TYPE_CHECKING:
    from .stream import Stop

_SPARKS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 16
_FIGURES = ("p50", "p95", "p99", "max")
_HEAD = f"{'ms':<14}" + "".join(f"{name:>9}" for name in _FIGURES)


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

    def __init__(self, stats: Stats, stop: Stop, file: TextIO) -> None:
        super().__init__(stats, stop)
        self._file = file

    def draw(self) -> None:
        stages = self.stats.stages()
        times = "".join(
            f"  {stage.replace('_', ' ')} {stages[stage]['p50']:.2f} ms"
            for stage in ("encode", "end_to_end")
            if stage in stages
        )
        troubles = "".join(f"  {trouble}" for trouble in _troubles(self.stats))
        print(
            f"{self.stats.seconds:7.1f} s  {self.stats.encoded} frames  {self.stats.fps_now:.1f} fps{times}  "
            f"dropped {self.stats.dropped}  skipped {self.stats.skipped}{troubles}",
            file=self._file,
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
        recoveries = stats.source_counts().get("recoveries", 0)
        counts = Text.assemble(
            (f"{stats.fps_now:.1f} fps", "bold green"),
            f"   {stats.encoded} frames",
            ("   dropped ", "dim"),
            (str(stats.dropped), "yellow" if stats.dropped else ""),
            ("   skipped ", "dim"),
            (str(stats.skipped), "red" if stats.skipped else ""),
            *([(f"   not recorded {stats.not_recorded}", "red")] if stats.not_recorded else []),
            *([("   found again ", "dim"), (f"{recoveries:.0f}", "")] if recoveries else []),
            (f"   {minutes}:{seconds:02d}", "dim"),
        )
        parts: list[RenderableType] = [Text(self._title, overflow="ellipsis", no_wrap=True), counts, Text()]
        parts.append(stage_lines(stats))
        recent = stats.recent_ms()
        if recent:
            parts += [
                Text(),
                Text.assemble(
                    ("end to end  ", "dim"), (sparkline(recent), "cyan"), (f"  {recent[-1]:.1f} ms", "")
                ),
            ]
        for trouble in [*_troubles(stats), *([f"skipped: {stats.last_skip}"] if stats.last_skip else [])]:
            parts.append(Text(trouble, style="red", overflow="ellipsis", no_wrap=True))
        return Panel(Group(*parts), title="edgevae", title_align="left", expand=False, border_style="dim")


def _troubles(stats: Stats) -> list[str]:
    """What is out of order at this moment: the source, or sinks."""
    lost = [f"source lost for {stats.source_lost_s:.0f} s: {stats.source_lost}"] if stats.source_lost else []
    return lost + [
        f"{sink.name} fails for {sink.failing_s:.0f} s, {counted(sink.lost, 'row')} lost: {sink.failing}"
        for sink in stats.sinks
        if sink.failing
    ]


def stage_lines(stats: Stats) -> Text:
    """Each stage's percentiles in ms, its p50 also as a bar relative to the slowest stage.

    Plain text: a table of rich costs three times the rest of the panel, four times a second.
    """
    stages = stats.stages()
    longest_ms = max((stage["p50"] for stage in stages.values()), default=0.0)
    lines: list[str | tuple[str, str]] = [(_HEAD, "dim")]
    for name in STAGES:
        if name in stages:
            length = round(_BAR_WIDTH * stages[name]["p50"] / longest_ms) if longest_ms > 0 else 0
            lines += [
                f"\n{_stage_line(name, stages[name])}  ",
                ("█" * length, "cyan"),
                " " * (_BAR_WIDTH - length),
            ]
    return Text.assemble(*lines, no_wrap=True)


def _stage_line(name: str, stage: dict[str, float]) -> str:
    return f"{name.replace('_', ' '):<14}" + "".join(f"{stage[key]:9.2f}" for key in _FIGURES)


def sparkline(values: list[float]) -> str:
    """``values`` as one line of blocks from 0 to the largest."""
    top = max(*values, 1e-9) if len(values) > 1 else max(values[0], 1e-9)
    return "".join(
        _SPARKS[min(int(max(value, 0.0) / top * len(_SPARKS)), len(_SPARKS) - 1)] for value in values
    )


def choose_display(
    stats: Stats,
    stop: Stop,
    *,
    title: str,
    quiet: bool,
    on_stderr: bool = False,
) -> Display:
    """The display for standard output, or standard error, as it is: terminal or not."""
    console = Console(stderr=on_stderr)
    if quiet:
        return Quiet(stats, stop)
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        return Lines(stats, stop, sys.stderr if on_stderr else sys.stdout)
    return LivePanel(stats, stop, console, title)


def summary(stats: Stats, wrote: list[str]) -> str:
    """The closing lines: what happened, how long it took, what was written."""
    head = (
        f"{counted(stats.frames_in, 'frame')} in, {stats.encoded} encoded, {stats.dropped} dropped, "
        f"{stats.skipped} skipped, {stats.fps:.1f} fps, {stats.seconds:.1f} s, stopped by {stats.stopped_by}"
    )
    lines = [head]
    stages = stats.stages()
    if stages:
        lines += [_HEAD, *(_stage_line(name, stages[name]) for name in STAGES if name in stages)]
    recoveries = stats.source_counts().get("recoveries", 0)
    if recoveries:
        lost_s = stats.source_counts().get("lost_seconds", 0)
        lines.append(
            f"the source was lost and found again {counted(round(recoveries), 'time')}, {lost_s:.1f} s in all"
        )
    for sink in stats.sinks:
        if sink.behind:
            lines.append(f"frames not written to {sink.name}, as that takes too long: {sink.behind}")
        if sink.lost:
            lines.append(f"frames lost to {sink.name}, which failed: {sink.lost}")
    if stats.last_skip:
        lines.append(f"last skipped frame: {stats.last_skip}")
    lines += [f"wrote {what}" for what in wrote]
    return "\n".join(lines)


def print_summary(stats: Stats, wrote: list[str], *, on_stderr: bool = False) -> None:
    """Print ``summary`` unless nobody listens any more."""
    file = sys.stderr if on_stderr else sys.stdout
    try:
        print(summary(stats, wrote), file=file, flush=True)
    except BrokenPipeError:
        # Python flushes once more at exit and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
