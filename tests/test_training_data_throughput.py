"""``python -m training throughput``: that it measures what it says, on whatever machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edgevae.errors import EdgevaeError
from training.throughput import Throughput, main

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about short runs


@pytest.fixture
def config(tmp_path: Path) -> Path:
    drives = {"kind": "synthetic", "seeds": [0, 1], "frames": 3, "height": 48, "hold_out": ["seed-1"]}
    document = {
        "model": {"model": "rgbd-vae", "options": {"width": 2, "latent_dim": 3, "size": 32}},
        "data": {"sets": [drives], "batch_size": 2, "workers": 0, "cache_dir": str(tmp_path / "cache")},
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_both_sources_take_turns(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--rounds", "2", "--steps", "3"]) == 0
    assert "of the throughput of a batch in memory" in capsys.readouterr().out
    assert main(["--config", str(config), "--rounds", "1", "--steps", "1", "--at-least", "1e9"]) == 1


def test_what_is_said() -> None:
    found = Throughput(50, loaded_s=[0.5, 0.4, 1.0], in_memory_s=[0.4, 0.4, 0.9], made_s=0.01)
    assert found.share == 0.9
    assert str(found) == (
        "90.0% of the throughput of a batch in memory (rounds: 80.0% to 100.0%): 100 and 125 frames a "
        "second. A step takes 400.0 ms, a batch of 50 is made in 10.00 ms."
    )


def test_what_cannot_be_measured(config: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgevaeError, match="rounds and --steps"):
        main(["--config", str(config), "--rounds", "0"])
    with pytest.raises(EdgevaeError, match="nowhere"):
        main(["--config", str(tmp_path / "nowhere.yaml")])
    config.write_text("model: 3")
    with pytest.raises(EdgevaeError, match=r"config\.yaml cannot be used"):
        main(["--config", str(config)])
    config.write_text("- a list")
    with pytest.raises(EdgevaeError, match=r"config\.yaml cannot be used"):
        main(["--config", str(config)])
