"""The figures: each against plain NumPy, over uneven batches, and over processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from edgevae.preprocess import DepthEncoding, InputSpec
from training.metrics import (
    EDGE_REACH_PX,
    LatentFigures,
    Reconstruction,
    edge_error_px,
    minmax_error,
    ms_ssim,
    ssim,
)

N, H, W = 7, 12, 16
LOG = DepthEncoding("log", 0.25, 80.0)
BATCHES = (slice(0, 3), slice(3, 6), slice(6, 7))  # the last one is smaller

Frames = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def frames(channels: int) -> Frames:
    """Reconstructions, targets, and where depth is a reading; invalid depth is garbage."""
    random = torch.Generator().manual_seed(1)
    target = torch.rand(N, channels, H, W, generator=random) * 2 - 1
    y = (target + 0.2 * torch.randn(target.shape, generator=random)).clamp(-1, 1)
    valid = torch.rand(N, H, W, generator=random) > 0.3
    if channels == 4:
        target[:, 3][~valid] = -1
        valid[2] = False  # an image without any depth
    return y, target, valid


def batched(scores: Reconstruction, y: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
    for part in BATCHES:
        scores.update(y[part], target[part], valid[part])


@pytest.mark.parametrize(("channels", "name"), [(1, "grey_psnr"), (3, "color_psnr"), (4, "color_psnr")])
def test_figures_are_those_of_numpy(channels: int, name: str) -> None:
    spec = InputSpec(channels, H, W, depth=LOG if channels == 4 else None)
    y, target, valid = frames(channels)
    scores = Reconstruction(spec)
    batched(scores, y, target, valid)
    got = scores.compute()

    a, b, mask = y.double().numpy(), target.double().numpy(), valid.numpy()
    counts = np.ones((N, channels, H, W))
    if channels == 4:
        counts[:, 3] = mask
    squares = ((a - b) ** 2 * counts).sum((1, 2, 3)) * channels * H * W / counts.sum((1, 2, 3))
    color = ((a - b) ** 2)[:, :3].mean((1, 2, 3))
    wanted = {
        "mse_per_image": squares.mean(),
        name: (10 * np.log10(4 / color)).mean(),
        "ssim": float(ssim((y[:, :3] + 1) / 2, (target[:, :3] + 1) / 2).mean()),
    }
    if channels == 4:
        metres = [0.25 * np.exp((x[:, 3] + 1) / 2 * math.log(80 / 0.25)) for x in (a, b)]
        far, true = (m[mask] for m in metres)
        wanted |= {
            "depth_rmse_m": math.sqrt(((far - true) ** 2).mean()),
            "depth_absrel": (np.abs(far - true) / true).mean(),
            "depth_delta1": (np.maximum(far / true, true / far) < 1.25).mean(),
        }
        assert 0.1 < wanted["depth_delta1"] < 0.9
    assert set(got) == set(wanted)
    # The network's numbers and metres are float32: 6e-8 each, a few of them in a row.
    assert got == pytest.approx(wanted, rel=2e-6)


def test_known_errors() -> None:
    scores = Reconstruction(InputSpec(4, H, W, depth=DepthEncoding("linear", 1.0, 9.0)))
    target = torch.zeros(2, 4, H, W)  # depth 0 in [-1, 1] is 5 m
    y = target.clone()
    y[:, :3] += 0.2
    y[0, 3] += 0.25  # 1 m too far
    y[1, 3] -= 0.5  # 2 m too near: 5 / 3 is beyond 1.25
    valid = torch.ones(2, H, W, dtype=torch.bool)
    valid[:, 0] = False
    y[:, 3, 0] = 1.0  # must not count
    scores.update(y, target, valid)
    got = scores.compute()
    assert got["color_psnr"] == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-4)
    assert got["depth_rmse_m"] == pytest.approx(math.sqrt(2.5), abs=1e-5)
    assert got["depth_absrel"] == pytest.approx(0.3, abs=1e-5)
    assert got["depth_delta1"] == pytest.approx(0.5)
    squares = 3 * H * W * 0.04 + (H - 1) * W * (0.0625 + 0.25) / 2
    assert got["mse_per_image"] == pytest.approx(squares * 4 * H / (4 * H - 1), rel=1e-5)


def test_depth_that_is_not_metric_has_no_metres() -> None:
    scores = Reconstruction(InputSpec(4, H, W, "minmax", DepthEncoding("minmax")))
    scores.update(*frames(4))
    assert set(scores.compute()) == {"mse_per_image", "color_psnr", "ssim"}


def test_no_reading_anywhere_leaves_depth_out() -> None:
    y, target, valid = frames(4)
    scores = Reconstruction(InputSpec(4, H, W, depth=LOG))
    scores.update(y, target, torch.zeros_like(valid))
    assert set(scores.compute()) == {"mse_per_image", "color_psnr", "ssim"}


def test_reset_forgets() -> None:
    y, target, valid = frames(3)
    scores = Reconstruction(InputSpec(3, H, W))
    scores.update(y, target, valid)
    first = scores.compute()
    scores.reset()
    scores.update(torch.zeros_like(y), target, valid)
    scores.reset()
    batched(scores, y, target, valid)
    assert scores.compute() == pytest.approx(first, rel=1e-9)


def test_a_perfect_picture() -> None:
    _, target, valid = frames(3)
    scores = Reconstruction(InputSpec(3, H, W))
    scores.update(target, target, valid)
    got = scores.compute()
    assert got["ssim"] == pytest.approx(1.0, abs=1e-6)
    assert got["mse_per_image"] == 0
    assert math.isfinite(got["color_psnr"])


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3), (7, 20), (10, 11), (11, 11), (28, 20), (33, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_torchmetrics(size: tuple[int, int], channels: int) -> None:
    random = torch.Generator().manual_seed(0)
    target = torch.rand(3, channels, *size, generator=random)
    y = (target + 0.3 * torch.rand(target.shape, generator=random)).clamp(0, 1)
    window = min(11, min(size) - 1 + min(size) % 2)
    wanted = structural_similarity_index_measure(
        y, target, sigma=1.5 * window / 11, data_range=1.0, reduction="none"
    )
    got = ssim(y, target)
    assert got.shape == (3,)
    # Variances are differences of float32 sums, 1e-7, beside constants of 1e-4 and 9e-4.
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ssim(y, target), got)


def posterior() -> tuple[torch.Tensor, torch.Tensor]:
    """Two dimensions vary with the data, one hardly, one is the prior's."""
    random = torch.Generator().manual_seed(2)
    mean = torch.randn(N, 4, generator=random) * torch.tensor([2.0, 0.3, 0.03, 0.0]) + 5
    mean[:, 3] = 0
    std = torch.rand(N, 4, generator=random) + 0.05
    std[:, 3] = 1
    return mean, std


