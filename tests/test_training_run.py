"""Runs from end to end: fit, resume, test, checkpoints, bad configs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import training
from edgevae.errors import ModelFileError
from training.__main__ import main
from training.task import OptimizerOptions, VAETask

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "training" / "configs"

# Lightning and torch warn about few workers, short epochs and their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _few_threads() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The smoke config, smaller, writing below ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEVAE_DATA", raising=False)
    document: dict[str, Any] = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    document["model"]["options"] |= {"width": 2, "latent_dim": 4, "size": 32}
    document["data"]["cache_dir"] = str(tmp_path / "cache")
    document["data"]["sets"][0] |= {"seeds": [0, 2], "frames": 4, "height": 60}
    document["data"]["batch_size"] = 2
    document["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    ema = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    pictures = {"class_path": "training.pictures.Pictures", "init_args": {"folder": "pictures"}}
    document["trainer"]["callbacks"] += [ema, pictures]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def logged(run: int, column: str) -> list[float]:
    lines = Path(f"runs/smoke/csv/version_{run}/metrics.csv").read_text().splitlines()
    index = lines[0].split(",").index(column)
    return [float(value) for line in lines[1:] if (value := line.split(",")[index])]


LAST = Path("runs/smoke/checkpoints/last.ckpt")


def test_fit_resume_and_test(config: Path) -> None:
    assert main(["fit", "--config", str(config)]) == 0
    first = torch.load(LAST, weights_only=True)
    assert first["epoch"] == 1
    steps = first["global_step"]
    assert steps == 4

    assert main(["fit", "--config", str(config), "--trainer.max_epochs", "3", "--ckpt_path", "last"]) == 0
    second = torch.load(LAST, weights_only=True)
    assert second["epoch"] == 2
    assert second["global_step"] == 6
    assert second["edgevae"]["elapsed_s"] > first["edgevae"]["elapsed_s"]
    assert logged(1, "epoch")[0] == 2.0
    optimizer = second["optimizer_states"][0]["state"][0]
    assert int(optimizer["step"]) == 6

    assert main(["test", "--config", str(config), "--ckpt_path", str(LAST)]) == 0
    tested = logged(2, "test/mse_per_image")
    assert tested == pytest.approx(logged(1, "val/mse_per_image"), rel=1e-4)
    assert logged(2, "test/drives-rgb-only/depth_absrel")[0] > 0
    assert {path.name for path in Path("pictures").iterdir()} == {
        "drives-epoch-0000.png",
        "drives-epoch-0002.png",
    }


def test_checkpoint_comes_back_as_a_model(config: Path) -> None:
    assert main(["fit", "--config", str(config), "--seed_everything", "5"]) == 0
    net = training.checkpoint.load(LAST)
    assert not net.training
    assert net.latent_dim == 4
    provenance = net.document()["provenance"]
    assert provenance["seed"] == 5
    assert provenance["command"].startswith("python -m training ")
    assert provenance["data"] == [
        {"name": "drives", "scenes": ["seed-0"], "licence": "none (rendered)", "pairs": 4}
    ]
    assert provenance["metrics"]["val_mse_per_image"] == pytest.approx(
        logged(0, "val/mse_per_image")[-1], rel=1e-3
    )
    # The averaged weights, not those of the last step
    saved = torch.load(LAST, weights_only=True)
    key = "net.encoder.0.weight"
    assert torch.equal(net.encoder[0].weight, saved["state_dict"][key])
    assert not torch.equal(net.encoder[0].weight, saved["current_model_state"][key])


def test_a_lost_run_stops_in_one_sentence(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["fit", "--config", str(config), "--model.optimizer.lr", "1e30", "--trainer.max_epochs", "20"]
    )
    assert code == 2
    error = capsys.readouterr().err
    assert "the loss is nan" in error
    assert "--model.optimizer.lr" in error
    if LAST.exists():
        assert all(torch.isfinite(p).all() for p in training.checkpoint.load(LAST).parameters())


def test_a_time_budget_ends_the_run(config: Path) -> None:
    arguments = ["--model.optimizer.budget_min", "0.00001", "--trainer.max_epochs", "500"]
    assert main(["fit", "--config", str(config), *arguments]) == 0
    saved = torch.load(LAST, weights_only=True)
    assert saved["epoch"] < 3
    assert logged(0, "train/lr")[-1] < 5e-4


def test_missing_data_ends_with_code_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(config.read_text())
    document["data"]["sets"] = [{"kind": "pairs", "path": "nowhere"}]
    config.write_text(yaml.safe_dump(document))
    assert main(["fit", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "nowhere does not exist" in error
    assert "EDGEVAE_DATA" in error


@pytest.mark.parametrize("name", ["default", "rgbd-vae", "smoke"])
def test_configs_are_valid(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "training", "fit"]
    command += ["--config", str(CONFIGS / f"{name}.yaml"), "--print_config"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    document = yaml.safe_load(done.stdout)
    net = training.models.build(document["model"]["model"], **document["model"]["options"])
    assert net.latent_dim == (16 if name == "smoke" else 400)


def test_the_published_recipe() -> None:
    document = yaml.safe_load((CONFIGS / "rgbd-vae.yaml").read_text())
    assert document["model"]["optimizer"] == {"lr": 1e-4}
    assert document["model"]["loss"] == {"sigma": 1.0, "beta": 1.0}
    assert document["data"]["batch_size"] == 50
    assert document["trainer"]["max_epochs"] == 200
    task = VAETask(options=document["model"]["options"] | {"width": 2})
    assert isinstance(task.configure_optimizers(), torch.optim.Adam)
    assert task.net.input.color == "minmax"
    assert not task.net.input.depth.metric


def test_learning_rate_over_the_run() -> None:
    cosine = OptimizerOptions(schedule="cosine", warmup=0.1)
    assert cosine.factor(0.05) == pytest.approx(0.5)
    assert cosine.factor(0.1) == pytest.approx(1.0)
    assert cosine.factor(0.55) == pytest.approx(0.5)
    assert cosine.factor(1.0) == pytest.approx(0.0)
    assert OptimizerOptions().factor(0.9) == 1.0
    assert all(math.isfinite(cosine.factor(i / 100)) for i in range(101))
    with pytest.raises(ValueError, match="schedule"):
        OptimizerOptions(schedule="linear")


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        training.checkpoint.load(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ModelFileError, match="cannot be read"):
        training.checkpoint.load(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ModelFileError, match="no checkpoint of edgevae"):
        training.checkpoint.load(tmp_path / "other.ckpt")
    net = training.models.build("rgbd-vae", width=2, latent_dim=3, size=32)
    about = training.checkpoint.describe(net, {})
    torch.save({"state_dict": {"net.x": torch.zeros(1)}, "edgevae": about}, tmp_path / "weights.ckpt")
    with pytest.raises(ModelFileError, match="do not fit"):
        training.checkpoint.load(tmp_path / "weights.ckpt")
    whole = tmp_path / "whole.ckpt"
    torch.save({"state_dict": net.state_dict(prefix="net."), "edgevae": about}, whole)
    assert training.checkpoint.load(whole).name == "rgbd-vae"
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:-500])
    with pytest.raises(ModelFileError, match="cannot be read"):
        training.checkpoint.load(tmp_path / "cut.ckpt")


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    torch.save({"edgevae": Trap(str(tmp_path / "ran")), "state_dict": {}}, tmp_path / "trap.ckpt")
    with pytest.raises(ModelFileError, match="cannot be read"):
        training.checkpoint.load(tmp_path / "trap.ckpt")
    assert not (tmp_path / "ran").exists()


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))
