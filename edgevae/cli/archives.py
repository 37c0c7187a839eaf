"""Commands over many sources: ``embed``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EdgevaeError, RecordError
from ..words import counted
from .common import (
    CalibrationOption,
    DepthOption,
    DeviceOption,
    IsaOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    StatsOption,
    ThreadsOption,
    complain,
)

if TYPE_CHECKING:
    from ..archive import Tally
    from ..model import Model


def embed(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Any sources 'edgevae stream --camera' takes."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Record: .h5, .jsonl, .parquet (a folder); of one source .mcap.",
        ),
    ] = ...,  # type: ignore[assignment]  # typer's way to ask for an option
    from_list: Annotated[
        str | None, typer.Option(metavar="FILE", help="More sources, one a line; - reads standard input.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on behind the last whole row; begin if there is none.")
    ] = False,
    overwrite: OverwriteOption = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="End at the first source that cannot be read.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Sources read at a time; default: one a core, at most 8."),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="local, or ray: Ray Data, on this machine or a cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A running Ray cluster; default: one is started here."),
    ] = None,
    depth: DepthOption = None,
    calibration: CalibrationOption = None,
    model: ModelOption = None,
    stats: StatsOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    isa: IsaOption = "",
    quiet: QuietOption = False,
) -> None:
    """Encode every frame of all sources into one record.

    Sources that cannot be read are listed in FILE.problems.jsonl; the others go on, and the exit code is 2.
    """
    from ..archive import EmbedStats, Engine, LocalEngine, Plan, Tally, read_list
    from ..archive import embed as run
    from ..archive.show import choose_display
    from ..files import check_outputs, write_json
    from ..model import load
    from ..panel import print_summary
    from ..stream import Stop, StopOnSignal

    names = (*(sources or ()), *(read_list(from_list) if from_list else ()))
    plan = Plan(names, depth, None if calibration is None else str(calibration))
    check_outputs(stats, overwrite=overwrite or resume, read=[output])
    first = load(model, device="cpu" if engine == "ray" else device, threads=threads, isa=isa)
    chosen: Engine
    if engine == "ray":
        if device not in ("auto", "cpu"):
            raise EdgevaeError(f"--engine ray encodes on processors; leave out --device {device}.")
        from ..archive.ray_engine import RayEngine

        chosen = RayEngine(first.spec, isa=isa, workers=workers, address=ray_address)
    elif engine == "local" and ray_address is None:

        def load_for_worker(share: int) -> Model:
            if len(plan.sources) == 1:
                return first
            return load(model, device=first.device, threads=threads or share, isa=isa)

        chosen = LocalEngine(load_for_worker, workers=workers)
    else:
        wanted = "--engine ray" if engine == "local" else "local or ray"
        raise EdgevaeError(f"engine is '{engine}', wanted {wanted}.")
    counts, stop, tally = EmbedStats(), Stop(), Tally(len(plan.sources))
    try:
        with StopOnSignal(stop), choose_display(counts, stop, tally, quiet=quiet):
            run(
                plan,
                output,
                chosen,
                first.spec,
                resume=resume,
                overwrite=overwrite,
                strict=strict,
                stats=counts,
                stop=stop,
                tally=tally,
            )
    finally:
        if counts.frames_in or not counts.error:  # otherwise nothing ran, and the error says it all
            wrote = [f"{output} ({counted(tally.rows, 'frame')})"] if tally.rows else []
            try:
                if stats is not None:
                    about = {
                        "source": {"name": plan.title, "live": False},
                        "sources": {
                            "given": tally.sources,
                            "finished": tally.finished,
                            "failed": tally.failed,
                        },
                        "rows": {"before": tally.resumed, "after": tally.rows},
                        "model": {
                            "name": first.spec.name,
                            "path": first.spec.path,
                            "sha256": first.spec.sha256,
                        },
                        "engine": {"isa": first.isa, "name": engine},
                    }
                    write_json(stats, counts.report(**about))
                    wrote.append(str(stats))
            finally:  # a disk that is full for them is no reason to say nothing
                print_summary(counts, wrote)
    _say_how_it_ended(tally, output, stop.reason)


def _say_how_it_ended(tally: Tally, output: Path, reason: str) -> None:
    """Complain of sources that failed, or of an end before the last source; such ends have an exit code."""
    for sentence in tally.problems:
        complain(sentence)
    if tally.failed:
        raise RecordError(
            f"{tally.failed} of {tally.sources} sources could not be read to their end, see "
            f"{tally.problems_path}; the rows of the others are in {output}."
        )
    if reason and 1 < tally.sources != tally.finished:
        complain(f"stopped by {reason} after {tally.finished} of {tally.sources} sources; --resume goes on.")
        raise typer.Exit(128 + (signal.SIGTERM if reason == "SIGTERM" else signal.SIGINT))
