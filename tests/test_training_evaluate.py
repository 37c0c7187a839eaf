"""Evaluations and calibrations: against plain NumPy, on frames made here and networks of a few weights."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from test_training_compare import HELD, SIZE, TRAIN, write_frames, write_run

import edgevae
from edgevae import known, model_file
from edgevae.preprocess import DepthEncoding, FloatArray, InputSpec, withhold
from training import baselines
from training.__main__ import main
from training.calibrate import error_percentiles
from training.evaluate import codecs, coverage, evaluate, judging, page, table
from training.evaluate.depth import GIVEN, HALF, NONE, hidden
from training.evaluate.opened import frames_of, opened, sets_of
from training.evaluate.score import Score

# The parser that reads a config's data section warns of its own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]

SPEC = InputSpec(4, SIZE, SIZE, depth=DepthEncoding("log", 0.25, 80.0, -1.5))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on walls that are a recording, of a model that knows a hole from a distance."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_frames(folder / "walls")
    depth = {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.5}
    write_run(folder / "run", folder / "walls", depth=depth)
    return folder / "run"


@pytest.fixture(scope="module")
def file(run: Path) -> Path:
    """Its model file, which knows its limits."""
    path = run.parent / "knowing.safetensors"
    assert main(["calibrate", str(run), "--sets", str(run / "config.yaml"), "-o", str(path)]) == 0
    return path


# --- what the encoder is given ---------------------------------------------------------------------


def test_half_is_half_of_the_cells_and_the_frames_own() -> None:
    shape = (5, 32, 48)
    masks = hidden(HALF, 3, shape)
    assert masks.mean((1, 2)).tolist() == [0.5] * 5
    cells = masks.reshape(5, 8, 4, 8, 6)
    assert (cells.all((2, 4)) | ~cells.any((2, 4))).all()
    np.testing.assert_array_equal(masks[2], hidden(HALF, 5, (1, 32, 48))[0])
    assert (masks[0] != masks[1]).any()
    assert hidden(NONE, 0, shape).all()
    assert not hidden(GIVEN, 0, shape).any()


def test_what_is_withheld_is_no_reading() -> None:
    x = np.zeros((2, 4, SIZE, SIZE), np.float32)
    missing = hidden(HALF, 0, (2, SIZE, SIZE))
    got = withhold(x, missing, SPEC)
    assert (got[:, 3][missing] == -1.5).all()
    assert (got[:, 3][~missing] == 0).all()
    assert (got[:, :3] == 0).all()
    assert (x == 0).all()


# --- the figures ---------------------------------------------------------------------------------


def test_figures_by_validity() -> None:
    spec = InputSpec(4, SIZE, SIZE, depth=DepthEncoding("linear", 1.0, 9.0))
    target = np.zeros((2, 4, SIZE, SIZE), np.float32)  # 5 m
    missing = hidden(HALF, 0, (2, SIZE, SIZE))
    valid = np.ones((2, SIZE, SIZE), np.bool_)
    valid[:, 0] = False
    y = target.copy()
    y[:, 3] = np.where(missing, 0.5, 0.25)  # 2 m too far where it was guessed, 1 m where it was seen
    y[:, 3, 0] = 1  # must not count
    score = Score(spec)
    score.update(y[:1], target[:1], valid[:1], missing[:1])
    score.update(y[1:], target[1:], valid[1:], missing[1:])
    got = score.figures()
    assert got["depth_absrel_guessed"] == pytest.approx(0.4, rel=1e-5)
    assert got["depth_absrel_seen"] == pytest.approx(0.2, rel=1e-5)
    assert got["depth_rmse_m_guessed"] == pytest.approx(2, rel=1e-5)
    share = missing[valid].mean()
    assert got["depth_absrel"] == pytest.approx(0.4 * share + 0.2 * (1 - share), rel=1e-5)
    assert len(score.errors) == 2
    assert got["mse_per_image"] == pytest.approx(np.mean(score.errors), rel=1e-6)


def test_packed_latents() -> None:
    z = np.random.default_rng(0).normal(0, 2, (3, 8)).astype(np.float32)
    assert [packed.bytes(400) for packed in judging.PACKED] == [1600, 800, 404]
    np.testing.assert_array_equal(judging.FLOAT32.through(z), z)
    np.testing.assert_array_equal(judging.FLOAT16.through(z), z.astype(np.float16))
    step = np.abs(z).max(1, keepdims=True) / 127
    assert (np.abs(judging.INT8.through(z) - z) <= 0.51 * step).all()
    assert len(np.unique(np.rint(judging.INT8.through(z) / step))) <= 24
    np.testing.assert_array_equal(judging.INT8.through(0 * z), 0 * z)


# --- codecs ----------------------------------------------------------------------------------------


def scene() -> tuple[FloatArray, np.ndarray]:
    noise = cv2.GaussianBlur(np.random.default_rng(3).random((SIZE, SIZE, 4)), (0, 0), 5)
    x = (2 * (noise - noise.min()) / np.ptp(noise) - 1).astype(np.float32).transpose(2, 0, 1)
    valid = np.ones((SIZE, SIZE), np.bool_)
    valid[:4] = False
    return x, valid


def test_codecs_keep_to_their_bytes_and_get_better_with_more() -> None:
    x, valid = scene()
    limits = (100, 700, 1200, 3000)
    found = codecs.at_most(limits, x, valid, SPEC)
    assert set(found) == {(codec, limit) for codec in ("JPEG", "WebP") for limit in limits}
    assert found["JPEG", 100] is None
    for codec in ("JPEG", "WebP"):
        errors = [
            float((((y - x) ** 2) * np.stack([valid | True] * 3 + [valid])).sum())
            for limit in limits
            if (y := found[codec, limit]) is not None
        ]
        assert errors == sorted(errors, reverse=True)
        best = found[codec, 3000]
        assert best is not None
        assert best.dtype == np.float32
        assert np.abs(best[3] - x[3])[valid].max() < 0.1
        assert np.abs(best[:3] - x[:3]).mean() < 0.03


def test_codecs_do_not_swap_colours_and_take_grey() -> None:
    x = np.zeros((3, SIZE, SIZE), np.float32)
    x[0], x[2] = 0.8, -0.8
    valid = np.ones((SIZE, SIZE), np.bool_)
    for y in codecs.at_most([5000], x, valid, InputSpec(3, SIZE, SIZE)).values():
        assert y is not None
        np.testing.assert_allclose(y.mean((1, 2)), [0.8, 0, -0.8], atol=0.03)
    for y in codecs.at_most([5000], x[:1], valid, InputSpec(1, SIZE, SIZE)).values():
        assert y is not None
        np.testing.assert_allclose(y, x[:1], atol=0.03)


# --- coverage --------------------------------------------------------------------------------------


def test_a_posterior_that_is_right_is_covered_and_a_narrow_one_is_not() -> None:
    # z ~ N(0, 1); the whole frame says z + noise of deviation a, part of it also noise of b.
    rng = np.random.default_rng(1)
    z = rng.standard_normal((4000, 6))
    whole, part = 0.3, 0.8
    seen = z + whole * rng.standard_normal(z.shape)
    less = seen + part * rng.standard_normal(z.shape)

    def posterior(x: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
        return x / (1 + variance), np.full_like(x, np.sqrt(variance / (1 + variance)))

    good = posterior(less, whole**2 + part**2)
    narrow = (good[0], good[1] / 3)
    found = coverage.of_latents({GIVEN: posterior(seen, whole**2), HALF: good, NONE: narrow})
    assert [each.what for each in found] == ["latents, depth half", "latents, depth none"]
    # Four deviations of a share of 24 000 draws.
    np.testing.assert_allclose(found[0].observed, coverage.NOMINAL, atol=0.013)
    assert found[0].spread == pytest.approx(1, abs=0.02)
    assert found[1].observed[2] < 0.6
    assert found[1].spread == pytest.approx(3, abs=0.06)


def test_latents_that_carry_nothing_do_not_count() -> None:
    dead = np.zeros((10, 4)), np.ones((10, 4))
    assert coverage.of_latents({GIVEN: dead, NONE: dead}) == []


def test_pixels_within_the_files_percentiles() -> None:
    rows = np.linspace(0, 1, 101)[None].repeat(3, 0).astype(np.float32)
    pixels = coverage.PixelCoverage(known.Errors(rows))
    pixels.update(known.DEPTH, np.array([0.1, 0.4, 0.7, 0.9], np.float32))
    pixels.update(known.DEPTH, np.array([0.99, 0.6], np.float32))
    (found,) = pixels.covered()
    assert found.what == "pixels, depth that was given"
    assert found.observed == pytest.approx((2 / 6, 4 / 6, 5 / 6))


# --- whole evaluations -----------------------------------------------------------------------------


def test_an_evaluation_of_a_run(file: Path, run: Path) -> None:
    with opened(file, 1) as found:
        data = sets_of(run / "config.yaml", found.model.spec.input)
        frames = data.held("walls")
        (judged,), notes, line = evaluate(found.model, {"walls": frames}, data, True)
        model = found.model
    assert notes == [
        "PCA and mean image: fitted to 9 training frames of walls.",
    ]
    assert isinstance(line, baselines.Projection)
    rows = {(row.name, row.depth, row.packed): row for row in judged.lines}
    assert [key[:2] for key in rows][:3] == [("rgbd-vae", GIVEN), ("rgbd-vae", HALF), ("rgbd-vae", NONE)]
    assert {row.kind for row in judged.lines} == {judging.MODEL, judging.LINE, judging.CODEC}
    assert {row.bytes for row in judged.lines if row.kind == judging.CODEC} == {12, 6, 7}
    assert all(
        row.figures == {} for row in judged.lines if row.kind == judging.CODEC
    )  # 12 bytes hold no picture

    # Every way of giving depth once more, from the frames themselves.
    items = [frames[i] for i in range(HELD)]
    target = torch.stack([item["target"] for item in items]).numpy()
    valid = torch.stack([item["valid"] for item in items]).numpy()
    for how in (GIVEN, HALF, NONE):
        missing = hidden(how, 0, valid.shape)
        z, std = model.posterior_tensor(withhold(target, missing, SPEC))
        y = model.decode_tensor(z)
        counts = np.concatenate([np.ones((HELD, 3, SIZE, SIZE)), valid[:, None]], 1)
        errors = ((y - target) ** 2 * counts).sum((1, 2, 3)) * 4 * SIZE**2 / counts.sum((1, 2, 3))
        row = rows["rgbd-vae", how, "float32"]
        np.testing.assert_allclose(row.errors, errors, rtol=1e-5)
        assert row.figures["posterior_std"] == pytest.approx(std.mean(), rel=1e-5)
        got, want = (SPEC.depth.to_metres(x[:, 3]) for x in (y, target))
        wanted = (np.abs(got - want) / want)[valid].mean()
        assert row.figures["depth_absrel"] == pytest.approx(wanted, rel=1e-4)
        assert ("depth_absrel_seen" in row.figures) == (how == HALF)
    assert rows["mean image", GIVEN, ""].bytes == 0
    names = [each.what for each in judged.covered]
    assert names[-3:] == [f"pixels, {what}" for what in coverage.PIXELS.values()]
    # The file's percentiles are of these very frames.
    for each in judged.covered[-3:]:
        np.testing.assert_allclose(each.observed, coverage.NOMINAL, atol=0.03)
    assert judged.novelty is not None
    assert judged.novelty.shape == (HELD,)
    assert "novelty" in table.text(judged)


def test_the_command_writes_a_page_that_needs_no_other_file(
    file: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = run.parent / "walls"
    arguments = ["evaluate", str(file), f"pairs:{frames}", str(frames), "--sets", str(run / "config.yaml")]
    arguments += ["--cache-dir", str(tmp_path / "cache2"), "--stride", "7", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "walls (5 frames)" in shown
    assert "share within" in shown
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [each["frames"] for each in found["sets"]] == [HELD, 2, 2]
    assert len({each["set"] for each in found["sets"]}) == 3
    assert all(len(row["errors"]) in (0, each["frames"]) for each in found["sets"] for row in each["rows"])
    html = (tmp_path / "out" / "evaluation.html").read_text()
    assert 'src="data:' in html
    assert "http" not in html.replace("http://www.w3.org", "")
    picture = cv2.imread(str(tmp_path / "out" / "evaluation-0.png"))
    assert picture is not None
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--no-codecs"]) == 0
    assert "WebP" not in capsys.readouterr().out


def test_a_run_brings_its_own_sets_and_a_checkpoint_is_exported(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    with opened(checkpoint, 1) as found:
        assert found.config is not None
        assert found.model.spec.latent_dim == 3
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(checkpoint.read_bytes())
    with opened(moved, 1) as found:
        assert found.config is None


def test_frames_without_depth_are_judged_as_that(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 40, 3), 60 * i + 50, np.uint8))
    with opened(file, 1) as found:
        sets = frames_of([f"images:{folder}"], found.model.spec.input, tmp_path / "cache")
        (judged,), notes, line = evaluate(found.model, sets, None, False)
        assert judged.depth == (NONE,)
        assert line is None
        assert "depth_absrel" not in judged.lines[0].figures
        assert "No principal components" in notes[0]
        light, _, _ = page.frames_of(judged, found.model, None)
    assert light.startswith(b"\x89PNG")


def test_models_without_depth_or_posterior(tmp_path: Path) -> None:
    write_frames(tmp_path / "walls", count=6)
    write_run(tmp_path / "run", tmp_path / "walls", model="conv-autoencoder", size=SIZE, latent_dim=4)
    with opened(tmp_path / "run", 1) as found:
        sets = frames_of([f"images:{tmp_path / 'walls' / 'color'}"], found.model.spec.input, tmp_path / "c")
        (judged,), _, _ = evaluate(found.model, sets, None, True)
        assert judged.depth == ("",)
        assert judged.covered == ()
        page.frames_of(judged, found.model, None)
    assert "posterior_std" not in judged.lines[0].figures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "comes with no frames"),
        (["MODEL", "pairs:nowhere"], "does not exist"),
        (["nowhere.safetensors", "x"], "nowhere.safetensors"),
        (["MODEL", "--sets", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["MODEL", "--sets", "EMPTY"], "no section 'data'"),
    ],
)
def test_errors_are_one_sentence(
    arguments: list[str],
    message: str,
    tiny_model_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.yaml").write_text(yaml.safe_dump({"model": {}}))
    places = {"MODEL": str(tiny_model_path), "EMPTY": str(tmp_path / "empty.yaml")}
    words = [places.get(word, word) for word in arguments]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_conditional_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tiny_model import tiny_document

    model_file.write(tmp_path / "m.safetensors", *tiny_document(condition=3))
    assert main(["evaluate", str(tmp_path / "m.safetensors"), "x", "-o", str(tmp_path / "out")]) == 2
    assert "training compare" in capsys.readouterr().err


# --- calibration -----------------------------------------------------------------------------------


def test_what_a_calibration_writes(file: Path, run: Path) -> None:
    document, tensors, _ = model_file.read(file)
    calibrated = {"held_out": {"walls": HELD}, "latents": 5, "recorded": 4, "deviation": 0}
    assert document["provenance"]["calibrated"] == calibrated  # training withheld nothing
    with opened(file, 1) as found:
        model = found.model
        data = sets_of(run / "config.yaml", model.spec.input)
        train = np.stack([data.trained("walls")[i]["target"].numpy() for i in range(TRAIN)])
    z = model.encode_tensor(train)
    np.testing.assert_allclose(tensors["novelty.latents"], z[::2], rtol=1e-5)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    away = 1 - (unit[1::2] @ unit[::2].T).max(1)
    np.testing.assert_allclose(
        tensors["novelty.percentiles"][0, [0, 50, 100]], np.percentile(away, (0, 50, 100)), atol=1e-6
    )
    # A frame that is kept is not new, one that is farther than all is.
    with edgevae.open_source(str(run.parent / "walls")) as source:
        frame = next(iter(source))
    assert model.novelty(frame.rgb, frame.depth, depth_scale=frame.depth_scale) == pytest.approx(0, abs=1)


def test_errors_are_those_of_the_pixels(file: Path, run: Path) -> None:
    with opened(file, 1) as found:
        data = sets_of(run / "config.yaml", found.model.spec.input)
        rows = error_percentiles(found.model, [data.held("walls")])
        y = np.concatenate(
            [judging.reconstructed(found.model, data.held("walls"), [i], GIVEN)[0] for i in range(HELD)]
        )
        target = np.stack([data.held("walls")[i]["target"].numpy() for i in range(HELD)])
        valid = np.stack([data.held("walls")[i]["valid"].numpy() for i in range(HELD)])
    away = np.abs(y - target)
    # 4096 drawn of the 3072 colour samples of each frame, and of some 1000 of depth.
    np.testing.assert_allclose(rows[0, 50], np.median(away[:, :3]), rtol=0.05)
    np.testing.assert_allclose(rows[1, 50], np.median(away[:, 3][valid]), rtol=0.05)


def test_calibrating_again_replaces(file: Path, run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    arguments = [
        "calibrate",
        str(file),
        "--sets",
        str(run / "config.yaml"),
        "--latents",
        "2",
        "-o",
        str(again),
    ]
    assert main(arguments) == 0
    _, tensors, _ = model_file.read(again)
    assert tensors["novelty.latents"].shape == (2, 3)


def test_calibrations_that_cannot_be(
    file: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(run / "config.yaml")
    out = ["-o", str(tmp_path / "out.safetensors")]
    for arguments, message in (
        ([str(file), "--sets", config, "--single", "walls", *out], "is a recording"),
        ([str(file), "--sets", config, "--latents", "0", *out], "wanted 1 or more"),
        ([str(file), "--sets", config, "-o", str(file)], "choose another name"),
    ):
        assert main(["calibrate", *arguments]) == 2
        told = io.StringIO(capsys.readouterr().err).readlines()[-1]
        assert message in told
    assert not (tmp_path / "out.safetensors").exists()
