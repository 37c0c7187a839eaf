"""Commands on records of latents: ``decode``, ``reconstruct``, ``repair``, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import LatentError
from ..mapping import MAX_DEPTH_M, MAX_MB, VOXEL_M
from ..words import counted
from .common import (
    DeviceOption,
    MaxDepthOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    ThreadsOption,
    VoxelOption,
    complain,
    folder,
)

if TYPE_CHECKING:
    from ..latents import Latents
    from ..model import Model

RecordArgument = Annotated[
    Path, typer.Argument(metavar="LATENTS", help="A record: .h5, .jsonl, .mcap or .parquet.")
]
AnyModelOption = Annotated[
    bool, typer.Option("--any-model", help="Decode although the record names another model file.")
]
DistanceOption = Annotated[str, typer.Option(metavar="NAME", help="cosine or euclidean.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def decode(
    latents: RecordArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", parser=folder, help="Folder for the pictures.")
    ],
    model: ModelOption = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Decode every N-th latent.")] = 1,
    any_model: AnyModelOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn a record back into colour and depth pictures.

    DIR/color holds the colour, DIR/depth 16-bit millimetres, DIR/preview both side by side in colours.
    """
    from ..decode import check_model, decode_record
    from ..latents import read_latents
    from ..model import load

    rows = read_latents(latents)
    network = load(model, device=device, threads=threads)
    warning = check_model(rows, network, any_model=any_model)
    if warning:
        complain(f"warning: {warning}.")
    count = decode_record(rows, network, output, every=every, overwrite=overwrite, quiet=quiet)
    print(f"decoded {count} of {counted(len(rows), 'latent')} into {output}")


def reconstruct(
    latents: RecordArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The map, a .ply file.")],
    poses: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Trajectory, 'stamp tx ty tz qx qy qz qw' a line, camera-to-world; default: the record's "
            "poses, or odometry if it has none.",
        ),
    ] = None,
    intrinsics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="camera.json of the camera; default: what the record says."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="What the record was made from: compare with the map of its own frames."
        ),
    ] = None,
    model: ModelOption = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Fuse every N-th latent.")] = 1,
    voxel: VoxelOption = VOXEL_M,
    max_depth: MaxDepthOption = MAX_DEPTH_M,
    truncation: Annotated[
        float | None,
        typer.Option(metavar="M", help="How far from a surface voxels are kept; default: 8 voxels."),
    ] = None,
    memory: Annotated[
        float, typer.Option(metavar="MB", help="Memory of the voxels, where the map stops growing.")
    ] = MAX_MB,
    mesh: Annotated[bool, typer.Option("--mesh", help="Write triangles instead of points.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON, too.")
    ] = None,
    any_model: AnyModelOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Fuse what a record decodes to into a map: a coloured point cloud or mesh.

    Needs Open3D: pip install "edgevae[map]".
    """
    from ..decode import check_model
    from ..files import check_outputs, write_json
    from ..latents import read_latents
    from ..mapping.builder import MapSettings
    from ..model import load
    from ..reconstruct import check_map_path
    from ..reconstruct import reconstruct as run
    from ..sources import open_source
    from ..sources.image_files import read_camera

    check_map_path(output, overwrite=overwrite)
    check_outputs(output, json_path, overwrite=overwrite, read=[latents])
    settings = MapSettings(voxel, max_depth, truncation, mesh, memory)
    rows = read_latents(latents)
    network = load(model, device=device, threads=threads)
    warning = check_model(rows, network, any_model=any_model)
    if warning:
        complain(f"warning: {warning}.")
    report, builder = run(
        rows,
        network,
        output,
        settings,
        camera=None if intrinsics is None else read_camera(intrinsics)[0],
        trajectory=poses,
        reference=None if reference is None else open_source(reference),
        every=every,
        overwrite=overwrite,
        quiet=quiet,
    )
    for text in builder.warnings():
        complain(f"warning: {text}.")
    print(f"wrote {output}: {builder.summary(report)}")
    if json_path is not None:
        write_json(json_path, report)


def repair(
    record: Annotated[
        Path, typer.Argument(metavar="FILE", help="A record that was cut off: .mcap, .jsonl or .h5.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The new file; default: NAME.repaired.SUFFIX."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Recover what a cut-off record still holds, into a new file.

    The old file is only read. A row comes out as it was written, or not at all.
    """
    from ..repair import repair as run

    found = run(record, output, overwrite=overwrite)
    if found.output is None:
        print(f"{record} is whole: {counted(found.rows, found.unit)}; nothing to repair")
    else:
        print(f"recovered {counted(found.rows, found.unit)} into {found.output}")
    if found.lost:
        print(found.lost)


