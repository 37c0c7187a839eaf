"""The top of a report: what was trained, on what, how, and with what result."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import edgevae
from edgevae.errors import EdgevaeError
from edgevae.export import FRAMES, to_native

from .. import checkpoint
from ..figures.loss import NATS
from ..runs import TESTED, Run
from .frames import spread
from .material import Material
from .page import columns, facts, table

_FIGURES = {
    "loss": "loss",
    "nll": "likelihood term",
    "kl": "KL, nats",
    "active_units": "active latents",
    "mse_per_image": "squared error per image",
    "grey_psnr": "PSNR, dB",
    "color_psnr": "PSNR, dB",
    "ssim": "SSIM",
    "depth_rmse_m": "RMSE of depth, m",
    "depth_absrel": "AbsRel of depth",
    "depth_delta1": "depth within 1.25×",
}
_KINDS = {1: "grey", 3: "RGB", 4: "RGB-D"}


def loss_unit(config: dict[str, Any]) -> str:
    """In what the loss of a run is counted."""
    model = config.get("model")
    loss = model.get("loss") if isinstance(model, dict) else None
    mse = isinstance(loss, dict) and loss.get("likelihood") == "mse"
    return "squared error per image" if mse else NATS


def lead(m: Material) -> str:
    """The line below the title."""
    if m.net_or_none is None:
        return "A training run without a model to show"
    made = m.net.provenance.get("created")
    return f"A training run of {m.net.name}" + (f", {made}" if made else "")


def top(m: Material) -> str:
    """Tables of facts, and beside them of data and final figures."""
    beside = []
    if figures := _figures(m):
        beside.append(figures)
    data = m.net.provenance.get("data") if m.net_or_none is not None else None
    if data:
        rows = [
            [str(each["name"]), str(each["licence"]), f"{each['pairs']:,}", _some(each.get("scenes") or [])]
            for each in data
        ]
        beside.append(table(["trained on", "licence", "frames", "scenes"], rows, numbers=False))
    return columns([facts(_facts(m))], beside)


def epochs_behind(run: Run, name: str) -> int | None:
    """How many epochs lie behind a checkpoint; None where it cannot be read or does not say."""
    epochs = _provenance(run, name).get("epochs")
    return epochs if isinstance(epochs, int) else None


def _provenance(run: Run, name: str) -> dict[str, Any]:
    try:
        about: dict[str, Any] = checkpoint.read(run.checkpoint(name))[checkpoint.KEY]["provenance"]
    except EdgevaeError:
        return {}
    return about


def _some(names: list[Any], most: int = 6) -> str:
    words = [str(name) for name in names if str(name)]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _facts(m: Material) -> list[tuple[str, str]]:
    if m.net_or_none is None:
        model = m.run.config["model"]
        return [
            ("model", str(model.get("model"))),
            ("options", _options(model.get("options") or {})),
        ]
    net, about = m.net, m.net.provenance
    spec = net.input
    latent = f"{net.latent_dim} numbers" if net.latent_dim > 1 else "1 number"
    latent += "" if net.posterior else " of a plain autoencoder"
    latent += f", beside a condition of {net.condition_dim} classes" if net.condition_dim else ""
    rows = [
        ("model", net.name),
        ("options", _options(net.options)),
        ("input", f"{_KINDS[spec.channels]}, {spec.height} × {spec.width} pixels"),
        ("latent", latent),
        ("parameters", f"{sum(p.numel() for p in net.parameters()):,}"),
        *_native(m),
        ("shown here", f"checkpoint {m.which!r}, after {about.get('epochs', '?')} epochs"),
    ]
    last = epochs_behind(m.run, "last")
    if last is not None:
        best = f"; the best after {m.best_epoch}" if m.best_epoch is not None else ""
        rows.append(("epochs trained", f"{last}{best}"))
    minutes = _provenance(m.run, "last").get("training_minutes", about.get("training_minutes"))
    if minutes is not None:
        rows.append(("training time", f"{minutes:g} min" if minutes < 120 else f"{minutes / 60:.1f} h"))
    if m.held_or_none is not None:
        rows.append(("held out", f"{m.held.total:,} frames of {', '.join(m.held.sets)}"))
    return [*rows, ("command", str(about.get("command", "?"))), ("seed", str(about.get("seed", "?")))]


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "as they are"


def _native(m: Material) -> list[tuple[str, str]]:
    """Products and bytes, as the runtime counts them once the model is exported, and whether it agrees."""
    m.say("model file")
    frames = None  # rendered ones
    if m.held_or_none is not None:
        frames = m.held.load(spread(len(m.held), FRAMES), m.net.condition_dim).input
    with tempfile.TemporaryDirectory(prefix="edgevae-report-") as folder:
        path = Path(folder) / "model.safetensors"
        try:
            report = to_native(m.net, path, frames=frames)
            spec = edgevae.load(path).spec
        except EdgevaeError as error:
            return [("products", f"not counted: {error}")]
    return [
        ("products", f"{_amount(spec.macs_encode)} to encode, {_amount(spec.macs_decode)} to decode a frame"),
        (
            "model file",
            f"{report.bytes / 1e6:.2f} MB; in the native engine latents differ by {report.latent_error:.0e}",
        ),
    ]


def _amount(count: int) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return str(count)


def _figures(m: Material) -> str:
    """The table of validation figures after the best and the last epoch, and those of ``test``."""
    try:
        rows = [row for row in m.run.metrics() if any(key.startswith("val/") for key in row)]
    except EdgevaeError:
        rows = []
    shown = {f"epoch {row['epoch']:.0f}, the best": row for row in rows if row["epoch"] == m.best_epoch}
    if rows and rows[-1]["epoch"] != m.best_epoch:
        shown[f"epoch {rows[-1]['epoch']:.0f}, the last"] = rows[-1]
    shown["test"] = _tested(m.run)
    stages = ("val/", "test/")
    cut = {
        head: {key.partition("/")[2]: value for key, value in row.items() if key.startswith(stages)}
        for head, row in shown.items()
    }
    cut = {head: row for head, row in cut.items() if row}
    names = sorted({name for row in cut.values() for name in row}, key=_place)
    if not names:
        return ""
    body = [[_words(name), *(_figure(row.get(name)) for row in cut.values())] for name in names]
    return table(["final figures", *cut], body)


def _place(name: str) -> tuple[bool, str, int, str]:
    """Figures of all sets before those of each, in the order of ``_FIGURES``."""
    of_set, _, figure = name.rpartition("/")
    places = list(_FIGURES)
    return bool(of_set), of_set, places.index(figure) if figure in places else len(places), figure


def _words(name: str) -> str:
    of_set, _, figure = name.rpartition("/")
    return (f"{of_set}: " if of_set else "") + _FIGURES.get(figure, figure)


def _tested(run: Run) -> dict[str, float]:
    try:
        found = json.loads((run.folder / TESTED).read_text())
    except (OSError, ValueError):
        return {}
    return {key: float(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
