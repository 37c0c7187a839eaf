"""Runs from end to end: fit, resume, test, checkpoints, bad configs."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import training
from edgevae.errors import ModelFileError
from training.__main__ import main
from training.data.sets import SetOptions
from training.runs import RunError, open_run
from training.task import OptimizerOptions, VAETask

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "training" / "configs"

# Lightning and torch warn about few workers, short epochs and their own deprecations.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_torch_thread")]


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
    document["run"] |= {"folder": "run", "average": 0.9, "keep_every": 2, "pictures_every": 2}
    document["trainer"]["enable_progress_bar"] = False
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def fit(config: Path, *arguments: object) -> int:
    return main(["fit", "--config", str(config), *map(str, arguments)])


def column(name: str) -> list[float]:
    return [row[name] for row in open_run("run").metrics() if name in row]


LAST = Path("run/checkpoints/last.ckpt")


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["current_model_state"]
    return state


def test_fit_resume_and_test(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(config) == 0
    first = torch.load(LAST, weights_only=True)
    assert (first["epoch"], first["global_step"]) == (1, 4)

    assert fit(config) == 2  # nothing is lost by a second one
    assert "run holds a run; go on with it by --ckpt_path last" in capsys.readouterr().err
    assert torch.load(LAST, weights_only=True)["global_step"] == 4

    assert fit(config, "--trainer.max_epochs", 3, "--ckpt_path", "last") == 0
    second = torch.load(LAST, weights_only=True)
    assert (second["epoch"], second["global_step"]) == (2, 6)
    assert second["edgevae"]["elapsed_s"] > first["edgevae"]["elapsed_s"]
    assert int(second["optimizer_states"][0]["state"][0]["step"]) == 6

    run = open_run("run")
    assert [(row["epoch"], row["step"]) for row in run.metrics()] == [(1, 2), (2, 4), (3, 6)]
    for name in ("train/loss", "train/nll", "train/kl", "train/kl_weight", "train/sigma_color", "val/loss"):
        assert len(column(name)) == 3, name
    assert list(run.epochs()) == [2]
    assert {path.name for path in Path("run/pictures").iterdir()} == {
        "drives-epoch-0001.png",
        "drives-epoch-0003.png",
    }
    assert main(["test", "--config", str(config), "--ckpt_path", str(LAST)]) == 0
    tested = json.loads(Path("run/test.json").read_text())
    assert tested["test/mse_per_image"] == pytest.approx(column("val/mse_per_image")[-1], rel=1e-4)
    assert tested["test/drives-rgb-only/depth_absrel"] > 0


def test_the_last_epoch_is_kept_also_where_it_is_not_the_best(config: Path) -> None:
    # What never falls below its first value: the first epoch stays the best.
    constant = ["--model.optimizer.schedule", "constant", "--run.monitor", "train/lr"]
    assert fit(config, *constant, "--trainer.max_epochs", 3) == 0
    assert torch.load(LAST.with_name("best.ckpt"), weights_only=True)["epoch"] == 0
    assert torch.load(LAST, weights_only=True)["epoch"] == 2
    assert fit(config, *constant, "--trainer.max_epochs", 4, "--ckpt_path", "last") == 0
    assert [row["epoch"] for row in open_run("run").metrics()] == [1, 2, 3, 4]
    assert torch.load(LAST.with_name("best.ckpt"), weights_only=True)["epoch"] == 0


def test_overwrite_begins_anew(config: Path) -> None:
    assert fit(config) == 0
    assert fit(config, "--run.overwrite", "true", "--trainer.max_epochs", 1) == 0
    run = open_run("run")
    assert [row["epoch"] for row in run.metrics()] == [1]
    assert run.epochs() == {}
    assert run.config["trainer"]["max_epochs"] == 1


def test_a_resumed_run_is_the_run_that_never_stopped(config: Path) -> None:
    """Bit for bit: weights, averages, and the table; the same with loader processes."""
    constant = ["--model.optimizer.schedule", "constant"]  # others depend on how long the run is to be
    assert fit(config, *constant, "--trainer.max_epochs", 4, "--run.folder", "whole") == 0
    for epochs in (1, 3, 4):
        resume = ["--ckpt_path", "last"] if epochs > 1 else []
        assert fit(config, *constant, "--trainer.max_epochs", epochs, "--data.workers", 2, *resume) == 0
    whole, parts = (
        torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True) for folder in ("whole", "run")
    )
    for key in ("state_dict", "current_model_state"):
        assert whole[key].keys() == parts[key].keys()
        for name, value in whole[key].items():
            assert torch.equal(value, parts[key][name]), name
    assert open_run("whole").metrics() == open_run("run").metrics()


def test_other_seeds_give_other_weights(config: Path) -> None:
    found = []
    for seed in (1, 2, 1):
        assert fit(config, "--seed_everything", seed, "--run.overwrite", "true") == 0
        found.append(weights(LAST)["net.encoder.0.weight"])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_checkpoint_comes_back_as_a_model(config: Path) -> None:
    assert fit(config, "--seed_everything", 5) == 0
    net = open_run("run").net("last")
    assert not net.training
    assert net.latent_dim == 4
    provenance = net.document()["provenance"]
    assert provenance["seed"] == 5
    assert provenance["command"].startswith("python -m training ")
    assert provenance["data"] == [
        {"name": "drives", "scenes": ["seed-0"], "licence": "none (rendered)", "pairs": 4}
    ]
    assert provenance["metrics"]["val_mse_per_image"] == pytest.approx(
        column("val/mse_per_image")[-1], rel=1e-3
    )
    # The averaged weights, not those of the last step
    key = "net.encoder.0.weight"
    assert torch.equal(net.encoder[0].weight, torch.load(LAST, weights_only=True)["state_dict"][key])
    assert not torch.equal(net.encoder[0].weight, weights(LAST)[key])


def test_a_run_gives_its_data_again(config: Path) -> None:
    assert fit(config) == 0
    run = open_run("run")
    net = run.net()
    data = run.datamodule(net)
    assert data.names == ["drives"]
    held = data.held("drives")
    assert len(held) == 4
    assert held[0]["input"].shape == (4, 32, 32)
    assert run.name == "run"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: shutil.rmtree(run), "does not exist; wanted the folder of a run"),
        (lambda run: (run / "config.yaml").unlink(), "holds no config.yaml"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), "cannot be read"),
        (lambda run: (run / "config.yaml").write_text("a: 1"), "has no model and data"),
        (lambda run: (run / "metrics.csv").write_text("epoch,x\n1,yes\n"), "wanted numbers"),
        (lambda run: (run / "metrics.csv").unlink(), "has not finished an epoch"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint, did its first epoch end"),
        (lambda run: (run / "checkpoints" / "best.ckpt").unlink(), "has checkpoints last"),
        (lambda run: (run / "config.yaml").write_text("model: {}\ndata: {sets: 5}"), "describes no data set"),
    ],
)
def test_a_damaged_run_is_one_sentence(damage: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {}\ndata: {}")
    (run / "metrics.csv").write_text("epoch,x\n1,2\n")
    net = training.models.build("rgbd-vae", width=2, latent_dim=3, size=32)
    saved = {"state_dict": net.state_dict(prefix="net."), "edgevae": training.checkpoint.describe(net, {})}
    for name in ("best", "last"):
        torch.save(saved, run / "checkpoints" / f"{name}.ckpt")
    assert open_run(run).net().name == "rgbd-vae"
    damage(run)
    with pytest.raises(RunError, match=says):  # noqa: PT012
        opened = open_run(run)
        opened.metrics()
        opened.datamodule(opened.net())


def test_a_lost_run_stops_in_one_sentence(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(config) == 0
    before = LAST.read_bytes()
    code = fit(config, "--model.optimizer.lr", 1e30, "--trainer.max_epochs", 20, "--ckpt_path", "last")
    assert code == 2
    error = capsys.readouterr().err
    assert re.search(r"error: the (loss|gradient's norm) is (nan|inf|-inf) at step \d+ \(likelihood", error)
    assert f"{LAST} is from before and whole; lower --model.optimizer.lr" in error
    assert error.count("\n") == 1
    assert LAST.read_bytes() != before or open_run("run").metrics()[-1]["epoch"] == 2
    assert all(torch.isfinite(value).all() for value in weights(LAST).values())
    assert all(torch.isfinite(p).all() for p in open_run("run").net("last").parameters())


def test_a_gradient_that_is_no_number_reaches_no_weight(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[torch.Tensor] = []

    def broken(self: VAETask, *args: Any) -> None:
        parameter = next(self.net.parameters())
        if self.global_step == 3:
            assert parameter.grad is not None
            parameter.grad[0] = torch.nan
            before.append(parameter.detach().clone())
            nets.append(self.net)
        original(self, *args)

    nets: list[torch.nn.Module] = []
    original = VAETask.on_before_optimizer_step
    monkeypatch.setattr(VAETask, "on_before_optimizer_step", broken)
    assert fit(config) == 2
    assert "the gradient's norm is nan at step 3" in capsys.readouterr().err
    assert torch.equal(next(nets[0].parameters()), before[0])
    assert torch.load(LAST, weights_only=True)["epoch"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_go_on(config: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "training", "fit", "--config", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--trainer.max_epochs", "100000"], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        end = time.monotonic() + 120
        while not LAST.exists() and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(number)
        try:
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    how = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}[number]
    assert said.splitlines()[-1] == f"{how}; {LAST} is whole, go on with --ckpt_path last."
    done = torch.load(LAST, weights_only=True)["epoch"] + 1
    assert fit(config, "--trainer.max_epochs", done + 1, "--ckpt_path", "last") == 0
    assert torch.load(LAST, weights_only=True)["epoch"] == done


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_stay_those_of_the_start(
    config: Path, frozen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Through validation, the end of an epoch, and a resumption, which does not start again."""
    options = ["--model.start", "linear", "--model.start_frames", 8, "--model.freeze_norm", frozen]
    options += ["--run.average", 0, "--run.keep_every", 1]
    assert fit(config, *options, "--trainer.max_epochs", 1) == 0
    assert "principal components of 8 training frames" in caplog.text
    caplog.clear()
    assert fit(config, *options, "--trainer.max_epochs", 3, "--ckpt_path", "last") == 0
    assert "principal components" not in caplog.text
    first, last = (
        torch.load(Path("run/checkpoints") / name, weights_only=True)["state_dict"]
        for name in ("epoch-0001.ckpt", "last.ckpt")
    )
    names = [name for name in first if "running" in name]
    assert names
    assert all(torch.equal(first[name], last[name]) for name in names) == frozen
    assert not torch.equal(first["net.encoder.0.weight"], last["net.encoder.0.weight"])


