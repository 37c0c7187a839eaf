"""benches/cuda_bench.py, as far as it goes without a GPU."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgevae import _core

SCRIPT = Path(__file__).parents[1] / "benches" / "cuda_bench.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    found = importlib.util.spec_from_file_location("cuda_bench", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["cuda_bench"] = module  # where its dataclasses look for their types
    found.loader.exec_module(module)
    yield module
    del sys.modules["cuda_bench"]


@pytest.mark.skipif(bool(_core.cuda_build), reason="this build has CUDA")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    wanted = "benches/cuda_bench.py: no CUDA device: this build of edgevae has no CUDA engine"
    assert done.stderr.startswith(wanted)
    assert len(done.stderr.splitlines()) == 1


def test_calls_take_turns(script: ModuleType) -> None:
    order = []

    def call(name: str, times: Iterator[float]) -> float:
        order.append(name)
        return next(times)

    mine, theirs = itertools.chain([90.0, 80.0], itertools.count(1)), itertools.count(100)
    times = script.take_turns(
        {"a": lambda: call("a", mine), "b": lambda: call("b", map(float, theirs))}, 5, warm_up=2
    )
    assert order == ["a", "b"] * 7
    assert times["a"].median_us == 3
    assert times["b"].median_us == 104
    assert times["a"].p99_us == pytest.approx(4.96)


def test_the_tables(script: ModuleType) -> None:
    def timing(us: float) -> dict[str, float]:
        return {"median_us": us, "p99_us": us + 1}

    row = {
        "operation": "encode",
        "batch": 1,
        "edgevae": timing(32),
        "torch": timing(80),
        "cosine": 0.99999,
        "torch_cosine": 0.99998,
        "tflops": 12.34,
    }
    text = script.markdown(
        {
            "card": {"name": "a card", "driver": "1.2"},
            "date": "2026-01-02",
            "edgevae": "0.1",
            "cuda_build": "13.0",
            "torch": "2.13",
            "ceilings": {"copy_gb_s": 4300.0, "fp16_tflops": 790.0},
            "rows": [row],
            "frames": {"640x480": timing(140)},
            "checks": ["12 test files passed on the card"],
            "layers": ["the layers"],
        }
    )
    assert "a card, driver 1.2, 2026-01-02" in text
    assert "| encode | 1 | 32.0 | 33.0 | 80.0 | 81.0 | 2.50x | 40 us and 2.0x | 12.3 | 0.999990 |" in text
    assert "| 640x480 | 140 | 141 |" in text
    assert "copies at 4300 GB/s" in text
    assert text.endswith("the layers\n")


@pytest.mark.skipif(_core.cuda_build != "emulated", reason="wants the emulated build, see CONTRIBUTING.md")
def test_what_compute_sanitizer_watches(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def smaller(model: str, folder: Path) -> tuple[Path, str]:
        assert model == "random:8"
        return model_path("random:1", folder)

    model_path = script.model_path
    monkeypatch.setattr(script, "model_path", smaller)
    script.small_run()
