"""What a model file knows of its limits: bounds of decoded depth, and what is new."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import tiny_document

import edgevae
from edgevae import info, known, model_file
from edgevae.engines import CpuEngine
from edgevae.errors import EdgevaeError, ModelFileError
from edgevae.preprocess import DepthEncoding
from edgevae.quantize import quantize_file

LATENT = 8
ERRORS = np.outer([0.5, 0.2, 0.4], np.linspace(0, 1, 101)).astype(np.float32)


def frames(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return rgb, rng.uniform(0.5, 9, (count, 32, 32)).astype(np.float32)


def knowing() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The tiny model, with errors and with the latents of four frames as what it has seen."""
    document, tensors = tiny_document()
    model = edgevae.Model(document, tensors, "", "", CpuEngine(1, "", None))
    rgb, depth = frames(4)
    tensors["seen"] = model.encode(rgb, depth)
    steps = np.linspace(0, 1, 101, dtype=np.float32)
    tensors["far"] = np.stack([0.2 * steps, 0.4 * steps])
    tensors["errors"] = ERRORS
    document |= {"errors": "errors", "novelty": {"latents": "seen", "percentiles": "far"}}
    return document, tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    document, tensors = knowing()
    model_file.write(tmp_path / "knowing.safetensors", document, tensors)
    return tmp_path / "knowing.safetensors"


@pytest.mark.parametrize(
    "encoding",
    [DepthEncoding("log", 0.25, 80.0), DepthEncoding("linear", 0.5, 9.0), DepthEncoding("inverse", 0.5, 9.0)],
    ids=lambda e: e.encoding,
)
def test_bounds_are_the_errors_in_metres(encoding: DepthEncoding) -> None:
    errors = known.Errors(ERRORS)
    depth_m = np.array([[1.0, 2.0], [4.0, 8.0]], np.float32)
    given = np.array([[True, False], [True, False]])
    near, far = errors.depth_bounds(depth_m, encoding, 0.5, given)
    assert near.dtype == far.dtype == np.float32
    x = encoding.to_network(depth_m)
    reach = np.where(given, 0.1, 0.2)  # half of the largest error
    ends = np.sort([encoding.to_metres(x - reach), encoding.to_metres(x + reach)], axis=0)
    np.testing.assert_allclose([near, far], ends, rtol=1e-5)
    assert (near <= depth_m * 1.0001).all()
    assert (far >= depth_m * 0.9999).all()


def test_bounds_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    seen, new = np.abs(rng.standard_t(3, (2, 20_000)))  # heavier tails than a Gaussian's
    rows = np.percentile(seen, known.PERCENTS)[None].repeat(3, axis=0).astype(np.float32)
    for coverage in (0.5, 0.9):
        inside = (new <= known.Errors(rows).within(coverage, known.DEPTH)).mean()
        assert inside == pytest.approx(coverage, abs=0.02)  # four deviations of a share of 20 000


def test_bounds_of_a_model(path: Path) -> None:
    model = edgevae.load(path, threads=1)
    out = model.decode(np.zeros(LATENT, np.float32))
    assert out.depth is not None
    near, far = model.depth_bounds(out.depth)
    guessed_near, guessed_far = model.depth_bounds(out.depth, given=False)
    assert near.shape == out.depth.shape
    assert (guessed_near <= near).all()
    assert (near <= out.depth * 1.0001).all()
    assert (out.depth <= far * 1.0001).all()
    assert (far <= guessed_far).all()
    for coverage in (0, 1, np.nan):
        with pytest.raises(EdgevaeError, match="wanted a share"):
            model.depth_bounds(out.depth, coverage=coverage)


