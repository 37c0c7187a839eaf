"""Every command ends when it is asked to: one sentence, its exit code, and no file that is not whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_document

import edgevae
from edgevae import model_file
from edgevae.__main__ import main

LENGTH, ROWS = 8, 6

INTERRUPTED_IMPORT = """
import runpy, signal, sys
module = sys.argv.pop(1)
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
runpy.run_module("edgevae", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def _handlers_of_the_tests() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path, tiny_model_path: Path) -> Path:
    """A record of the tiny model, one that was cut off, and the model itself."""
    rng = np.random.default_rng(5)
    rows = [
        {
            "frame": i,
            "timestamp_ns": i,
            "latent": rng.standard_normal(LENGTH).tolist(),
            "pose": np.eye(4).tolist(),
            "intrinsics": {"fx": 30, "fy": 30, "cx": 15.5, "cy": 15.5, "width": 32, "height": 32},
            "model_sha256": edgevae.load(tiny_model_path).spec.sha256,
        }
        for i in range(ROWS)
    ]
    (tmp_path / "z.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cut.jsonl").write_text((tmp_path / "z.jsonl").read_text()[:-5])
    document, tensors = tiny_document()
    model_file.write(tmp_path / "m.safetensors", document, tensors)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


COMMANDS = {
    "decode": ["decode", "z.jsonl", "-o", "out", "--model", "m.safetensors"],
    "interpolate-gif": ["interpolate", "z.jsonl#0", "z.jsonl#5", "-o", "a.gif", "--model", "m.safetensors"],
    "interpolate-mp4": ["interpolate", "z.jsonl#0", "z.jsonl#5", "-o", "a.mp4", "--model", "m.safetensors"],
    "similar": ["similar", "z.jsonl", "--to", "0", "-o", "a.png", "--model", "m.safetensors"],
    "novelty": ["novelty", "z.jsonl", "-o", "a.png"],
    "keyframes": ["keyframes", "z.jsonl", "-n", "3", "-o", "k.jsonl"],
    "repair": ["repair", "cut.jsonl"],
    "quantize": [
        "quantize",
        "m.safetensors",
        "--calibrate",
        "synthetic?size=32x32",
        "--frames",
        "8",
        "-o",
        "q",
    ],
    "bench": ["bench", "--model", "random:1", "--layers", "--rounds", "1", "--json", "a.json"],
}


def end_before_the_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, arguments: list[str]
) -> int:
    """Run a command that gets a signal the moment before its file gets its name; give its exit code."""
    met = []

    def interrupted(temporary: Path, path: Path) -> None:
        met.append(os.path.getsize(temporary))
        signal.raise_signal(number)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["edgevae", *arguments])
    for name in ("replace", "link", "rename"):
        monkeypatch.setattr(os, name, interrupted)
    before = files(folder)
    code = main()
    assert met[0] > 0  # something was written by then
    assert files(folder) == before
    return code


@pytest.mark.parametrize("command", COMMANDS)
def test_sigterm_leaves_no_file_that_is_not_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    assert end_before_the_name(folder, monkeypatch, signal.SIGTERM, COMMANDS[command]) == 143
    assert capfd.readouterr().err == "edgevae: ended by SIGTERM.\n"


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "interrupted."), (signal.SIGHUP, "ended by SIGHUP.")]
)
def test_other_signals_have_their_own_code(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    said: str,
) -> None:
    assert end_before_the_name(folder, monkeypatch, number, COMMANDS["keyframes"]) == 128 + number
    assert capfd.readouterr().err == f"edgevae: {said}\n"


def test_sigterm_during_an_export(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("training.models")
    checkpoint = pytest.importorskip("training.checkpoint")
    net = models.build("rgbd-vae", width=4, latent_dim=6, size=32)
    state = {f"{checkpoint.PREFIX}{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, checkpoint.KEY: checkpoint.describe(net, {})}, folder / "c.ckpt")
    arguments = ["export", "c.ckpt", "-o", "e.safetensors"]
    assert end_before_the_name(folder, monkeypatch, signal.SIGTERM, arguments) == 143
    assert capfd.readouterr().err == "edgevae: ended by SIGTERM.\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    signal.signal(number, signal.SIG_IGN)
    monkeypatch.setattr("edgevae.info.describe", lambda model: signal.raise_signal(number) or {})
    monkeypatch.setattr(sys, "argv", ["edgevae", "info", "--json"])
    assert main() == 0
    assert signal.getsignal(number) is signal.SIG_IGN


def test_an_error_that_a_signal_became_is_still_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(model: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise ImportError("a module that C loads") from None

    monkeypatch.setattr("edgevae.info.describe", describe)
    monkeypatch.setattr(sys, "argv", ["edgevae", "info"])
    assert main() == 143
    assert capsys.readouterr().err == "edgevae: ended by SIGTERM.\n"


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("numpy", ["info"]),
        ("typer", ["info"]),
        ("edgevae.model", ["info"]),
        pytest.param(
            "open3d",
            ["reconstruct", "z.jsonl", "-o", "a.ply", "--model", "m.safetensors"],
            marks=pytest.mark.skipif(find_spec("open3d") is None, reason="needs Open3D"),
        ),
    ],
)
def test_ctrl_c_while_a_module_is_imported(folder: Path, module: str, command: list[str]) -> None:
    before = files(folder)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, *command],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )
    assert (done.returncode, done.stderr, done.stdout) == (130, "edgevae: interrupted.\n", "")
    assert files(folder) == before
