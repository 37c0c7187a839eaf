"""The doctor's report on a machine that works, and on ones that do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgevae import _core
from edgevae.cli import main
from edgevae.doctor import examine


def findings(model_path: Path | None) -> dict[str, tuple[str, str]]:
    return {finding.subject: (finding.state, finding.text) for finding in examine(model_path)}


def test_a_machine_that_works(tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(tiny_model_path)]) == 0
    shown = capsys.readouterr().out
    assert "the runtime works" in shown
    for subject in (
        "instruction set",
        "processor",
        "GPU",
        "cameras",
        "RealSense",
        "packages",
        "extra train",
        "model",
    ):
        assert subject in shown


def test_what_is_found(tiny_model_path: Path) -> None:
    found = findings(tiny_model_path)
    state, text = found["instruction set"]
    assert state == "ok"
    assert text.startswith(_core.selected_isa())
    assert all(name in text for name in _core.available_isas())
    assert f"{len(os.sched_getaffinity(0))} of" in found["processor"][1]
    assert "numpy" in found["packages"][1]
    assert found["model"][0] == "ok"
    assert "tiny, latent 8" in found["model"][1]


def test_a_model_that_does_not_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(tmp_path / "none.safetensors")]) == 2
    captured = capsys.readouterr()
    assert captured.err == "edgevae: the runtime does not work here: model failed, see above.\n"
    assert "none.safetensors does not exist" in captured.out


def test_a_missing_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path
) -> None:
    monkeypatch.setattr("edgevae.doctor.EXTRAS", {"hats": ("edgevae-no-such-package",)})
    state, text = findings(tiny_model_path)["extra hats"]
    assert state == "none"
    assert text == "without edgevae-no-such-package; 'pip install edgevae[hats]'"


def test_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path) -> None:
    monkeypatch.setattr(
        "edgevae.doctor.RUNTIME", ("numpy", "opencv-python-headless", "edgevae-no-such-package")
    )
    assert findings(tiny_model_path)["packages"][0] == "fail"


def test_a_gpu_is_reported(monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.1, 143771 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert findings(tiny_model_path)["GPU"] == ("ok", "NVIDIA H200, 580.1, 143771 MiB")


def test_a_driver_that_does_not_answer_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    state, text = findings(tiny_model_path)["GPU"]
    assert state in ("ok", "none")
    assert "H200" not in text


def test_an_instruction_set_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path
) -> None:
    monkeypatch.setenv("EDGEVAE_ISA", "abacus")
    found = findings(tiny_model_path)
    failed = [subject for subject, (state, _) in found.items() if state == "fail"]
    assert failed
    assert any("abacus" in found[subject][1] for subject in failed)
