"""Commands that run a source through the model: ``stream`` and ``embed``."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RecordError
from .common import (
    DepthOption,
    IsaOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    StatsOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from ..sinks import Sink
    from ..sources.base import Source


def stream(
    camera: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="Camera index, /dev/video*, video file, image folder, rtsp:// or http:// URL, tum:DIR, "
            "synthetic[:seed].",
        ),
    ],
    depth: DepthOption = None,
    model: ModelOption = None,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N frames were encoded.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, metavar="S", help="Stop after S seconds.")] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record latents: .jsonl (text) or .h5 (HDF5).")
    ] = None,
    overwrite: OverwriteOption = False,
    stats: StatsOption = None,
    save_reconstructions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a picture a frame, camera beside decoded.")
    ] = None,
    threads: ThreadsOption = None,
    isa: IsaOption = "",
    quiet: QuietOption = False,
) -> None:
    """Encode a camera's or file's frames as they come: the main job."""
    sinks: list[Sink] = []
    if record is not None:
        from ..sinks import open_record

        sinks.append(open_record(record, overwrite=overwrite))
    if save_reconstructions is not None:
        from ..sinks.reconstructions import ReconstructionSink

        sinks.append(ReconstructionSink(save_reconstructions, overwrite=overwrite))
    _run(
        camera,
        depth,
        model,
        sinks,
        threads=threads,
        isa=isa,
        quiet=quiet,
        stats_path=stats,
        limits={"max_frames": frames, "max_seconds": seconds},
    )


def embed(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Any source 'edgevae stream --camera' takes.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Record: .h5 or .jsonl.")],
    depth: DepthOption = None,
    model: ModelOption = None,
    overwrite: OverwriteOption = False,
    stats: StatsOption = None,
    threads: ThreadsOption = None,
    isa: IsaOption = "",
    quiet: QuietOption = False,
) -> None:
    """Encode every frame of a source into a record."""
    from ..sinks import open_record

    sink = open_record(output, overwrite=overwrite)
    limits = {"every_frame": True}
    _run(
        source,
        depth,
        model,
        [sink],
        threads=threads,
        isa=isa,
        quiet=quiet,
        stats_path=stats,
        limits=limits,
        progress=True,
    )


def _run(
    uri: str,
    depth: str | None,
    model_path: Path | None,
    sinks: list[Sink],
    *,
    threads: int | None,
    isa: str,
    quiet: bool,
    stats_path: Path | None,
    limits: dict[str, Any],
    progress: bool = False,
) -> None:
    """What ``stream`` and ``embed`` share: open, run, show, summarise."""
    from ..files import ready_folder, write_json
    from ..model import load
    from ..panel import choose_display, print_summary
    from ..sources import open_source
    from ..stats import Stats
    from ..stream import Stop, StopOnSignal, run

    if stats_path is not None:
        if stats_path.is_dir():
            raise RecordError(f"{stats_path} is a folder, wanted the name of a file for --stats.")
        ready_folder(stats_path.parent)
    model = load(model_path, threads=threads, isa=isa)
    source: Source = open_source(uri, depth=depth)
    stats, stop = Stats(), Stop()
    engine = f"{model.isa}, {model.threads} thread{'s' if model.threads > 1 else ''}"
    title = f"{source.name} -> {model.spec.name}, latent {model.spec.latent_dim} ({engine})"
    display: AbstractContextManager[object] = choose_display(
        stats, stop, title=title, quiet=quiet, progress=progress, length=source.length
    )
    try:
        with StopOnSignal(stop), display:
            run(source, model, sinks, stats=stats, stop=stop, **limits)
    finally:
        if stats.frames_in or not stats.error:  # otherwise nothing ran, and the error says it all
            wrote = [f"{sink.path} ({sink.rows} frames)" for sink in sinks if sink.rows]
            if stats_path is not None:
                about = {
                    "source": {"name": source.name, "live": source.live},
                    "model": {"name": model.spec.name, "path": model.spec.path, "sha256": model.spec.sha256},
                    "engine": {"isa": model.isa, "threads": model.threads},
                }
                write_json(stats_path, stats.report(**about))
                wrote.append(str(stats_path))
            print_summary(stats, wrote)
