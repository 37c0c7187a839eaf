"""The likelihood: missing depth counts nowhere, and sums stay comparable."""

from __future__ import annotations

import math

import pytest
import torch

from edgevae.preprocess import DepthEncoding, InputSpec
from training.losses import (
    LossOptions,
    kl_divergence,
    negative_log_likelihood,
    squared_error,
    vae_loss,
)
from training.metrics import Reconstruction

N, H, W = 3, 4, 6


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(N, 4, H, W) * 2 - 1, torch.rand(N, 4, H, W) * 2 - 1


def test_complete_images_give_the_plain_sum(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    y, target = pair
    valid = torch.ones(N, H, W, dtype=torch.bool)
    torch.testing.assert_close(squared_error(y, target, valid), (y - target).square().sum((1, 2, 3)))
    nll, sigmas = negative_log_likelihood(y, target, valid, valid, 1.0)
    torch.testing.assert_close(nll, 0.5 * (y - target).square().sum() / N)
    assert sigmas.tolist() == [1.0] * 3


@pytest.mark.parametrize("sigma", [1.0, 0.3, "optimal"])
def test_invalid_depth_has_no_say(pair: tuple[torch.Tensor, torch.Tensor], sigma: float | str) -> None:
    y, target = pair
    y.requires_grad_()
    valid = torch.rand(N, H, W) > 0.4
    valid[0] = False
    values = []
    for garbage in (-1.0, 1e3):
        dirty = target.clone()
        dirty[:, 3][~valid] = garbage
        nll, _ = negative_log_likelihood(y, dirty, valid, valid, sigma)
        values.append(nll)
        (gradient,) = torch.autograd.grad(nll, y)
        assert (gradient[:, 3][~valid] == 0).all()
        assert (gradient[:, 3][valid] != 0).all()
    assert values[0] == values[1]


def test_masked_sum_estimates_the_sum_of_the_complete_image() -> None:
    # An error of the same size everywhere: whatever part is valid, the sum must not change.
    y, target = torch.zeros(N, 4, H, W), torch.full((N, 4, H, W), 0.5)
    valid = torch.rand(N, H, W, generator=torch.Generator().manual_seed(0)) > 0.5
    valid[1] = False
    torch.testing.assert_close(squared_error(y, target, valid), torch.full((N,), 0.25 * 4 * H * W))


def test_optimal_sigma_is_the_root_mean_square_of_each_group() -> None:
    errors = {"color": 0.1, "seen": 0.02, "guessed": 0.3}
    target = torch.zeros(2, 4, H, W)
    y = torch.full_like(target, errors["color"])
    seen = torch.zeros(2, H, W, dtype=torch.bool)
    seen[0] = True
    y[0, 3], y[1, 3] = errors["seen"], errors["guessed"]
    valid = torch.ones_like(seen)
    nll, sigmas = negative_log_likelihood(y, target, valid, seen, "optimal")
    torch.testing.assert_close(sigmas, torch.tensor(list(errors.values())))
    counts = {"color": 6 * H * W, "seen": H * W, "guessed": H * W}
    expected = sum(counts[k] * (math.log(errors[k]) + 0.5 * math.log(2 * math.pi) + 0.5) for k in errors)
    assert nll.item() == pytest.approx(expected / 2, rel=1e-5)


def test_optimal_sigma_gives_the_highest_likelihood(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    y, target = pair
    y, target = y[:, :3], target[:, :3]
    valid = torch.zeros(N, H, W, dtype=torch.bool)
    best, sigmas = negative_log_likelihood(y, target, valid, valid, "optimal")
    constant = 0.5 * math.log(2 * math.pi) * 3 * H * W  # left out when sigma is fixed
    for factor in (0.9, 1.0, 1.1):
        other, _ = negative_log_likelihood(y, target, valid, valid, float(sigmas[0]) * factor)
        assert other + constant >= best - 1e-3


def test_kl_matches_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, std = torch.randn(5, 7), torch.rand(5, 7) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, std), expected)


def test_kl_weight_rises_to_beta(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    options = LossOptions(beta=0.5, kl_warmup_steps=100)
    assert [options.kl_weight(step) for step in (0, 50, 100, 1000)] == [0.0, 0.25, 0.5, 0.5]
    assert LossOptions(beta=2.0).kl_weight(0) == 2.0
    y, target = pair
    valid = torch.ones(N, H, W, dtype=torch.bool)
    mean, std = torch.ones(N, 2), torch.ones(N, 2)
    losses = [vae_loss(y, mean, std, target, valid, valid, options, step) for step in (0, 100)]
    assert (losses[1].total - losses[0].total).item() == pytest.approx(0.5 * 2 * 0.5, abs=1e-4)


@pytest.mark.parametrize("sigma", [0.0, -1.0, "best"])
def test_wrong_sigma_is_refused(sigma: float | str) -> None:
    with pytest.raises(ValueError, match="sigma"):
        LossOptions(sigma=sigma)


def test_metrics_of_known_errors() -> None:
    depth = DepthEncoding("linear", 1.0, 9.0)
    scores = Reconstruction(InputSpec(4, H, W, depth=depth))
    target = torch.zeros(2, 4, H, W)  # depth 0 in [-1, 1] is 5 m
    y = target.clone()
    y[:, :3] += 0.2
    y[:, 3] += 0.25  # 1 m too far
    valid = torch.ones(2, H, W, dtype=torch.bool)
    valid[:, 0] = False
    y[:, 3, 0] = 1.0  # must not count
    scores.update(y, target, valid)
    got = scores.compute()
    assert got["color_psnr"] == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-4)
    assert got["depth_rmse_m"] == pytest.approx(1.0, abs=1e-5)
    assert got["depth_absrel"] == pytest.approx(0.2, abs=1e-5)
    squares = 3 * H * W * 0.04 + (H - 1) * W * 0.0625
    assert got["mse_per_image"] == pytest.approx(squares * 4 * H / (4 * H - 1), rel=1e-5)
    scores.reset()
    relative = Reconstruction(InputSpec(4, H, W, "minmax", DepthEncoding("minmax")))
    relative.update(y, target, valid)
    assert set(relative.compute()) == {"mse_per_image", "color_psnr"}
