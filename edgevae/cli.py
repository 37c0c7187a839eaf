"""The command line. Each command checks its arguments, calls one function of the package, prints a result.

A user's mistake ends in one line on standard error and exit code 2; a fault of edgevae's own in exit code 1.
Heavy imports happen inside the commands, so that ``edgevae --help`` is quick.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import EdgevaeError, RecordError

if TYPE_CHECKING:
    from .sinks import Sink
    from .sources.base import Source

app = typer.Typer(
    help="RGB-D camera frames to compact latents and back, without PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="Model file; default: the one shipped with edgevae."),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads of the engine; default: all usable cores.")
]
IsaOption = Annotated[
    str,
    typer.Option(metavar="NAME", help="Instruction set, see 'edgevae doctor'; default: the machine's best."),
]
DepthOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Where depth comes from if not from the camera itself, or 'none'."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what the output would refuse to.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show only the summary.")]
StatsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write counters and latencies as JSON.")
]


def main(arguments: list[str] | None = None) -> int:
    """Run ``edgevae ARGUMENTS`` and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments  # accepted anywhere on the line, as it is added after something failed
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return int(app(args=arguments, prog_name="edgevae", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, EdgevaeError):
            return _fail(str(error), 2)
        if hasattr(error, "format_message"):  # a usage error of typer, wherever its classes live
            usage = error.format_message()  # empty where the help was printed instead
            return _fail(f"{usage.rstrip('.')}. Run 'edgevae --help'.", 2) if usage else 2
        return _fail(f"{type(error).__name__}: {error}; --debug shows where.", 1)


def _fail(sentence: str, code: int) -> int:
    print("edgevae:", " ".join(sentence.split()), file=sys.stderr, flush=True)
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"edgevae {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")
    ] = False,
) -> None:
    """RGB-D camera frames to compact latents and back, without PyTorch."""


@app.command()
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
        from .sinks import open_record

        sinks.append(open_record(record, overwrite=overwrite))
    if save_reconstructions is not None:
        from .sinks.reconstructions import ReconstructionSink

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


@app.command()
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
    from .sinks import open_record

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
    from .files import ready_folder, write_json
    from .model import load
    from .panel import choose_display, print_summary
    from .sources import open_source
    from .stats import Stats
    from .stream import Stop, StopOnSignal, run

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


