"""Principal components: on sets with a known answer, against NumPy, and in the native engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import edgevae
from edgevae import export
from edgevae.preprocess import DepthEncoding, InputSpec
from training import baselines

SPEC = InputSpec(1, 4, 6)


def cloud(count: int, columns: int, sizes: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that vary along orthonormal directions with exactly these standard deviations, and those."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((columns, len(sizes))))[0].T
    codes = rng.standard_normal((count, len(sizes)))
    codes = np.linalg.qr(codes - codes.mean(0))[0] * np.sqrt(count)  # uncorrelated, of variance 1
    x = rng.standard_normal(columns) + (codes * sizes) @ directions
    return x.astype(np.float32), directions.astype(np.float32)


@pytest.mark.parametrize(("count", "columns"), [(200, 24), (20, 90), (40, 40)])
def test_known_directions(count: int, columns: int) -> None:
    x, directions = cloud(count, columns, [3.0, 2.0, 1.0, 0.1])
    mean, found = baselines.principal_components(x, 3)
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.abs(found @ directions[:3].T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)
    # What is left is what the fourth direction has: its variance.
    rest = x - mean - (x - mean) @ found.T @ found
    assert (rest**2).sum(1).mean() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("shape", [(9, 30), (30, 9)])
def test_errors_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    for count in (0, 1, 4, 8):
        mean, found = baselines.principal_components(x, count)
        rest = x - mean - (x - mean) @ found.T @ found
        assert (rest**2).sum() == pytest.approx((values[count:] ** 2).sum(), rel=1e-4, abs=1e-6)


def test_no_more_directions_than_there_are() -> None:
    x, _ = cloud(12, 24, [2.0, 1.0])
    assert baselines.principal_components(x, 20)[1].shape == (2, 24)
    assert baselines.principal_components(x[:1], 3)[1].shape == (0, 24)
    assert baselines.principal_components(np.ones((5, 24), np.float32), 3)[1].shape == (0, 24)
    assert baselines.principal_components(np.eye(3, dtype=np.float32), 3)[1].shape == (2, 3)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((50, 9), (9, 50)):
        x, _ = cloud(*shape, [3.0, 2.0, 1.0])
        whole = baselines.principal_components(x, 3)[1]
        monkeypatch.setattr(baselines, "_BLOCK", 7)
        parts = baselines.principal_components(x, 3)[1]
        monkeypatch.undo()
        np.testing.assert_allclose(np.abs(parts @ whole.T), np.eye(3), atol=1e-4)


def batches(x: np.ndarray, spec: InputSpec = SPEC) -> Iterator[torch.Tensor]:
    pictures = torch.from_numpy(x).reshape(-1, spec.channels, spec.height, spec.width)
    yield from pictures.split(5)


def test_projections_of_one_sample() -> None:
    x, _ = cloud(32, 24, [0.4, 0.2, 0.1, 0.05])
    sample = baselines.gather(batches(x), of=32, mirrored=False)
    np.testing.assert_array_equal(sample.x, x)
    assert str(sample) == "32 training frames"
    fitted = baselines.fit(sample, SPEC, [2, 0, 2, 9])
    assert [fitted[n].latent_dim for n in (0, 2, 9)] == [0, 2, 4]
    pictures = torch.from_numpy(x).reshape(-1, 1, 4, 6)
    for n, left in ((0, 0.2125), (2, 0.0125), (9, 0.0)):
        projection = fitted[n]
        z, std = projection.posterior_of(pictures)
        assert std is None
        assert z.shape == (32, projection.latent_dim)
        y = projection.decode(z)
        assert y.shape == pictures.shape
        assert float((y - pictures).square().sum() / 32) == pytest.approx(left, rel=1e-3, abs=1e-6)


def test_mirror_images_double_the_sample() -> None:
    x, _ = cloud(10, 24, [0.4, 0.2])
    sample = baselines.gather(batches(x), of=10, mirrored=True)
    assert sample.x.shape == (20, 24)
    assert (sample.frames, str(sample)) == (10, "10 training frames and their mirror images")
    np.testing.assert_array_equal(sample.x[10:].reshape(10, 4, 6), x.reshape(10, 4, 6)[..., ::-1])
    # Seen from both sides, the mean and the space of all directions are their own mirror images.
    projection = baselines.fit(sample, SPEC, [4])[4]
    mean = projection.mean.reshape(4, 6)
    torch.testing.assert_close(mean, mean.flip(1))
    pictures = torch.from_numpy(x).reshape(-1, 1, 4, 6)
    y = projection.decode(projection.posterior_of(pictures)[0])
    other = projection.decode(projection.posterior_of(pictures.flip(3))[0])
    torch.testing.assert_close(y.flip(3), other, atol=1e-4, rtol=0)


def test_large_sets_are_sampled_by_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_BYTES", 100 * 4 * 24)
    assert baselines.sampled(100, SPEC, False) == list(range(100))
    some = baselines.sampled(101, SPEC, False)
    assert len(set(some)) == 100
    assert some == sorted(some) == baselines.sampled(101, SPEC, False)
    assert some != baselines.sampled(101, SPEC, False, seed=1)
    assert len(baselines.sampled(101, SPEC, True)) == 50
    sample = baselines.Sample(np.zeros((100, 24), np.float32), 50, 101, True)
    assert str(sample) == "50 of 101 training frames and their mirror images"
    monkeypatch.setattr(
        baselines, "MAX_SIDE", 10
    )  # below the 24 numbers of a frame: the Gram matrix is bounded
    assert len(baselines.sampled(101, SPEC, False)) == 10


def test_the_same_frames_have_one_fingerprint() -> None:
    x, _ = cloud(10, 24, [0.4])
    first, second, other = (
        baselines.gather(batches(each), of=10, mirrored=False).fingerprint()
        for each in (x, x.copy(), x + 1e-3)
    )
    assert first == second != other


@pytest.mark.parametrize("channels", [1, 4])
def test_a_projection_runs_in_the_native_engine(tmp_path: Path, channels: int) -> None:
    spec = InputSpec(channels, 8, 12, depth=DepthEncoding("log", 0.25, 80.0) if channels == 4 else None)
    size = channels * 8 * 12
    x = np.random.default_rng(0).uniform(-1, 1, (30, size)).astype(np.float32)
    projection = baselines.fit(baselines.gather(batches(x, spec), 30, False), spec, [5])[5]
    pictures = x.reshape(30, channels, 8, 12)
    export.to_native(projection, tmp_path / "pca.safetensors", frames=pictures)
    model = edgevae.load(tmp_path / "pca.safetensors")
    assert (model.spec.macs_encode, model.spec.macs_decode) == (5 * size, 5 * size)
    z, _ = projection.posterior_of(torch.from_numpy(pictures))
    np.testing.assert_allclose(model.encode_tensor(pictures), z.numpy(), atol=1e-4)
    np.testing.assert_allclose(model.decode_tensor(z.numpy()), projection.decode(z).numpy(), atol=1e-5)
