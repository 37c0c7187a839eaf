"""Comparisons: runs judged on held-out frames, beside straight lines, timed, and what is said of them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

import training
from edgevae.errors import EdgevaeError, ModelFileError
from edgevae.preprocess import FloatArray
from training import compare, compare_measure
from training.__main__ import main
from training.compare_plot import write_plot
from training.compare_rows import MEAN, PCA, RUN, Row, significant
from training.compare_table import Setting, Table, csv_rows, verdict

# The parser that reads a run's data section warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SIZE = 32
TRAIN, HELD = 9, 5


@pytest.fixture(autouse=True)
def _no_run_up(monkeypatch: pytest.MonkeyPatch, one_torch_thread: None) -> None:
    monkeypatch.setattr(compare_measure, "RUN_UP_NS", 0)


def write_frames(root: Path, count: int = TRAIN + HELD, seed: int = 0) -> None:
    """Pairs of blurred noise: a wall at 1 to 5 m, with a corner that has no reading."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        noise = cv2.GaussianBlur(rng.random((SIZE, SIZE, 4)), (0, 0), 4)
        noise = (noise - noise.min()) / np.ptp(noise)
        depth_mm = (1000 + 4000 * noise[..., 3]).astype(np.uint16)
        depth_mm[: i % 5, :6] = 0
        for folder, image in (("color", (255 * noise[..., :3]).astype(np.uint8)), ("depth", depth_mm)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / folder / f"{i:03d}.png"), image)


def write_run(
    folder: Path,
    data: Path,
    *,
    model: str = "rgbd-vae",
    frames: dict[str, Any] | None = None,
    seed: int = 0,
    mirror: float = 0.0,
    batch_size: int = 2,
    **options: Any,
) -> training.models.VAE:
    """A run of a model with random weights on the frames in ``data``."""
    torch.manual_seed(seed)
    if model == "rgbd-vae":
        options = {"width": 2, "latent_dim": 3, "size": SIZE} | options
    net = training.models.build(model, **options).eval()
    frames = frames or {"kind": "pairs", "hold_out_last": HELD}
    config = {
        "model": {"model": model, "options": options},
        "data": {
            "sets": [{"path": data.name, "name": "walls", **frames}],
            "root": str(data.parent),
            "cache_dir": str(data.parent / "cache"),
            "batch_size": batch_size,
            "augment": {"mirror": mirror},
        },
    }
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    about = training.checkpoint.describe(net, {})
    torch.save(
        {"state_dict": net.state_dict(prefix="net."), "edgevae": about}, folder / "checkpoints" / "best.ckpt"
    )
    return net


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_frames(tmp_path / "walls")
    return tmp_path / "walls"


def packed(folder: Path, net: training.models.VAE) -> tuple[FloatArray, FloatArray]:
    """The training and the held-out frames of a run, and whether depth is a reading, as rows."""
    module = training.runs.open_run(folder).datamodule(net)
    train = np.stack([item["input"].numpy() for item in (module.trained("walls")[i] for i in range(TRAIN))])
    held = np.stack([module.held("walls")[i]["input"].numpy() for i in range(HELD)])
    return train.reshape(TRAIN, -1), held.reshape(HELD, -1)