def interpolate(
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="RECORD#ROW, COLOR.png, COLOR.png,DEPTH.png, or SOURCE#FRAME."),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The other end, named likewise.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Animation .gif or .mp4, or a sheet .png.")
    ],
    steps: Annotated[int, typer.Option(min=2, metavar="N", help="Pictures, both ends included.")] = 16,
    fps: Annotated[float, typer.Option(min=0.5, max=50, metavar="N", help="Pictures per second.")] = 8.0,
    model: ModelOption = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Decode the way from one frame's latent to another's."""
    from ..interpolate import check_output
    from ..interpolate import interpolate as run
    from ..latent_of import latent_of
    from ..model import load

    check_output(output, overwrite=overwrite)
    network = load(model, device=device, threads=threads)
    first, last = latent_of(a, network), latent_of(b, network)
    run(first, last, network, output, steps=steps, fps=fps, overwrite=overwrite)
    print(f"wrote {output} ({steps} steps from {first.name} to {last.name})")


def similar(
    latents: RecordArgument,
    to: Annotated[
        str,
        typer.Option(
            metavar="WHAT", help="A row of LATENTS, RECORD#ROW, COLOR.png[,DEPTH.png], or SOURCE#FRAME."
        ),
    ],
    count: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many rows to name.")] = 5,
    gap: Annotated[
        int, typer.Option(min=0, metavar="N", help="Leave out so many rows before and after row --to.")
    ] = 0,
    distance: DistanceOption = "cosine",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.png", help="Decode them into a picture.")
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Name the rows of a record nearest to a frame or to one of its rows: scenes that look alike."""
    from ..decode import check_model
    from ..files import check_outputs
    from ..interpolate import write_sheet
    from ..latent_of import Named, latent_of, row_of
    from ..latent_tools import nearest
    from ..latents import read_latents
    from ..model import load

    check_outputs(output, overwrite=overwrite, suffixes=(".png",))
    rows = read_latents(latents)
    own = int(to) if to.isascii() and to.isdecimal() and len(to) < 19 else None
    network: Model | None = None
    if own is None or output is not None:
        network = load(model, device=device)
        check_model(rows, network, any_model=False)
    if own is not None:
        query = Named(row_of(rows, own, str(latents)), f"row {own}")
        leave_out = range(own - gap, own + gap + 1)
    else:
        assert network is not None
        query, leave_out = latent_of(to, network), range(0)
    found = nearest(rows.latent, query.latent, count=count, kind=distance, leave_out=leave_out)
    if not found:
        raise LatentError(
            f"{latents} has {counted(len(rows), 'row')}; with --gap {gap} none is left to compare with."
        )
    table = [{"distance": round(match.distance, 6), **_about(rows, match.row)} for match in found]
    _print_rows(table, as_json)
    if output is not None and network is not None:
        labels = ["wanted", *(f"row {match.row}: {match.distance:.3f}" for match in found)]
        wanted = [query.latent, *(rows.latent[match.row] for match in found)]
        write_sheet(network, wanted, labels, output, title=f"{latents.name}: nearest to {query.name}")
        complain(f"wrote {output}")


def novelty(
    latents: RecordArgument,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="FILE", help="Plot .png, or table .csv or .json; repeatable."),
    ] = None,
    gap: Annotated[
        int, typer.Option(min=0, metavar="N", help="Compare with rows at least so many before the last.")
    ] = 0,
    distance: DistanceOption = "cosine",
    overwrite: OverwriteOption = False,
) -> None:
    """Show how new each row is: its distance to the nearest row before it."""
    import numpy as np

    from ..files import check_outputs
    from ..latent_tools import novelty as run
    from ..latents import read_latents
    from ..novelty_report import SUFFIXES, write_report
    from ..panel import sparkline

    check_outputs(*(output or []), overwrite=overwrite, suffixes=SUFFIXES)
    rows = read_latents(latents)
    values = run(rows.latent, gap=gap, kind=distance)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) == 0:
        raise LatentError(
            f"{latents} has {counted(len(rows), 'row')}; with --gap {gap} none has another before it."
        )
    print(sparkline([float(part.max()) for part in np.array_split(values[known], min(72, len(known)))]))
    quartiles = ", ".join(f"{value:.3g}" for value in np.percentile(values[known], (5, 50, 95)))
    print(
        f"{counted(len(rows), 'row')}, {distance} distance to the nearest before: 5, 50, 95 % at {quartiles}"
    )
    print("newest:")
    newest = known[np.argsort(-values[known], kind="stable")[:5]]
    _print_rows([{"novelty": round(float(values[i]), 6), **_about(rows, int(i))} for i in newest], False)
    for path in output or []:
        write_report(
            path, rows, values, title=f"{latents.name}: {distance} distance to the nearest row before"
        )
        print(f"wrote {path}")


def keyframes(
    latents: RecordArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Record of the chosen rows, of the same kind as LATENTS."
        ),
    ],
    count: Annotated[int | None, typer.Option("-n", min=1, metavar="N", help="Choose so many.")] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="D", help="Choose until every row is this near to a chosen one.")
    ] = None,
    distance: DistanceOption = "cosine",
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Choose rows that stand for all, and write a record with only those; prints which they are."""
    from ..latent_tools import keyframes as run
    from ..latents import read_latents
    from ..select_rows import check_output, select_rows

    if (count is None) == (threshold is None):
        raise LatentError("wanted either -n N, how many key frames, or --threshold D, how near to one.")
    check_output(latents, output, overwrite=overwrite)
    rows = read_latents(latents)
    chosen = run(rows.latent, count=count, threshold=threshold, kind=distance).tolist()
    select_rows(latents, chosen, output, overwrite=overwrite)
    _print_rows([_about(rows, row) for row in chosen], as_json)
    complain(f"wrote {output} ({len(chosen)} of {counted(len(rows), 'row')})")


def _about(rows: Latents, row: int) -> dict[str, Any]:
    return {
        "row": row,
        "frame": int(rows.frame[row]),
        "timestamp_ns": int(rows.timestamp_ns[row]),
        "source": rows.source_of(row),
    }


def _print_rows(table: list[dict[str, Any]], as_json: bool) -> None:
    """A table with a heading, in columns; or JSON."""
    if as_json:
        print(json.dumps(table, indent=2))
        return
    cells = [[str(key).replace("_", " ") for key in table[0]] if table else []]
    cells += [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in table
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print(_columns(line, widths))


def _columns(line: Iterable[str], widths: list[int]) -> str:
    *numbers, last = line
    return "  ".join([*(text.rjust(width) for text, width in zip(numbers, widths, strict=False)), last])