def test_latent_figures_are_those_of_numpy() -> None:
    mean, std = posterior()
    figures = LatentFigures()
    for part in BATCHES:
        figures.update(mean[part], std[part])
    m, s = mean.double().numpy(), std.double().numpy()
    kl = (0.5 * (m**2 + s**2 - 1) - np.log(s)).mean(0)
    assert (m.var(0) > 0.01).sum() == 2
    assert figures.compute() == pytest.approx({"kl": kl.sum(), "active_units": 2.0}, rel=1e-9)
    np.testing.assert_allclose(figures.kl_per_dim().numpy(), kl, rtol=1e-9, atol=1e-12)
    assert figures.kl_per_dim()[3] == 0
    figures.reset()
    figures.update(mean[:1], std[:1])
    assert figures.compute()["active_units"] == 0


def test_figures_over_two_processes() -> None:
    y, target, valid = frames(4)
    mean, std = posterior()
    parts = []
    for mine in (BATCHES[::2], BATCHES[1::2]):  # four images here, three there
        scores, figures = Reconstruction(InputSpec(4, H, W, depth=LOG)), LatentFigures()
        for part in mine:
            scores.update(y[part], target[part], valid[part])
            figures.update(mean[part], std[part])
        parts.append((scores, figures))
    for one, other in zip(*parts, strict=True):
        one.merge_state(other)  # reduces each state as torchmetrics does with those of all processes
    got = parts[0][0].compute() | parts[0][1].compute()
    scores, figures = Reconstruction(InputSpec(4, H, W, depth=LOG)), LatentFigures()
    batched(scores, y, target, valid)
    figures.update(mean, std)
    assert got == pytest.approx(scores.compute() | figures.compute(), rel=1e-9)