def test_runs_beside_principal_components(tmp_path: Path, data: Path) -> None:
    nets = {
        "small": write_run(tmp_path / "runs" / "small", data),
        "large": write_run(tmp_path / "runs" / "large", data, width=4, latent_dim=5, seed=1),
    }
    setting, tables = compare.compare(
        [tmp_path / "runs" / name for name in nets], sizes=[2, 40], rounds=3, budget_ms=1e6
    )
    assert setting.rounds == 3
    (table,) = tables
    assert (table.name, table.images) == ("walls", HELD)
    rows = {row.name: row for row in table.rows}
    assert list(rows) == ["small", "large", "mean image", "PCA 2", "PCA 3", "PCA 5", "PCA 8"]
    assert [row.kind for row in table.rows] == [RUN, RUN, MEAN, PCA, PCA, PCA, PCA]
    assert table.notes == (
        "PCA and mean image: fitted to 9 training frames.",
        "There is no PCA of 40 numbers: the training frames vary along 8 directions.",
    )

    # Each figure once more from the frames themselves.
    for name, net in nets.items():
        train, held = packed(tmp_path / "runs" / name, net)
        x = torch.from_numpy(held).reshape(HELD, 4, SIZE, SIZE)
        with torch.no_grad():
            y, _, mean, std = net(x)
        valid = x[:, 3:] > -1
        counts = torch.cat([torch.ones(HELD, 3, SIZE, SIZE), valid.float()], 1)
        errors = ((y - x) ** 2 * counts).sum((1, 2, 3)) * 4 * SIZE**2 / counts.sum((1, 2, 3))
        figures = rows[name].figures
        np.testing.assert_allclose(rows[name].errors, errors.numpy(), rtol=1e-5)
        assert figures["mse_per_image"] == pytest.approx(float(errors.mean()), rel=1e-5)
        kl = 0.5 * (mean**2 + std**2 - 1) - std.log()
        assert figures["kl"] == pytest.approx(float(kl.sum(1).mean()), rel=1e-5)
        assert figures["active_units"] == int((mean.var(0, correction=0) > 0.01).sum())
        assert {"color_psnr", "ssim", "depth_rmse_m", "depth_absrel", "depth_delta1"} < set(figures)
    middle = train.mean(0)
    directions = np.linalg.svd(train - middle, full_matrices=False)[2]
    for size in (0, 2, 3, 5, 8):
        y = middle + (held - middle) @ directions[:size].T @ directions[:size]
        weights = counts.reshape(HELD, -1).numpy()
        errors = ((y - held) ** 2 * weights).sum(1) * 4 * SIZE**2 / weights.sum(1)
        row = rows[f"PCA {size}" if size else "mean image"]
        np.testing.assert_allclose(row.errors, errors, rtol=1e-3)
        assert "kl" not in row.figures
        assert row.latent_bytes == 4 * size

    # Products and parameters by hand. Encoder of width 2: 4x4 convolutions to 16, 8, 4, 2 and 1 pixels a
    # side; decoder: 3x3 convolutions to 2, 4, 8, 16 and 32.
    encode = 16 * (16**2 * 4 * 2 + 8**2 * 2 * 4 + 4**2 * 4 * 8 + 2**2 * 8 * 16 + 16 * 16) + 16 * 6
    decode = 3 * 16 + 9 * (2**2 * 16 * 16 + 4**2 * 16 * 8 + 8**2 * 8 * 4 + 16**2 * 4 * 2 + 32**2 * 2 * 4)
    weights_down = 16 * (4 * 2 + 2 * 4 + 4 * 8 + 8 * 16 + 16 * 16) + (2 + 4 + 8 + 16 + 16) + 16 * 6 + 6
    weights_up = 3 * 16 + 16 + 9 * (16 * 16 + 16 * 8 + 8 * 4 + 4 * 2 + 2 * 4) + (16 + 8 + 4 + 2 + 4)
    small = rows["small"]
    assert (small.macs_encode, small.macs_decode) == (encode, decode) == (61_536, 138_288)
    assert small.parameters == weights_down + weights_up
    pixels = 4 * SIZE**2
    line = rows["PCA 3"]
    assert (line.macs_encode, line.macs_decode, line.parameters) == (3 * pixels, 3 * pixels, 7 * pixels + 3)

    timed = [row for row in table.rows if row.kind != MEAN]
    assert all(row.encode_ms > 0 and row.decode_ms > 0 for row in timed)
    assert min(row.encode_ratio for row in timed) == min(row.decode_ratio for row in timed) == 1
    assert small.decode_ratio == small.decode_ms / min(row.decode_ms for row in timed)
    assert rows["mean image"].encode_ms is rows["mean image"].macs_encode is None
    assert table.best() in (small, rows["large"])


def test_frames_that_differ_are_never_ranked_together(tmp_path: Path, data: Path) -> None:
    write_frames(tmp_path / "other" / "walls", seed=5)
    write_run(tmp_path / "a" / "run", data)
    write_run(tmp_path / "b" / "run", data, latent_dim=2, batch_size=3)
    write_run(tmp_path / "c", tmp_path / "other" / "walls")  # other frames under the same name
    write_run(tmp_path / "d", data, size=64)  # the same frames at another size
    write_run(tmp_path / "e", data, channels=3)
    folders = [tmp_path / name for name in ("a/run", "b/run", "c", "d", "e", "a/../c")]
    _, tables = compare.compare(folders, rounds=1)
    runs = [[row.name for row in table.rows if row.kind == RUN] for table in tables]
    assert runs == [[str(tmp_path / "a/run"), str(tmp_path / "b/run")], ["c"], ["d"], ["e"]]
    assert len({table.fingerprint for table in tables}) == 4
    lines = [[row.name for row in table.rows if row.kind == PCA] for table in tables]
    assert lines == [["PCA 2", "PCA 3"], ["PCA 3"], ["PCA 3"], ["PCA 3"]]
    assert "depth_rmse_m" not in tables[3].rows[0].figures
    assert all("depth RMSE" in str(table) for table in tables[:3])
    assert "depth" not in str(tables[3])


