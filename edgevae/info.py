"""A model file laid open: sizes, layers, encoding, where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import cards, model_file, zoo
from .model import load
from .words import counted

Tensors = dict[str, npt.NDArray[Any]]

CARD = (*cards.WORDS, *cards.MEASURED)
FIGURES = {
    "mse_per_image": ("MSE", "{:.0f}"),
    "mse_minmax": ("MSE min-max", "{:.0f}"),
    "color_psnr": ("PSNR dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "depth_absrel": ("AbsRel", "{:.3f}"),
    "depth_delta1": ("δ<1.25", "{:.3f}"),
    "depth_rmse_m": ("RMSE m", "{:.2f}"),
}


def describe(path: Path | None) -> dict[str, Any]:
    """Everything known of the model at ``path`` (None: the shipped one) as a JSON document.

    Raises:
        ModelFileError: it is missing or not a model file.
    """
    spec = load(path, device="cpu").spec
    document, tensors, _ = model_file.read(spec.path)
    size = (spec.input.channels, spec.input.height, spec.input.width)
    return {
        "name": spec.name,
        "path": str(spec.path),
        "sha256": spec.sha256,
        "file_bytes": Path(spec.path).stat().st_size,
        "input": {"channels": size[0], "height": size[1], "width": size[2]},
        "color": spec.input.color,
        "depth": asdict(spec.input.depth) if spec.input.depth is not None else None,
        "latent_dim": spec.latent_dim,
        "condition_dim": spec.condition_dim,
        "posterior": spec.posterior,
        "errors": document.get("errors") is not None,
        "novelty": len(tensors[document["novelty"]["latents"]]) if "novelty" in document else 0,
        "precision": spec.precision,
        "parameters": spec.parameters,
        "macs_encode": spec.macs_encode,
        "macs_decode": spec.macs_decode,
        "encoder": list(_layers(spec.encoder, tensors, size, spec.condition_dim)),
        "decoder": list(_layers(spec.decoder, tensors, (spec.latent_dim,), spec.condition_dim)),
        "provenance": spec.provenance,
    }


def show(about: dict[str, Any]) -> None:
    """Print ``describe``'s document as tables."""
    console = _console()
    card = {key: about["provenance"][key] for key in CARD if key in about["provenance"]}
    if card:
        for part in _card(card):
            console.print(part)
            console.print()
    console.print(_facts(about))
    for half in ("encoder", "decoder"):
        console.print()
        console.print(_layer_table(half, about[half]))
    console.print()
    console.print(_provenance_table(about["provenance"]))


def overview() -> list[dict[str, Any]]:
    """What there is to choose among the shipped models, a document for each."""
    return [describe(zoo.path_of(name)) | {"shipped_as": name} for name in zoo.shipped()]


def show_overview(models: list[dict[str, Any]]) -> None:
    """Print ``overview``'s documents as one table."""
    table = _table()
    table.add_column("model", style="bold")
    for head in ("MB", "M weights", "encode MMAC", "decode MMAC"):
        table.add_column(head, header_style="dim", justify="right")
    table.add_column("what", header_style="dim")
    for about in models:
        numbers = (
            about["file_bytes"] / 1e6,
            about["parameters"] / 1e6,
            about["macs_encode"] / 1e6,
            about["macs_decode"] / 1e6,
        )
        title = about["provenance"].get("title", "")
        table.add_row(about["shipped_as"], *(f"{number:.1f}" for number in numbers), Text(title))
    _console().print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=110)


def _table(**options: Any) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), **options)


def _card(card: dict[str, Any]) -> Iterator[Table | Text]:
    if "title" in card:
        yield Text(card["title"], style="bold")
    rows = [("for", str(card["intended_use"]))] if "intended_use" in card else []
    rows += [("but" if i == 0 else "", str(limit)) for i, limit in enumerate(card.get("limits", []))]
    if rows:
        yield _pairs(rows)
    for judged in card.get("evaluation", []):
        yield _figures(judged)
    for speed in card.get("speed", []):
        yield _speed(speed)


def _figures(judged: dict[str, Any]) -> Table:
    """Of one set, a row for each amount of depth, and what stands beside the model."""
    table = _table()
    table.add_column(f"{judged['set']} ({judged['frames']} frames)", style="bold")
    shown = [(key, *named) for key, named in FIGURES.items() if any(key in row for row in judged["rows"])]
    for _, head, _ in shown:
        table.add_column(head, header_style="dim", justify="right")
    for row in judged["rows"]:
        name = f"depth {row['depth']}" if row["name"] == "model" and row.get("depth") else row["name"]
        table.add_row(name, *(form.format(row[key]) if key in row else "-" for key, _, form in shown))
    return table


def _speed(speed: dict[str, Any]) -> Table:
    """How much longer than the native engine others take with this model."""
    table = _table()
    table.add_column(f"{speed['processor']}, {counted(speed['threads'], 'thread')}", style="bold")
    for operation in ("encode", "decode"):
        table.add_column(f"{operation} takes", header_style="dim", justify="right")
    for engine, ratios in speed["times_as_long"].items():
        found = (ratios.get(operation) for operation in ("encode", "decode"))
        table.add_row(engine, *("-" if ratio is None else f"{ratio:.1f} x" for ratio in found))
    return table


