"""A linear start: what the network then is, told from principal components computed another way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import training.models
from edgevae.errors import EdgevaeError
from training.linear_start import linear_start
from training.models import VAE

LATENTS = 12


def smooth(count: int, seed: int) -> Tensor:
    """Pictures of few low frequencies (N, 4, 32, 32), most of whose variance a dozen components hold."""
    rng = np.random.default_rng(seed)
    at = (np.arange(32) + 0.5) / 32
    waves = np.stack([np.cos(np.pi * k * at) for k in range(3)])
    amounts = rng.normal(size=(count, 4, 3, 3)) * np.array([0.3, 0.1, 0.03])[:, None]
    amounts[:, 1:3] = amounts[:, :1] + 0.2 * amounts[:, 1:3]
    return torch.from_numpy(np.einsum("ncij,iy,jx->ncyx", amounts, waves, waves).clip(-0.85, 0.85)).float()


def batches(x: Tensor) -> Iterator[Tensor]:
    yield from x.split(50)


NETS: dict[str, dict[str, Any]] = {
    "halvings": {"width": 8, "decoder_widths": [24, 32, 24]},
    "patches": {
        "patch": 4,
        "encoder_widths": [24, 32],
        "decoder_widths": [24, 32],
        "head_width": LATENTS + 3,
    },
}


@pytest.fixture(scope="module", params=NETS)
def started(request: pytest.FixtureRequest) -> VAE:
    torch.manual_seed(0)
    net = training.models.build("rgbd-vae", latent_dim=LATENTS, size=32, **NETS[request.param])
    assert linear_start(net, batches(smooth(300, 0)), 250) == 250
    return net.eval()


def errors(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().sum((1, 2, 3)).mean())


def test_it_reconstructs_as_principal_components_do(started: VAE) -> None:
    train, held = smooth(300, 0)[:250].flatten(1), smooth(100, 1)
    middle = train.mean(0)
    axes = torch.linalg.svd(train - middle, full_matrices=False).Vh[:LATENTS]
    rows = held.flatten(1) - middle
    straight = errors(held, (middle + rows @ axes.T @ axes).view_as(held))
    nothing = errors(held, middle.view_as(held[0]).expand_as(held))
    with torch.no_grad():
        got = errors(held, started(held).y)
    assert straight < 0.1 * nothing
    assert got < straight + 0.1 * nothing


def test_latents_are_scaled_to_the_prior_and_the_posterior_is_that_of_the_components(started: VAE) -> None:
    x = smooth(300, 0)[:250]
    with torch.no_grad():
        mean, std = started.posterior_of(x)
    assert std is not None
    assert mean.mean(0).abs().max() < 0.05
    torch.testing.assert_close(mean.T.cov(), torch.eye(LATENTS), atol=0.1, rtol=0)
    assert std.std(0).max() < 1e-5  # the same for every picture
    assert 0 < std.min() < std.max() < 1


def test_the_encoder_is_a_straight_line(started: VAE) -> None:
    a, b = smooth(2, 2)
    with torch.no_grad():
        ends, _ = started.posterior_of(torch.stack([a, b]))
        middle, _ = started.posterior_of(((a + b) / 2)[None])
    torch.testing.assert_close(middle[0], ends.mean(0), atol=1e-3, rtol=1e-3)


def test_training_goes_on_from_there(started: VAE) -> None:
    net = copy.deepcopy(started).train()
    x = smooth(32, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    before = net(x).y
    loss = (before - x).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    optimizer.step()
    assert (net(x).y - before).abs().max() > 0


def test_it_refuses_what_it_cannot_start() -> None:
    net = training.models.build("rgbd-vae", width=4, latent_dim=LATENTS, size=32)
    with pytest.raises(EdgevaeError, match=r"12 training frames are too few .* 12 latents"):
        linear_start(net, batches(smooth(12, 0)), 100)
    other = training.models.build("fc-vae", size=32)
    with pytest.raises(EdgevaeError, match=r"for rgbd-vae, not fc-vae; set model.start: random"):
        linear_start(other, batches(smooth(12, 0)), 100)
    narrow = training.models.build("rgbd-vae", width=2, latent_dim=LATENTS, size=32)
    with pytest.raises(EdgevaeError, match=r"8 lines reach a latent of 12"):
        linear_start(narrow, batches(smooth(50, 0)), 50)
    short = training.models.build(
        "rgbd-vae", latent_dim=LATENTS, size=32, **NETS["patches"] | {"head_width": 8}
    )
    with pytest.raises(EdgevaeError, match=r"head_width is 8, .* at least the latent's 12; widen it"):
        linear_start(short, batches(smooth(50, 0)), 50)


def test_missing_depth_is_taken_for_the_mean() -> None:
    """A straight line for readings, and for none of them what the mean distance would give."""
    torch.manual_seed(0)
    depth = {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.5}
    net = training.models.build(
        "rgbd-vae", latent_dim=LATENTS, size=32, width=16, decoder_widths=[24, 32, 24], depth=depth
    )
    x = smooth(300, 0)
    linear_start(net, batches(x), 250)
    net.eval()
    held = smooth(20, 1)
    flat, none, half = held.clone(), held.clone(), held.clone()
    flat[:, 3] = x[:250, 3].mean()
    none[:, 3] = -1.5
    half[:, 3, :16], half[:, 3, 16:] = -1.5, flat[:, 3, 16:]
    with torch.no_grad():
        wanted = net.posterior_of(flat)[0]
        scatter = (wanted - net.posterior_of(held)[0]).square().mean().sqrt()
        for other in (none, half):
            assert (net.posterior_of(other)[0] - wanted).square().mean().sqrt() < 0.05 * scatter
        ends, _ = net.posterior_of(held[:2])
        middle, _ = net.posterior_of(held[:2].mean(0, keepdim=True))
    torch.testing.assert_close(middle[0], ends.mean(0), atol=1e-3, rtol=1e-3)


def test_a_filled_hole_is_taken_for_what_fills_it() -> None:
    torch.manual_seed(0)
    depth = {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.5, "fill": True}
    net = training.models.build(
        "rgbd-vae", latent_dim=LATENTS, size=32, width=16, decoder_widths=[24, 32, 24], depth=depth
    )
    linear_start(net, batches(smooth(300, 0)), 250)
    net.eval()
    held = smooth(20, 1)
    mirrored = held.clone()
    mirrored[:, 3, :16] = -3 - held[:, 3, :16]
    with torch.no_grad():
        wanted, got = (net.posterior_of(x)[0] for x in (held, mirrored))
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


def test_depth_counts_by_how_little_it_varies() -> None:
    """A tenth of the detail in depth, and a tenth of the error is left in it, for the same share of both."""
    x = smooth(300, 0)
    x[:, 3] /= 10
    torch.manual_seed(0)
    net = training.models.build("rgbd-vae", latent_dim=LATENTS, size=32, **NETS["halvings"])
    linear_start(net, batches(x), 250)
    held = smooth(100, 1)
    held[:, 3] /= 10
    with torch.no_grad():
        error = (net.eval()(held).y - held).square().mean((0, 2, 3)) / held.var((0, 2, 3))
    assert error[3] < 2 * error[:3].mean()