def test_each_run_has_the_line_of_its_own_training_frames(tmp_path: Path, data: Path) -> None:
    write_run(tmp_path / "plain", data)
    write_run(tmp_path / "mirrored", data, mirror=0.5, latent_dim=2)
    _, (table,) = compare.compare([tmp_path / "plain", tmp_path / "mirrored"], rounds=1)
    names = [row.name for row in table.rows]
    assert names[:3] == ["plain", "mirrored", "mean image of plain"]
    assert {"PCA 3 of plain", "PCA 2 of mirrored", "mean image of mirrored"} < set(names)
    assert "PCA 2 of plain" not in names
    assert table.notes[1] == (
        "PCA and mean image of mirrored: fitted to 9 training frames and their mirror images."
    )


def test_conditional_and_plain_autoencoders(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for label in ("left", "right"):
        folder = tmp_path / "kinds" / label
        folder.mkdir(parents=True)
        for i in range(5):
            cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (8, 8, 3), np.uint8))
    frames = {"kind": "classes", "parts": [0.6, 0.4], "size": [8, 8]}
    size: dict[str, Any] = {"size": 8, "channels": 3}
    kinds = tmp_path / "kinds"
    told = write_run(
        tmp_path / "told", kinds, model="conditional-vae", frames=frames, hidden=[6], condition_dim=2, **size
    )
    write_run(tmp_path / "many", kinds, model="conditional-vae", frames=frames, condition_dim=3, **size)
    write_run(
        tmp_path / "plain",
        kinds,
        model="conv-autoencoder",
        frames=frames,
        latent_dim=4,
        widths=[3, 5],
        **size,
    )
    _, (table,) = compare.compare([tmp_path / "told", tmp_path / "plain"], rounds=1)
    first, plain = table.rows[:2]
    assert {"kl", "active_units"} < set(first.figures)
    assert not {"kl", "active_units"} & set(plain.figures)
    assert "plain" in str(table)
    assert table.notes[0] == "told is given the class of each frame, 2 numbers, beside its latent."

    held = training.runs.open_run(tmp_path / "told").datamodule(told).held("walls")
    items = [held[i] for i in range(len(held))]
    x = torch.stack([item["input"] for item in items])
    condition = torch.eye(2)[[int(item["label"]) for item in items]]
    with torch.no_grad():
        right, wrong = (((told(x, c).y - x) ** 2).sum((1, 2, 3)) for c in (condition, 1 - condition))
    np.testing.assert_allclose(first.errors, right.numpy(), rtol=1e-5)
    assert (right != wrong).all()
    assert first.macs_encode == (3 * 64 + 2) * 6 + 6 * 4
    assert first.encode_ms is not None
    with pytest.raises(EdgevaeError, match=r"run many: .* 3 classes, the data has 2"):
        compare.compare([tmp_path / "many"])
    with pytest.raises(EdgevaeError, match="has no class"):
        compare_measure.condition_of(told, {"label": torch.tensor([0, -1])})


def test_models_take_turns() -> None:
    calls: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def operations(self) -> tuple[Callable[[], None], Callable[[], None]]:
            return (lambda: calls.append(f"{self.name} encode")), (
                lambda: calls.append(f"{self.name} decode")
            )

    models: Any = {0: Fake("a"), 1: Fake("b")}
    elapsed = compare_measure.timed(models, rounds=4)
    assert {key: each.shape for key, each in elapsed.items()} == {0: (2, 4), 1: (2, 4)}
    assert all((each >= 0).all() for each in elapsed.values())
    assert sorted(calls) == sorted(["a encode", "a decode", "b encode", "b decode"] * 4)
    assert [calls[4 * i] for i in range(4)] == ["a encode", "a decode", "b encode", "b decode"]


# --- what is said ------------------------------------------------------------------------------

SETTING = Setting("best", 1, 30, "avx2", "P", None)


def row(
    name: str, mse: float, ms: float = 1.0, latent_dim: int = 20, kind: str = RUN, **figures: float
) -> Row:
    return Row(
        name=name,
        kind=kind,
        model="beta-vae" if kind == RUN else "",
        latent_dim=latent_dim,
        latent_bytes=4 * latent_dim,
        figures={"mse_per_image": mse, "grey_psnr": 20.0, "ssim": 0.9} | figures,
        errors=np.full(4, mse),
        parameters=1000,
        macs_encode=int(1e6 * ms),
        macs_decode=int(1e6 * ms),
        encode_ms=ms / 2,
        encode_ratio=ms,
        decode_ms=ms / 2,
        decode_ratio=ms,
    )


