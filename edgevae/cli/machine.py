"""Commands about this machine: ``bench``, ``cameras`` and ``doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import EdgevaeError
from .common import ModelOption, OverwriteOption, ThreadsOption


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Model file or shipped model; default: full. random:64 is the RGB-D VAE at width 64 with "
            "random weights. An int8 file runs alone.",
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
    device: Annotated[str, typer.Option(metavar="NAME", help="Of --layers: cpu, cuda or cuda:1.")] = "cpu",
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
    overwrite: OverwriteOption = False,
) -> None:
    """Time the engine on this machine, beside others that are installed.

    Each engine runs in a process of its own; they take turns, on the same threads, after their answers were
    compared with a float64 run.
    """
    from ..bench import run_bench
    from ..bench.layers import LayersReport, run_layers
    from ..bench.plot import check_plot, write_plot
    from ..bench.report import BenchReport
    from ..files import check_outputs, write_json, write_whole

    if layers and (plot is not None or against not in (None, "none")):
        raise EdgevaeError("--layers times edgevae alone and draws nothing; leave out --against and --plot.")
    if not layers and device != "cpu":
        raise EdgevaeError(
            "engines are compared on the processor; --device is for --layers. On a GPU, "
            "benches/cuda_bench.py of the source tree compares."
        )
    if plot is not None:
        check_plot(plot)
    check_outputs(json_path, markdown, plot, overwrite=overwrite)
    say = _say if sys.stderr.isatty() else lambda text: None
    report: BenchReport | LayersReport
    if layers:
        report = run_layers(
            model, precision=precision, device=device, threads=threads, rounds=rounds, batch=batch, say=say
        )
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


def cameras(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List connected cameras: what to pass as --camera, modes, intrinsics."""
    import json

    from ..cameras import find_cameras, show

    found = find_cameras()
    print(json.dumps(found, indent=2) if as_json else show(found))


def doctor(model: ModelOption = None) -> None:
    """Report on this machine; exit code 0 if edgevae works."""
    from rich.console import Console
    from rich.text import Text

    from ..doctor import examine

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