def _layers(
    layers: list[dict[str, Any]], tensors: Tensors, size: tuple[int, ...], condition_dim: int
) -> Iterator[dict[str, Any]]:
    outputs = model_file.layer_shapes(layers, tensors, size, condition_dim)
    for layer, output in zip(layers, outputs, strict=True):
        names = (layer.get("weight"), layer.get("bias"))
        parameters = sum(int(np.prod(tensors[name].shape)) for name in names if name)
        yield {**layer, "output": [int(length) for length in output], "parameters": parameters}


def _facts(about: dict[str, Any]) -> Table:
    size = about["input"]
    ratio = size["channels"] * size["height"] * size["width"] / about["latent_dim"]
    rows = {
        "model": about["name"],
        "file": f"{about['path']}, {about['file_bytes'] / 1e6:.2f} MB, sha256 {about['sha256'][:16]}",
        "input": f"{size['channels']} x {size['height']} x {size['width']}, colour {about['color']}",
        "depth": _depth_text(about["depth"]),
        "latent": f"{about['latent_dim']} numbers, {ratio:.0f} times fewer than the input",
        "posterior": _posterior_text(about["posterior"]),
        "precision": _precision_text(about),
        "parameters": f"{about['parameters'] / 1e6:.3f} M",
        "MACs": f"encode {about['macs_encode'] / 1e6:.1f} M, decode {about['macs_decode'] / 1e6:.1f} M",
    }
    if about["errors"]:
        rows["errors"] = "percentiles of frames held out: Model.depth_bounds"
    if about["novelty"]:
        rows["novelty"] = f"by {about['novelty']} latents of training frames: Model.novelty"
    if about["condition_dim"]:
        rows["condition"] = f"{about['condition_dim']} numbers"
    return _pairs(rows.items())


def _depth_text(depth: dict[str, Any] | None) -> str:
    if depth is None:
        return "none"
    if depth["encoding"] == "minmax":
        return "minmax: relative to each image, not metric"
    no_reading = f"no reading = {depth['no_reading']:g}"
    if depth["fill"]:
        no_reading = f"holes filled and mirrored at {depth['no_reading']:g}"
    return f"{depth['encoding']} from {depth['min_m']:g} to {depth['max_m']:g} m, {no_reading}"


def _posterior_text(posterior: dict[str, Any] | None) -> str:
    if posterior is None:
        return "none (a plain autoencoder)"
    return f"Gaussian, std by {posterior['scale']}, epsilon {posterior['epsilon']:g}"


def _precision_text(about: dict[str, Any]) -> str:
    if about["precision"] != "int8":
        return f"{about['precision']} stored, float32 arithmetic"
    layers = [layer for half in ("encoder", "decoder") for layer in about[half] if layer["parameters"]]
    integer = sum("input_scale" in layer for layer in layers)
    weights = sum("weight_scale" in layer for layer in layers) - integer
    return (
        f"int8: {integer} layers in integers, {weights} with int8 weights and float32 arithmetic, "
        f"{len(layers) - integer - weights} in float32"
    )


def _layer_table(title: str, layers: list[dict[str, Any]]) -> Table:
    table = _table()
    table.add_column(title, style="bold")
    table.add_column("settings", header_style="dim")
    table.add_column("output", header_style="dim", justify="right")
    table.add_column("parameters", header_style="dim", justify="right")
    hidden = {"op", "weight", "bias", "output", "parameters", *model_file.QUANTIZED_KEYS}
    for layer in layers:
        settings = ", ".join(f"{key} {value}" for key, value in layer.items() if key not in hidden)
        if "weight_scale" in layer:
            stored = f"int8, zero at {layer['input_zero']}" if "input_scale" in layer else "int8 weights"
            settings = f"{settings}, {stored}" if settings else stored
        shape = " x ".join(str(length) for length in layer["output"])
        table.add_row(
            layer["op"], Text(settings), shape, f"{layer['parameters']:,}" if layer["parameters"] else ""
        )
    return table


def _provenance_table(provenance: dict[str, Any]) -> Table:
    rows: list[tuple[str, str]] = []
    for data in provenance.get("data", []):
        parts = [str(data.get("licence", "not stated"))]
        if "pairs" in data:
            parts.append(f"{data['pairs']} pairs")
        scenes = data.get("scenes")
        if isinstance(scenes, list) and scenes and scenes != [data.get("name")]:
            few = len(scenes) <= 4
            parts.append(" and ".join(map(str, scenes)) if few else f"{len(scenes)} scenes")
        rows.append((f"data: {data.get('name', 'unnamed')}", ", ".join(parts)))
    for name, value in provenance.get("metrics", {}).items():
        rows.append((f"metric: {name}", f"{value:.6g}" if isinstance(value, float) else str(value)))
    for key, value in provenance.items():
        if key not in ("data", "metrics", *CARD):
            rows.append((key, value if isinstance(value, str) else json.dumps(value)))
    return _pairs(rows or [("provenance", "not stated")])


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    table = _table(show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(Text(key), Text(value))
    return table