def table_of(*rows: Row, budget_ms: float | None = None, threads: int = 1) -> Table:
    setting = replace(SETTING, budget_ms=budget_ms, threads=threads)
    return Table("digits", 4, "f", rows, (), setting)


LARGE = row("large", 40.0, 3.0, latent_dim=40, kl=25.0, active_units=30)
SMALL = row("small", 50.0, 1.0, kl=12.5, active_units=11)
LINES = row("PCA 20", 80.0, 0.1, kind=PCA), row("PCA 40", 60.0, 0.2, latent_dim=40, kind=PCA)


def test_the_best_and_why() -> None:
    assert verdict(table_of(SMALL, LARGE, *LINES)) == (
        "large is the best of 2 runs: it reconstructs with 20 % less squared error than small, the next (on "
        "100 % of the images), at 3.0x its time, 3.0x its products and 2.0x its latent size. 30 of 40 "
        "latents carry its picture (25.0 nats), 11 of 20 latents carry that of small (12.5 nats). large has "
        "33 % less squared error than PCA 40, a straight line."
    )


def test_the_best_within_a_budget() -> None:
    third = row("third", 55.0, 1.5)
    found = table_of(LARGE, third, SMALL, *LINES, budget_ms=2.0, threads=2)
    best = found.best()
    assert best is SMALL
    said = verdict(found)
    assert said.startswith("small is the best of 2 runs within 2 ms (encode and decode, 2 threads): ")
    assert "9.1 % less squared error than third" in said
    assert "11 of 20 latents carry its picture (12.5 nats). large has 20 % less" in said
    assert "large has 20 % less squared error, and takes 3.00 ms." in said
    assert "small has 38 % less squared error than PCA 20" in said  # not PCA 40, which has more numbers
    assert verdict(table_of(LARGE, SMALL, budget_ms=1.0)).startswith("small is the only run within 1 ms")


def test_a_budget_that_no_run_meets() -> None:
    found = table_of(LARGE, SMALL, *LINES, budget_ms=0.5)
    assert found.best() is None
    said = "No run is within 0.5 ms (encode and decode, 1 thread); the fastest is small with 1.00 ms."
    assert verdict(found) == said
    assert said in str(found)
    assert found.document()["best"] is None


def test_a_straight_line_that_wins() -> None:
    line = row("PCA 20", 30.0, 0.1, kind=PCA)
    assert verdict(table_of(LARGE, SMALL, line)).endswith(
        "A straight line beats every run: PCA 20 has 25 % less squared error than large."
    )
    weak = row("weak", 90.0, 0.5)
    assert verdict(table_of(LARGE, weak, *LINES, budget_ms=1.0)).endswith(
        "A straight line beats it: PCA 20 has 11 % less squared error than weak."
    )


def test_an_autoencoder_has_no_nats() -> None:
    plain = row("plain", 30.0, 1.0)
    said = verdict(table_of(plain, SMALL))
    assert "nats" not in said
    assert verdict(table_of(SMALL, row("other", 90.0))).endswith(
        "11 of 20 latents carry its picture (12.5 nats)."
    )
    assert "KL" not in str(table_of(plain))
    assert verdict(table_of(plain)) == "plain is the only run."


