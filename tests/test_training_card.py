"""Cards: what is written into a model file, what is refused, and what ``edgevae info`` shows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import tiny_document

import edgevae
from edgevae import model_file
from edgevae.cli import main as edgevae_main
from training.__main__ import main

TEXT = {"title": "A small one", "intended_use": "Rooms.", "limits": ["No streets.", "No fog."]}
ROW = {"kind": "model", "name": "tiny", "depth": "given", "numbers": "float32", "bytes": 16}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    model_file.write(path, *tiny_document())
    return path


def written(folder: Path, **changed: Any) -> list[str]:
    """Arguments that name a text, an evaluation and a bench of the model in ``folder``."""
    sha256 = edgevae.load(folder / "tiny.safetensors").spec.sha256
    figures = {"mse_per_image": 12.34567, "depth_absrel": 0.0712349, "posterior_std": 0.1}
    rows = [
        ROW | {"figures": figures},
        ROW | {"depth": "none", "figures": figures | {"depth_absrel": 0.2}},
        ROW | {"bytes": 8, "figures": figures},
        {"kind": "line", "name": "PCA 4", "depth": "given", "bytes": 16, "figures": {"mse_per_image": 20.0}},
        {"kind": "codec", "name": "JPEG + PNG", "depth": None, "bytes": 16, "figures": {}},
    ]
    files: dict[str, Any] = {
        "text": TEXT,
        "evaluation": {"sha256": sha256, "sets": [{"set": "rooms", "frames": 7, "rows": rows}]},
        "bench": {
            "sha256": sha256, "processor": "a processor", "isa": "avx2", "threads": 2, "batch": 1,
            "precision": "fp32",
            "timings": [
                {"operation": "encode", "engine": "edgevae", "ratio": 1.0},
                {"operation": "encode", "engine": "torch", "ratio": 12.345},
                {"operation": "posterior", "engine": "torch", "ratio": 11.0},
                {"operation": "decode", "engine": "torch", "ratio": 20.0},
            ],
        },
    }  # fmt: skip
    files |= changed
    arguments = []
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.write_text(content if isinstance(content, str) else json.dumps(content))  # JSON is YAML
        arguments += [f"--{name}", str(path)]
    return arguments


def test_a_card_goes_into_the_file_and_onto_the_screen(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["card", str(model), *written(tmp_path), "-o", str(out)]) == 0
    before, after = edgevae.load(model).spec.provenance, edgevae.load(out).spec.provenance
    assert {key: after[key] for key in before} == before
    assert {key: after[key] for key in TEXT} == TEXT
    (judged,) = after["evaluation"]
    assert (judged["set"], judged["frames"]) == ("rooms", 7)
    assert [(row["name"], row["depth"], row["mse_per_image"]) for row in judged["rows"]] == [
        ("model", "given", 12.3457),
        ("model", "none", 12.3457),
        ("PCA 4", "given", 20.0),
    ]
    assert after["speed"][0]["times_as_long"] == {"torch": {"encode": 12.35, "decode": 20.0}}

    assert edgevae_main(["info", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("A small one", "for Rooms.", "but No streets. No fog.", "rooms (7 frames)", "depth none"):
        assert words in shown
    assert "torch 12.3 x 20.0 x" in shown
    assert "intended_use" not in shown  # once is enough

    assert main(["card", str(model), *written(tmp_path), "-o", str(out)]) == 2  # it is there


def test_what_is_made_of_a_measured_file_was_not_measured(model: Path, tmp_path: Path) -> None:
    out, twin = tmp_path / "out.safetensors", tmp_path / "twin.safetensors"
    assert main(["card", str(model), *written(tmp_path), "-o", str(out)]) == 0
    arguments = [
        "quantize",
        str(out),
        "--calibrate",
        "synthetic?frames=60",
        "--frames",
        "12",
        "-o",
        str(twin),
    ]
    assert edgevae_main(arguments) == 0
    provenance = edgevae.load(twin).spec.provenance
    assert {key: provenance[key] for key in TEXT} == TEXT
    assert "evaluation" not in provenance
    assert "speed" not in provenance


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"text": {"title": "x"}}, "no card's text; wanted title, intended_use, a list of limits"),
        ({"text": TEXT | {"limits": "none"}}, "no card's text"),
        ({"text": "a: [\n"}, "cannot be read"),
        ({"evaluation": "[1"}, "cannot be read"),
        ({"evaluation": "[]"}, "has no 'sets'; wanted what 'python -m training evaluate' wrote"),
        (
            {"evaluation": {"sets": [], "sha256": "0" * 64}},
            "a model with sha256 0000000000000000, this",
        ),
        ({"bench": {"timings": [], "sha256": None}}, "run 'edgevae bench --json' for this one"),
    ],
)
def test_what_is_not_about_the_model_is_refused(
    changed: dict[str, Any], says: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["card", str(model), *written(tmp_path, **changed), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not out.exists()