def test_what_was_seen_is_not_new(path: Path) -> None:
    model = edgevae.load(path, threads=1)
    rgb, depth = frames(4)
    seen = model.novelty(rgb, depth)
    assert seen.shape == (4,)
    np.testing.assert_allclose(seen, 0, atol=0.01)
    one = model.novelty(rgb[0], depth[0])
    assert one.shape == ()
    assert one == seen[0]
    # Distances below 0.2 with depth are percentiles of twice as many without.
    z = model.encode(rgb, depth) + np.float32(0.1)
    away = model.seen.distances(z)
    cosines = (z @ model.encode(rgb, depth).T) / np.outer(
        np.linalg.norm(z, axis=1), np.linalg.norm(model.encode(rgb, depth), axis=1)
    )
    np.testing.assert_allclose(away, 1 - cosines.max(1), atol=1e-6)
    scores = model.seen.scores(z, np.array([True, True, False, False]))
    np.testing.assert_allclose(scores, np.minimum(100, away * [500, 500, 250, 250]), atol=0.01)
    assert model.seen.scores(-z, np.ones(4, bool)).max() == 100


def test_frames_with_hardly_any_depth_count_as_having_some(path: Path) -> None:
    model = edgevae.load(path, threads=1)
    rgb, _ = frames(1, seed=5)
    empty, one = np.zeros((32, 32), np.uint16), np.zeros((32, 32), np.uint16)
    one[0, 0] = 1000
    assert model.novelty(rgb[0], empty) == model.novelty(rgb[0])
    with_depth = model.seen.scores(model.encode(rgb[0], one)[None], np.array([True]))
    assert model.novelty(rgb[0], one) == with_depth[0]


def test_a_model_that_does_not_know_says_so(model: edgevae.Model) -> None:
    rgb, depth = frames(1)
    with pytest.raises(EdgevaeError, match="training calibrate"):
        model.novelty(rgb[0], depth[0])
    with pytest.raises(EdgevaeError, match="training calibrate"):
        model.depth_bounds(depth[0])


def test_latents_of_zeros_are_at_distance_one() -> None:
    zero = known.directions(np.zeros((1, 3), np.float32))
    np.testing.assert_array_equal(known.nearest(zero, known.directions(np.ones((2, 3), np.float32))), [1])


def test_what_is_known_is_no_weight(path: Path) -> None:
    _, tensors = tiny_document()
    about = info.describe(path)
    assert about["parameters"] == sum(t.size for t in tensors.values())
    assert (about["errors"], about["novelty"]) == (True, 4)
    info.show(about)


def test_int8_and_fp16_keep_it(path: Path, tmp_path: Path) -> None:
    with edgevae.open_source("synthetic:0?frames=16") as source:
        quantize_file(path, tmp_path / "int8.safetensors", list(source))
    document, tensors, _ = model_file.read(path)
    model_file.write(tmp_path / "half.safetensors", document | {"precision": "fp16"}, tensors)
    rgb, depth = frames(4)
    for name in ("int8", "half"):
        model = edgevae.load(tmp_path / f"{name}.safetensors", threads=1)
        assert model.novelty(rgb, depth).max() < 5
        np.testing.assert_allclose(model.errors.percentiles, ERRORS, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"errors": "nothing"}, "names the tensor 'nothing', which is not in the file"),
        ({"errors": "far"}, r"errors has the shape \(2, 101\), wanted \(3, 101\)"),
        ({"errors": 3}, "errors is 3, wanted the name of a tensor"),
        ({"novelty": {"latents": "seen"}}, "novelty has no key 'percentiles'"),
        ({"novelty": {"latents": "errors", "percentiles": "far"}}, r"wanted \(n, 8\)"),
        ({"novelty": {"latents": "seen", "percentiles": "errors"}}, r"wanted \(2, 101\)"),
        ({"limits": {}}, "unknown key 'limits'"),
    ],
)
def test_lies_are_refused(change: dict[str, Any], message: str) -> None:
    document, tensors = knowing()
    with pytest.raises(ModelFileError, match=message):
        model_file.validate(document | change, tensors)


@pytest.mark.parametrize("value", [-1.0, 3.0, np.nan])
def test_percentiles_that_fall_are_refused(value: float) -> None:
    document, tensors = knowing()
    tensors["errors"] = tensors["errors"].copy()
    tensors["errors"][1, 50 if value > 0 or np.isnan(value) else 0] = value
    with pytest.raises(ModelFileError, match="falls or is negative"):
        model_file.validate(document, tensors)


def test_files_without_either_stay_as_they_were() -> None:
    document, tensors = tiny_document()
    model_file.validate(copy.deepcopy(document), tensors)
    assert model_file.known_tensors(document) == []
