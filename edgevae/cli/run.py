"""Commands that run a source through the model: ``stream``."""

from __future__ import annotations

import enum
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RecordError
from ..mapping import MAX_DEPTH_M, VOXEL_M
from .common import (
    CalibrationOption,
    DepthOption,
    DeviceOption,
    IsaOption,
    MaxDepthOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    StatsOption,
    ThreadsOption,
    VoxelOption,
    complain,
    folder,
)

if TYPE_CHECKING:
    from ..sinks import Sink
    from ..sources.base import Source


class OnLost(str, enum.Enum):
    """What to do when a live source goes away."""

    retry = "retry"
    exit = "exit"


def stream(
    camera: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="Camera index, /dev/video*, realsense[:serial], video file, image folder, rtsp:// or "
            "http:// URL, .mcap, RealSense or ROS .bag, .db3 or folder, tum:DIR, nyu:FILE.mat, "
            "synthetic[:seed]. 'edgevae cameras' lists devices.",
        ),
    ],
    depth: DepthOption = None,
    calibration: CalibrationOption = None,
    model: ModelOption = None,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N frames were encoded.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, metavar="S", help="Stop after S seconds.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="F", help="At most F frames a second; plays files at that pace."),
    ] = None,
    every_frame: Annotated[
        bool,
        typer.Option("--every-frame", help="Drop no frame of a live source either; latency may grow."),
    ] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Begin files again when they end.")] = False,
    warmup: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Encode N frames first that nothing counts, times or records."),
    ] = 0,
    on_lost: Annotated[
        OnLost,
        typer.Option(
            "--on-lost",
            help="When a live source goes away: look for it until it is back, or exit. One that is not there "
            "at the start is an error in any case.",
        ),
    ] = OnLost.retry,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Record latents: .jsonl (text), .h5 (HDF5), .mcap (Foxglove, with pictures), - (text to a "
            "pipe).",
        ),
    ] = None,
    record_topics: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="What an .mcap holds beside latents, by comma: color (JPEG) or color-raw, depth, "
            "reconstruction; or none. Default: color,depth,reconstruction.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    stats: StatsOption = None,
    save_reconstructions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=folder, help="Write a picture a frame, camera beside decoded."),
    ] = None,
    save_video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same as a video: .mkv, .avi or .mp4.")
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            metavar="[WHERE]",
            help="Watch in Rerun: a window, or 'serve' for a web page on this machine (serve:PORT), or a "
            "FILE.rrd to look at later.",
        ),
    ] = None,
    zenoh: Annotated[
        str | None,
        typer.Option(
            metavar="ENDPOINT",
            help="Publish latents: tcp/ADDRESS:PORT to connect to, or listen:tcp/ADDRESS:PORT.",
        ),
    ] = None,
    zenoh_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Publish at KEY/latent; default: edgevae/HOSTNAME.")
    ] = None,
    scene_map: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="Fuse what the latents decode to into a map, .ply."),
    ] = None,
    map_voxel: VoxelOption = VOXEL_M,
    map_max_depth: MaxDepthOption = MAX_DEPTH_M,
    map_mesh: Annotated[bool, typer.Option("--map-mesh", help="Write triangles instead of points.")] = False,
    map_error: Annotated[
        bool, typer.Option("--map-error", help="Compare the map with that of the camera's own frames.")
    ] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    isa: IsaOption = "",
    quiet: QuietOption = False,
) -> None:
    """Encode a camera's or file's frames as they come: the main job."""
    sinks: list[Sink] = []
    if record is not None:
        from ..sinks import open_record

        sinks.append(open_record(record, overwrite=overwrite, pictures=_pictures(record_topics)))
    elif record_topics is not None:
        raise RecordError("--record-topics says what an .mcap record holds; add --record FILE.mcap.")
    if save_reconstructions is not None:
        from ..sinks.reconstructions import ReconstructionSink

        sinks.append(ReconstructionSink(save_reconstructions, overwrite=overwrite))
    if save_video is not None:
        from ..sinks.video import VideoSink

        sinks.append(VideoSink(save_video, overwrite=overwrite))
    if view is not None:
        from ..sinks.rerun import ServeSink, open_view

        sinks.append(shown := open_view(view, overwrite=overwrite))
        if isinstance(shown, ServeSink):
            print(f"watch at {shown.url}", file=sys.stderr, flush=True)
    if zenoh is not None:
        from ..sinks.zenoh import ZenohSink

        sinks.append(ZenohSink(zenoh, key=zenoh_key))
    elif zenoh_key is not None:
        raise RecordError("--zenoh-key says where to publish; add --zenoh ENDPOINT.")
    if scene_map is not None:
        from ..mapping.builder import MapSettings
        from ..sinks.map import MapSink

        settings = MapSettings(map_voxel, map_max_depth, mesh=map_mesh, reference=map_error)
        sinks.append(MapSink(scene_map, settings, overwrite=overwrite))
    elif (map_voxel, map_max_depth, map_mesh, map_error) != (VOXEL_M, MAX_DEPTH_M, False, False):
        raise RecordError("--map-... says what a map is to be like; add --map FILE.ply.")
    _run(
        camera,
        depth,
        calibration,
        model,
        sinks,
        device=device,
        threads=threads,
        isa=isa,
        quiet=quiet,
        stats_path=stats,
        overwrite=overwrite,
        limits={
            "max_frames": frames,
            "max_seconds": seconds,
            "max_fps": fps,
            "warm_up": warmup,
            "every_frame": True if every_frame else None,
        },
        loop=loop,
        on_lost=on_lost,
    )


