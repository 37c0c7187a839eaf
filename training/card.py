"""``python -m training card MODEL --text FILE -o FILE``: what a model is for and how good it is, in its file.

Words come from a YAML file (``training/cards``), figures from files that ``python -m training evaluate`` and
``edgevae bench --json`` wrote of this very model. They go into the provenance, where ``edgevae info`` finds
them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from edgevae import model_file
from edgevae.bench import NATIVE
from edgevae.cards import WORDS, unmeasured
from edgevae.errors import EdgevaeError
from edgevae.files import check_outputs
from edgevae.zoo import path_of

FIGURES = (
    "mse_per_image",
    "mse_minmax",
    "color_psnr",
    "ssim",
    "ms_ssim",
    "depth_rmse_m",
    "depth_absrel",
    "depth_delta1",
    "depth_edge_px",
)
OPERATIONS = ("encode", "decode")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(
        prog="python -m training card",
        description="Write a model file with its card: what it is for, its limits, and figures that were "
        "measured of it. 'edgevae info' shows the card.",
    )
    made.add_argument("model", type=Path, metavar="MODEL", help="a model file, or a shipped model")
    made.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        required=True,
        help=f"YAML with {', '.join(WORDS[:-1])} and a list of {WORDS[-1]}",
    )
    made.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE",
        required=True,
        help="evaluation.json of 'python -m training evaluate' for this model",
    )
    made.add_argument(
        "--bench",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="what 'edgevae bench --json' wrote for this model; may be repeated",
    )
    made.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write")
    made.add_argument("--overwrite", action="store_true", help="replace FILE")
    return made


def main(arguments: Sequence[str]) -> int:
    """Write the file.

    Raises:
        EdgevaeError: a file cannot be read or written, or is about another model.
    """
    options = parser().parse_args(arguments)
    source = path_of(options.model)
    read = [options.text, options.evaluation, *options.bench]
    check_outputs(options.output, overwrite=options.overwrite, read=read)
    document, tensors, sha256 = model_file.read(source)
    document["provenance"] = unmeasured(document["provenance"]) | card(
        words(options.text),
        _measured(options.evaluation, sha256, "sets", "python -m training evaluate"),
        [_measured(path, sha256, "timings", "edgevae bench --json") for path in options.bench],
    )
    model_file.write(options.output, document, tensors)
    print(f"wrote {options.output}: {document['provenance']['title']}", file=sys.stderr)
    return 0


def card(
    text: dict[str, Any], evaluation: dict[str, Any], benches: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What goes into the provenance.

    Args:
        text: as :func:`words` gives it.
        evaluation: the document of an evaluation.
        benches: the documents of benches.
    """
    made = {**text, "evaluation": [_of_set(each) for each in evaluation["sets"]]}
    if benches:
        made["speed"] = [_speed(bench) for bench in benches]
    return made


def words(path: Path) -> dict[str, Any]:
    """The words of a card.

    Raises:
        EdgevaeError: the file cannot be read, or something is missing from it or too much.
    """
    try:
        text = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise EdgevaeError(f"{path} cannot be read ({reason}); wanted YAML.") from None
    fits = isinstance(text, dict) and sorted(text) == sorted(WORDS)
    if not (
        fits
        and all(isinstance(text[word], str) for word in WORDS[:-1])
        and isinstance(text["limits"], list)
        and all(isinstance(limit, str) for limit in text["limits"])
    ):
        raise EdgevaeError(
            f"{path} is no card's text; wanted {', '.join(WORDS[:-1])}, a list of limits, and nothing else."
        )
    return {word: text[word] for word in WORDS}


def _measured(path: Path, sha256: str, key: str, command: str) -> dict[str, Any]:
    """The document at ``path``, if it is one with ``key`` and of the model with this digest."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EdgevaeError(f"{path} cannot be read ({error}); wanted what '{command}' wrote.") from None
    if not isinstance(found, dict) or not isinstance(found.get(key), list):
        raise EdgevaeError(f"{path} has no {key!r}; wanted what '{command}' wrote.")
    if found.get("sha256") != sha256:
        raise EdgevaeError(
            f"{path} is about a model with sha256 {str(found.get('sha256'))[:16]}, this one has "
            f"{sha256[:16]}; run '{command}' for this one."
        )
    return found


def _of_set(judged: dict[str, Any]) -> dict[str, Any]:
    """Its rows that are the model with float latents, and the components beside it."""
    most = max(row["bytes"] for row in judged["rows"] if row["kind"] == "model")
    rows = []
    for row in judged["rows"]:
        if row["kind"] == "line" or (row["kind"] == "model" and row["bytes"] == most):
            figures = {key: round(row["figures"][key], 4) for key in FIGURES if key in row["figures"]}
            name = "model" if row["kind"] == "model" else row["name"]
            rows.append({"name": name, "depth": row["depth"], **figures})
    return {"set": judged["set"], "frames": judged["frames"], "rows": rows}


def _speed(bench: dict[str, Any]) -> dict[str, Any]:
    """How many times as long others take; times are those of one machine and one day, ratios travel."""
    ratios: dict[str, dict[str, float]] = {}
    for timing in bench["timings"]:
        if timing["operation"] in OPERATIONS and timing["engine"] != NATIVE:
            ratios.setdefault(timing["engine"], {})[timing["operation"]] = round(timing["ratio"], 2)
    setting = {key: bench[key] for key in ("processor", "isa", "threads", "batch", "precision")}
    return {**setting, "times_as_long": ratios}