def test_only_a_linear_start_has_statistics_to_keep() -> None:
    with pytest.raises(ValueError, match=r"freeze_norm keeps statistics .*set start: linear"):
        VAETask(freeze_norm=True)


def test_early_stop(config: Path) -> None:
    # Nothing is learned at this rate.
    arguments = ["--run.early_stop", 2, "--model.optimizer.lr", 1e-12, "--run.average", 0]
    assert fit(config, *arguments, "--trainer.max_epochs", 50) == 0
    assert len(open_run("run").metrics()) < 50


def test_a_time_budget_ends_the_run(config: Path) -> None:
    assert fit(config, "--model.optimizer.budget_min", 0.00001, "--trainer.max_epochs", 500) == 0
    assert torch.load(LAST, weights_only=True)["epoch"] < 3
    assert column("train/lr")[-1] < 5e-4


def test_a_trial_of_a_few_batches_keeps_nothing(config: Path) -> None:
    assert fit(config, "--trainer.fast_dev_run", 1) == 0
    assert not Path("run").exists()


@pytest.mark.parametrize("start", ["random", "linear"])
def test_two_processes_train_one_model(config: Path, start: str) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    command += ["-m", "training", "fit", "--config", str(config), "--trainer.devices", "2"]
    command += ["--model.start", start, "--model.start_frames", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--trainer.strategy", "ddp"], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    saved = torch.load(LAST, weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (1, 2)  # half as many steps an epoch
    rows = open_run("run").metrics()
    assert [row["epoch"] for row in rows] == [1, 2]
    # What validation says of both processes' halves is what one process says of the whole.
    assert main(["test", "--config", str(config), "--ckpt_path", str(LAST)]) == 0
    tested = json.loads(Path("run/test.json").read_text())
    for name in ("mse_per_image", "kl", "active_units", "drives/ssim"):
        assert tested[f"test/{name}"] == pytest.approx(rows[-1][f"val/{name}"], rel=1e-4), name
    assert fit(config, "--ckpt_path", "last", "--trainer.max_epochs", 3) == 0  # and goes on in one


def test_missing_data_ends_with_code_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(config.read_text())
    document["data"]["sets"] = [{"kind": "pairs", "path": "nowhere"}]
    config.write_text(yaml.safe_dump(document))
    assert fit(config) == 2
    error = capsys.readouterr().err
    assert "nowhere does not exist" in error
    assert "EDGEVAE_DATA" in error


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in ("fit", "test", "report", "compare", "throughput"))
    assert main([]) == 2


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(path), "--print_config"])
    assert end.value.code == 0
    document = yaml.safe_load(capsys.readouterr().out)
    net = training.models.build(document["model"]["model"], **document["model"]["options"] or {})
    for options in document["data"]["sets"]:
        SetOptions(**options)
    assert document["run"]["folder"] == f"runs/{path.stem}"
    assert bool(net.condition_dim) == (net.name == "conditional-vae")


def test_the_published_recipe() -> None:
    document = yaml.safe_load((CONFIGS / "rgbd-vae.yaml").read_text())
    assert document["model"]["optimizer"] == {"lr": 1e-4}
    assert document["model"]["loss"] == {"sigma": 1.0}
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