def test_ms_ssim_is_that_of_torchmetrics_but_for_borders() -> None:
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 24, 24, generator=random)
    target = torch.nn.functional.interpolate(coarse, size=192, mode="bicubic").clamp(0, 1)
    y = (target + 0.1 * torch.randn(target.shape, generator=random)).clamp(0, 1)
    wanted = multiscale_structural_similarity_index_measure(y, target, data_range=1.0, reduction=None)
    # torchmetrics leaves a border of five pixels out at each scale but the last.
    torch.testing.assert_close(ms_ssim(y, target), wanted, atol=5e-3, rtol=0)
    assert (ms_ssim(y, target) > ssim(y, target) + 0.2).all()


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (28, 20), (128, 128)])
def test_ms_ssim_of_any_size(size: tuple[int, int]) -> None:
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(ms_ssim(1 - x, x) < 0.9, torch.tensor([True, True]))


def test_published_error_stretches_by_the_originals_range() -> None:
    spec = InputSpec(4, H, W, depth=DepthEncoding("linear", 1.0, 9.0))
    y, target, valid = frames(4)
    a, b, mask = y.double().numpy(), target.double().numpy(), valid.numpy()
    wanted = np.zeros(N)
    for n in range(N):
        for channel in range(4):
            where = mask[n] if channel == 3 else np.ones((H, W), bool)
            if not where.any():
                continue
            got, want = a[n, channel][where], b[n, channel][where]
            low, high = want.min(), want.max()
            got, want = (np.clip(2 * (v - low) / (high - low) - 1, -1, 1) for v in (got, want))
            wanted[n] += ((got - want) ** 2).sum()
        wanted[n] *= 4 * H * W / (3 * H * W + mask[n].sum())
    # Linear depth stretches as metres do, which are float32.
    np.testing.assert_allclose(minmax_error(y, target, valid, spec).numpy(), wanted, rtol=1e-5)


def test_published_error_of_a_flat_channel_is_zero_and_of_stretched_models_the_plain_one() -> None:
    y, target, valid = frames(3)
    target[:, 1] = 0.5
    plain = minmax_error(y[:, [0, 2]], target[:, [0, 2]], valid, InputSpec(3, H, W))
    got = minmax_error(y, target, valid, InputSpec(3, H, W))
    torch.testing.assert_close(got, plain)
    y, target, valid = frames(4)
    spec = InputSpec(4, H, W, "minmax", DepthEncoding("minmax"))
    scores = Reconstruction(spec)
    scores.update(y, target, valid)
    got = minmax_error(y, target, valid, spec)
    assert float(got.mean()) == pytest.approx(scores.compute()["mse_per_image"], rel=1e-6)


def box(left: int, size: int = 64) -> np.ndarray:
    """A wall at 2 m that begins at column ``left``, 4 m beyond it."""
    metres = np.full((size, size), 2.0, np.float32)
    metres[:, left:] = 4.0
    return metres


def test_edges_of_depth() -> None:
    whole = np.ones((64, 64), bool)
    assert edge_error_px(box(30), box(30), whole) == 0
    assert edge_error_px(box(33), box(30), whole) == pytest.approx(3)
    assert edge_error_px(box(50), box(30), whole) == EDGE_REACH_PX
    assert edge_error_px(10 * box(33), 10 * box(30), whole) == pytest.approx(3)  # parts of the distance
    flat = np.full((64, 64), 3.0, np.float32)
    assert edge_error_px(flat, box(30), whole) == EDGE_REACH_PX
    assert edge_error_px(box(30), flat, whole) is None
    hole = whole.copy()
    hole[:, 25:36] = False
    assert edge_error_px(box(33), box(30), hole) is None
