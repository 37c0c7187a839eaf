"""Likelihoods and KL treatments: missing depth counts nowhere, sums stay comparable, formulas hold."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch

from training.losses import (
    KLOptions,
    Likelihood,
    LossOptions,
    kl_divergence,
    squared_error,
    vae_loss,
)
from training.models import Output

N, H, W = 3, 4, 6


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(N, 4, H, W) * 2 - 1, torch.rand(N, 4, H, W) * 2 - 1


def output(y: torch.Tensor, mean: torch.Tensor | None = None, std: torch.Tensor | None = None) -> Output:
    mean = torch.zeros(len(y), 2) if mean is None else mean
    return Output(y, torch.atanh(y.clamp(-1 + 1e-6, 1 - 1e-6)), mean, std)


def nll_of(
    y: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor,
    seen: torch.Tensor,
    sigma: float | str = 1.0,
    likelihood: str = "gaussian",
) -> tuple[torch.Tensor, dict[str, float]]:
    loss: tuple[torch.Tensor, dict[str, float]] = Likelihood(LossOptions(likelihood, sigma))(
        output(y), target, valid, seen
    )
    return loss


def test_complete_images_give_the_plain_sum(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    y, target = pair
    valid = torch.ones(N, H, W, dtype=torch.bool)
    torch.testing.assert_close(squared_error(y, target, valid), (y - target).square().sum((1, 2, 3)))
    nll, sigmas = nll_of(y, target, valid, valid, 1.0)
    torch.testing.assert_close(nll, 0.5 * (y - target).square().sum() / N)
    assert sigmas == {"color": 1.0, "depth": 1.0, "guessed": 1.0}
    nll, sigmas = nll_of(y, target, valid, valid, likelihood="mse")
    torch.testing.assert_close(nll, (y - target).square().sum() / N)
    assert not sigmas


@pytest.mark.parametrize(
    ("likelihood", "sigma"),
    [
        ("gaussian", 1.0),
        ("gaussian", 0.3),
        ("gaussian", "optimal"),
        ("gaussian", "learned"),
        ("bernoulli", 1.0),
        ("mse", 1.0),
    ],
)
def test_invalid_depth_has_no_say(
    pair: tuple[torch.Tensor, torch.Tensor], likelihood: str, sigma: float | str
) -> None:
    y, target = pair
    y = (0.9 * y).requires_grad_()
    valid = torch.rand(N, H, W) > 0.4
    valid[0] = False
    values = []
    for garbage in (-1.0, 1.0):
        dirty = target.clone()
        dirty[:, 3][~valid] = garbage
        nll, _ = nll_of(y, dirty, valid, valid, sigma, likelihood)
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
    nll, sigmas = nll_of(y, target, valid, seen, "optimal")
    assert list(sigmas) == ["color", "depth", "guessed"]
    assert list(sigmas.values()) == pytest.approx(list(errors.values()), rel=1e-5)
    counts = {"color": 6 * H * W, "seen": H * W, "guessed": H * W}
    expected = sum(counts[k] * (math.log(errors[k]) + 0.5 * math.log(2 * math.pi) + 0.5) for k in errors)
    assert nll.item() == pytest.approx(expected / 2, rel=1e-5)


def test_optimal_sigma_gives_the_highest_likelihood(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    y, target = pair
    y, target = y[:, :3], target[:, :3]
    valid = torch.zeros(N, H, W, dtype=torch.bool)
    best, sigmas = nll_of(y, target, valid, valid, "optimal")
    constant = 0.5 * math.log(2 * math.pi) * 3 * H * W  # left out when sigma is fixed
    for factor in (0.9, 1.0, 1.1):
        other, _ = nll_of(y, target, valid, valid, sigmas["color"] * factor)
        assert other + constant >= best - 1e-3


def test_kl_matches_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, std = torch.randn(5, 7), torch.rand(5, 7) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, std).sum(1), expected)


def test_the_kl_weight_over_the_run() -> None:
    warm = KLOptions(beta=0.5, warmup_steps=100)
    assert [warm.weight(step) for step in (0, 50, 100, 1000)] == [0.0, 0.25, 0.5, 0.5]
    assert KLOptions(beta=2.0).weight(0) == 2.0
    cyclic = KLOptions(beta=2.0, warmup_steps=50, cycle_steps=100)
    assert [cyclic.weight(step) for step in (0, 25, 50, 99, 100, 125)] == [0.0, 1.0, 2.0, 2.0, 0.0, 1.0]


def test_what_each_kl_treatment_adds() -> None:
    kl = torch.tensor([[0.1, 3.0], [0.3, 5.0]])  # of two images: 0.2 and 4 nats
    assert KLOptions(beta=0.5).term(kl, 0).item() == pytest.approx(0.5 * 4.2)
    assert KLOptions(free_bits=1.0).term(kl, 0).item() == pytest.approx(1.0 + 4.0)
    wide = KLOptions(beta=10.0, capacity=6.0, warmup_steps=100)
    assert wide.term(kl, 0).item() == pytest.approx(10 * 4.2)
    assert wide.term(kl, 100).item() == pytest.approx(10 * (6.0 - 4.2))


def test_a_latent_with_free_bits_is_not_pulled() -> None:
    mean, std = torch.full((4, 1), 0.1, requires_grad=True), torch.ones(4, 1)
    for free_bits, pulled in ((0.0, True), (1.0, False)):
        term = KLOptions(free_bits=free_bits).term(kl_divergence(mean, std), 0)
        (gradient,) = torch.autograd.grad(term, mean)
        assert bool(gradient.any()) == pulled


def test_the_whole_loss(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    y, target = pair
    valid = torch.ones(N, H, W, dtype=torch.bool)
    likelihood = Likelihood(LossOptions(kl=KLOptions(beta=0.5, warmup_steps=100)))
    out = output(y, torch.ones(N, 2), torch.ones(N, 2))
    first, warm, final = (vae_loss(likelihood, out, target, valid, valid, step) for step in (0, 100, None))
    assert (warm.total - first.total).item() == pytest.approx(0.5 * 2 * 0.5, abs=1e-4)
    assert final.total.item() == warm.total.item()
    assert final.kl.item() == pytest.approx(1.0)
    plain = vae_loss(likelihood, output(y), target, valid, valid, 100)
    assert plain.total.item() == first.nll.item()
    assert plain.kl.item() == 0.0


def test_bernoulli_is_the_cross_entropy_of_probabilities(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    y, target = (0.99 * image[:, :1] for image in pair)
    valid = torch.zeros(N, H, W, dtype=torch.bool)  # without a depth channel nothing is masked
    nll, sigmas = nll_of(y, target, valid, valid, likelihood="bernoulli")
    p, t = (y.double() + 1) / 2, (target.double() + 1) / 2
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).sum() / N
    assert nll.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not sigmas


def test_a_learned_sigma_finds_the_optimal_one(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    y, target = pair
    valid, seen = torch.ones(N, H, W, dtype=torch.bool), torch.rand(N, H, W) > 0.5
    likelihood = Likelihood(LossOptions(sigma="learned"))
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        nll, sigmas = likelihood(output(y), target, valid, seen)
        nll.backward()
        optimizer.step()
    best, optimal = nll_of(y, target, valid, seen, "optimal")
    assert sigmas == pytest.approx(optimal, rel=1e-3)
    assert nll.item() == pytest.approx(best.item(), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, "best"])
def test_wrong_sigma_is_refused(sigma: float | str) -> None:
    with pytest.raises(ValueError, match="sigma"):
        LossOptions(sigma=sigma)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"beta": -1.0}, "kl.beta is -1.0"),
        ({"beta": math.nan}, "kl.beta is nan"),
        ({"free_bits": -0.5}, "kl.free_bits"),
        ({"cycle_steps": 10}, "kl.warmup_steps is 0"),
        ({"cycle_steps": 10, "warmup_steps": 11}, "kl.warmup_steps is 11"),
        ({"capacity": 5.0, "free_bits": 1.0}, "kl.capacity goes with neither"),
    ],
)
def test_wrong_kl_options_are_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        KLOptions(**asdict(KLOptions()) | options)


def test_an_unknown_likelihood_is_refused() -> None:
    with pytest.raises(ValueError, match="likelihood is 'laplace', wanted one of gaussian, bernoulli, mse"):
        LossOptions("laplace")