@app.command()
def decode(
    latents: Annotated[Path, typer.Argument(metavar="LATENTS", help="A record: .h5 or .jsonl.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pictures.")],
    model: ModelOption = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Decode every N-th latent.")] = 1,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Decode although the record names another model file.")
    ] = False,
    overwrite: OverwriteOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn a record back into colour and depth pictures.

    DIR/color holds the colour, DIR/depth 16-bit millimetres, DIR/preview both side by side in colours.
    """
    from .decode import check_model, decode_record
    from .latents import read_latents
    from .model import load

    rows = read_latents(latents)
    network = load(model, threads=threads)
    warning = check_model(rows, network, any_model=any_model)
    if warning:
        _fail(f"warning: {warning}.", 0)
    count = decode_record(rows, network, output, every=every, overwrite=overwrite, quiet=quiet)
    print(f"decoded {count} of {len(rows)} latents into {output}")


@app.command()
def info(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="Default: the shipped model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show a model file: sizes, layers, data, licences."""
    from .info import describe, show

    about = describe(model)
    if as_json:
        print(json.dumps(about, indent=2))
    else:
        show(about)


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint of 'python -m training fit'.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    format: Annotated[str, typer.Option(metavar="NAME", help="native, torchscript or onnx.")] = "native",
    precision: Annotated[str, typer.Option(metavar="NAME", help="Storage of native: fp32 or fp16.")] = "fp32",
    frames: Annotated[
        str | None, typer.Option(metavar="URI", help="A source for the parity check; default: synthetic.")
    ] = None,
) -> None:
    """Turn a checkpoint into a model file; checks that both agree."""
    from . import export as exporting

    print(f"wrote {exporting.export(checkpoint, format, output, precision, frames)}")


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file stored as fp32 or fp16.")],
    calibrate: Annotated[
        str,
        typer.Option(
            metavar="URI", help="Frames like those the model will see: any source 'edgevae stream' takes."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    frames: Annotated[
        int, typer.Option(min=1, metavar="N", help="Frames to take, spread over the source.")
    ] = 64,
    depth: DepthOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make a model file with int8 layers; keeps it only if it is as good.

    Every fourth frame is held out of calibration and measured on, too.
    """
    from .quantize import quantize as run

    print(f"wrote {run(model, output, calibrate, frames=frames, depth=depth, threads=threads, quiet=quiet)}")


@app.command()
def bench(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Model file of float numbers; default: the shipped one. random:64 is the RGB-D VAE at width "
            "64 with random weights.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINES",
            help="torch, torchscript, compile, onnxruntime, openvino, ncnn, opencv (it packs frames), by "
            "comma; 'all' for those that are installed, 'none' for edgevae alone; default: torch, "
            "torchscript and opencv, if installed.",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="Storage of weights: fp32, fp16, or int8 (activations, too).")
    ] = "fp32",
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option(metavar="N", help="Timed calls of each engine.")] = 50,
    batch: Annotated[int, typer.Option(metavar="N", help="Frames in a call.")] = 1,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Instead: how edgevae alone computes each layer, and its time."),
    ] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON, too.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables in Markdown, too.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a bar chart, .svg or .png, too.")
    ] = None,
) -> None:
    """Time the engine on this machine, beside others that are installed.

    Each engine runs in a process of its own; they take turns, on the same threads, after their answers were
    compared with a float64 run.
    """
    import signal

    from .bench import run_bench
    from .bench.layers import LayersReport, run_layers
    from .bench.plot import check_plot, write_plot
    from .bench.report import BenchReport
    from .files import ready_folder, write_json, write_whole

    if layers and (plot is not None or against not in (None, "none")):
        raise EdgevaeError("--layers times edgevae alone and draws nothing; leave out --against and --plot.")
    if plot is not None:
        check_plot(plot)
    for path in (json_path, markdown, plot):
        if path is not None:
            if path.is_dir():
                raise RecordError(f"{path} is a folder, wanted the name of a file.")
            ready_folder(path.parent)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: ends the workers, removes what they ran
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    say = _say if sys.stderr.isatty() else lambda text: None
    report: BenchReport | LayersReport
    if layers:
        report = run_layers(model, precision=precision, threads=threads, rounds=rounds, batch=batch, say=say)
    else:
        engines = (
            None if against is None else [name for name in against.split(",") if name not in ("", "none")]
        )
        report = run_bench(
            model,
            against=engines,
            precision=precision,
            threads=threads,
            rounds=rounds,
            batch=batch,
            say=say,
        )
    print(report)
    if json_path is not None:
        write_json(json_path, report.document())
    if markdown is not None:
        write_whole(markdown, report.markdown().encode())
    if plot is not None and isinstance(report, BenchReport):
        write_plot([report], plot)


def _say(text: str) -> None:
    print(text, end=" ...\n", file=sys.stderr, flush=True)


@app.command()
def doctor(model: ModelOption = None) -> None:
    """Report on this machine; exit code 0 if edgevae works."""
    from rich.console import Console
    from rich.text import Text

    from .doctor import examine

    console = Console()
    styles = {"ok": "green", "none": "dim", "fail": "bold red"}
    failed = []
    for finding in examine(model):
        line = Text.assemble(
            (f"{finding.state:<5}", styles[finding.state]), f"{finding.subject:<17}{finding.text}"
        )
        console.print(line, soft_wrap=True)
        if finding.state == "fail":
            failed.append(finding.subject)
    if failed:
        raise RuntimeNotWorking(f"the runtime does not work here: {', '.join(failed)} failed, see above.")
    print("the runtime works")


class RuntimeNotWorking(EdgevaeError):
    """``edgevae doctor`` found that encoding cannot work on this machine."""