def _pictures(names: str | None) -> list[str] | None:
    """What --record-topics asks for; None for what is usual."""
    return None if names is None else [name for name in names.split(",") if name not in ("", "none")]


def _run(
    uri: str,
    depth: str | None,
    calibration: Path | None,
    model_path: Path | None,
    sinks: list[Sink],
    *,
    device: str,
    threads: int | None,
    isa: str,
    quiet: bool,
    stats_path: Path | None,
    overwrite: bool,
    limits: dict[str, Any],
    loop: bool = False,
    on_lost: OnLost = OnLost.exit,
) -> None:
    """Open, run, show, summarise."""
    from ..files import check_outputs, write_json
    from ..model import load
    from ..panel import choose_display, print_summary
    from ..sinks.jsonl import JsonlPipe
    from ..sinks.map import MapSink
    from ..sources import open_source
    from ..sources.looping import LoopingSource
    from ..sources.reconnecting import reconnecting
    from ..stats import Stats
    from ..stream import Stop, StopOnSignal, run

    check_outputs(stats_path, overwrite=overwrite, read=[sink.path for sink in sinks])
    model = load(model_path, device=device, threads=threads, isa=isa)

    def open_it() -> Source:
        wrap = reconnecting if on_lost is OnLost.retry and not loop else None
        return open_source(uri, depth=depth, calibration=calibration, wrap=wrap)

    source = LoopingSource(open_it) if loop else open_it()
    on_stderr = any(isinstance(sink, JsonlPipe) for sink in sinks)  # standard output belongs to the pipe
    stats, stop = Stats(), Stop()
    title = f"{source.name} -> {model.spec.name}, latent {model.spec.latent_dim} ({model.engine})"
    display: AbstractContextManager[object] = choose_display(
        stats,
        stop,
        title=title,
        quiet=quiet,
        on_stderr=on_stderr,
    )
    try:
        with StopOnSignal(stop), display:
            run(source, model, sinks, stats=stats, stop=stop, tell=complain, **limits)
    finally:
        if stats.frames_in or not stats.error:  # otherwise nothing ran, and the error says it all
            maps = [sink for sink in sinks if isinstance(sink, MapSink)]
            wrote = [sink.wrote() for sink in sinks if sink.rows]
            try:
                if stats_path is not None:
                    about = {
                        "source": {"name": source.name, "live": source.live},
                        "model": {
                            "name": model.spec.name,
                            "path": model.spec.path,
                            "sha256": model.spec.sha256,
                        },
                        "engine": {"device": model.device, "isa": model.isa, "threads": model.threads},
                        **({"map": maps[0].report} if maps else {}),
                    }
                    write_json(stats_path, stats.report(**about))
                    wrote.append(str(stats_path))
            finally:  # a disk that is full for them is no reason to say nothing
                print_summary(stats, wrote, on_stderr=on_stderr)
            for text in (text for each in maps for text in each.warnings):
                complain(f"warning: {text}.")