def test_a_mean_image_is_never_timed(tmp_path: Path) -> None:
    mean = Row("mean image", MEAN, "", 0, 0, {"mse_per_image": 200.0}, np.full(4, 200.0))
    assert mean.total_ms == math.inf
    found = table_of(SMALL, mean, budget_ms=2.0)
    assert [line.split("  ")[0] for line in str(found).splitlines()[1:4]] == ["", "*", ""]
    write_plot([found], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_errors_and_times_of_any_size(tmp_path: Path) -> None:
    perfect = row("perfect", 0.0, 1e-3), row("equal", 0.0, 1e4)
    found = table_of(*perfect, row("wild", 1e12, 1.0), row("PCA 20", 0.0, 1.0, kind=PCA))
    assert "perfect is the best of 3 runs: it reconstructs with 0 % less squared error" in verdict(found)
    write_plot([found, table_of(SMALL)], tmp_path / "plot.png")
    names = [row(f"a run with a long name, {i}", 50.0, 1.0) for i in range(12)]  # more than find a place
    write_plot([table_of(*names)], tmp_path / "plot.png")


def test_tables_as_text() -> None:
    found = table_of(SMALL, LARGE, *LINES)
    lines = str(found).splitlines()
    assert lines[0] == "digits (4 held-out images)"
    assert lines[1].split("  ")[-1].strip() == "×"
    assert lines[3].startswith("*  large")
    assert len({len(line) for line in lines[1:6]}) == 1
    page = found.markdown()
    assert (
        "| **large** | beta-vae | 1.00 k | 3.00 | 3.00 | 40 | 160 | 40.00 | 20.00 | 0.900 | 25.0 | 30 |"
        in page
    )
    head, *rows = csv_rows([found])
    assert len({len(each) for each in (head, *rows)}) == 1
    assert rows[2][head.index("name")] == "PCA 20"
    assert rows[2][head.index("kl")] == ""
    assert rows[1][head.index("kl")] == 25.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (16560.4, "16560"), (98.654, "98.7"), (0.01234, "0.0123"), (1.0, "1.00"), (math.nan, "nan")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


# --- the command -------------------------------------------------------------------------------


def test_the_command_writes_its_files(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "one", data)
    out = tmp_path / "made" / "here"
    arguments = [str(tmp_path / "one"), "-o", str(out), "--rounds", "1"]
    assert main(["compare", *arguments]) == 0
    told = capsys.readouterr()
    assert "one is the only run" in told.out
    assert told.out.count("\n*") == 1
    assert "exporting PCA 3" in told.err
    assert sorted(path.name for path in out.iterdir()) == [
        f"compare.{x}" for x in ("csv", "json", "md", "png")
    ]
    document = json.loads((out / "compare.json").read_text())
    (found,) = document["tables"]
    assert found["best"] == "one"
    assert [each["name"] for each in found["rows"]] == ["one", "mean image", "PCA 3"]
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert float(rows[0]["mse_per_image"]) == found["rows"][0]["figures"]["mse_per_image"]
    assert "| **one** |" in (out / "compare.md").read_text()
    picture = cv2.imread(str(out / "compare.png"))
    assert picture is not None
    assert picture.shape[1] > 1000

    # Again, over the old files, with a bound that nothing meets.
    more = [
        "--latency-ms",
        "1e-6",
        "--baseline",
        "pca:1",
        "--baseline",
        "pca",
        "--threads",
        "2",
        "--checkpoint",
        "best",
    ]
    assert compare.main([*arguments, *more]) == 0
    assert "No run is within 1e-06 ms (encode and decode, 2 threads)" in capsys.readouterr().out
    assert "PCA 1" in (out / "compare.md").read_text()
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "RUN"),
        (["x", "--latency-ms", "0"], "positive number"),
        (["x", "--latency-ms", "nan"], "positive number"),
        (["x", "--latency-ms", "fast"], "'fast'"),
        (["x", "--rounds", "0"], "from 1"),
        (["x", "--baseline", "pca:0"], "pca:50"),
        (["x", "--baseline", "svd"], "pca:50"),
        (["x", "--checkpoint", "newest"], "best, last"),
        (["x", "--threads", "two"], "'two', wanted a number from 1 to 256"),
        (["x", "--threads", "257"], "'257'"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_what_is_no_run_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(tmp_path / "none")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: run none: ")
    assert "does not exist" in last
    write_run(tmp_path / "good", data)
    with pytest.raises(EdgevaeError, match=r"run walls: .*config.yaml"):
        compare.compare([tmp_path / "good", data])
    with pytest.raises(EdgevaeError, match=r"run none: .*does not exist"):
        compare.compare([tmp_path / "none"])
    with pytest.raises(EdgevaeError, match=r"run good: .*last.ckpt does not exist"):
        compare.compare([tmp_path / "good"], checkpoint="last")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(EdgevaeError, match=str(file)):
        compare.main([str(tmp_path / "good"), "-o", str(file)])


def test_a_run_whose_data_is_gone(tmp_path: Path, data: Path) -> None:
    write_run(tmp_path / "run", data)
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(EdgevaeError, match=r"run run: .*walls does not exist.*EDGEVAE_DATA"):
        compare.compare([tmp_path / "run"])


def test_a_checkpoint_of_another_architecture(tmp_path: Path, data: Path) -> None:
    write_run(tmp_path / "run", data)
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["edgevae"]["options"]["width"] = 4
    torch.save(saved, path)
    with pytest.raises(EdgevaeError, match=r"run run: the weights .* do not fit") as caught:
        compare.compare([tmp_path / "run"])
    assert isinstance(caught.value.__cause__, ModelFileError)


def test_weights_that_are_no_numbers(tmp_path: Path, data: Path) -> None:
    write_run(tmp_path / "run", data)
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    saved = torch.load(path, weights_only=True)
    next(iter(saved["state_dict"].values())).fill_(math.nan)
    torch.save(saved, path)
    with pytest.raises(EdgevaeError, match=r"run run: "):
        compare.compare([tmp_path / "run"], rounds=1)
