"""The masked Gaussian likelihood and the KL term.

Two ways to set the standard deviation of the likelihood:

* ``sigma=1.0`` (any number): fixed. With 1.0 the likelihood is half the squared error summed over the image,
  the loss of the published RGB-D VAE on NYU Depth V2 (``configs/rgbd-vae.yaml``).
* ``sigma="optimal"``: the maximum-likelihood value on the batch, sigma^2 = mean squared error, as in the
  sigma-VAE (Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders", ICML
  2021, section 3.2). Colour, depth that the network saw, and depth that it had to guess each have a sigma of
  their own, since their errors differ by an order of magnitude.

Pixels whose depth is not a reading count nowhere. The squared errors of an image are multiplied by
(all elements) / (valid elements), so that the sum stays an estimate of what the sum over the complete image
would be, and images with many and few readings are comparable. Without a depth channel nothing is masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIGMA_FLOOR = 1e-3  # in units of [-1, 1]; below a quarter of an 8-bit step nothing is left to explain


@dataclass
class LossOptions:
    """What the loss is.

    Attributes:
        sigma: a number, or "optimal".
        beta: weight of the KL term when warm.
        kl_warmup_steps: optimizer steps in which the weight of the KL term rises linearly from 0 to ``beta``.
    """

    sigma: float | str = 1.0
    beta: float = 1.0
    kl_warmup_steps: int = 0

    def __post_init__(self) -> None:
        if not (self.sigma == "optimal" or (isinstance(self.sigma, (int, float)) and self.sigma > 0)):
            raise ValueError(f"sigma is {self.sigma!r}, wanted a positive number or 'optimal'")

    def kl_weight(self, step: int) -> float:
        return self.beta * min(1.0, step / self.kl_warmup_steps) if self.kl_warmup_steps else self.beta


@dataclass
class Loss:
    """Nats per image, scalars; ``sigmas`` (3,) of colour, seen depth, guessed depth, NaN for none."""

    total: Tensor
    nll: Tensor
    kl: Tensor
    sigmas: Tensor


def element_weights(valid: Tensor, channels: int) -> Tensor:
    """What each squared error counts, (N, C, h, w): 0 for invalid depth, all / valid elements elsewhere.

    Args:
        valid: bool (N, h, w), where depth is a reading; ignored unless ``channels`` is 4.
        channels: C; the fourth is depth.
    """
    n, h, w = valid.shape
    if channels < 4:
        return torch.ones(n, channels, h, w, device=valid.device)
    depth = valid.unsqueeze(1).float()
    mask = torch.cat([torch.ones(n, 3, h, w, device=valid.device), depth], dim=1)
    return mask * (4 * h * w / mask.sum((1, 2, 3), keepdim=True))


def squared_error(y: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Sum of squared errors of each image, (N,), scaled for missing depth as described above."""
    return ((y - target).square() * element_weights(valid, y.shape[1])).sum((1, 2, 3))


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) of each image in nats, (N,)."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1)


def negative_log_likelihood(
    y: Tensor, target: Tensor, valid: Tensor, seen: Tensor, sigma: float | str
) -> tuple[Tensor, Tensor]:
    """Mean over the batch of -log p(target | z) in nats, and the three sigmas.

    Args:
        y: reconstruction (N, C, h, w).
        target: the same shape.
        valid: bool (N, h, w), depth of the target is a reading.
        seen: bool (N, h, w), depth reached the encoder.
        sigma: a number, or "optimal".

    The constant log(2 pi) / 2 of each element is left out when sigma is fixed, so that sigma = 1 gives half
    the sum of squared errors.
    """
    weights = element_weights(valid, y.shape[1])
    error = (y - target).square() * weights
    if sigma != "optimal":
        value = float(sigma)
        nll = 0.5 * error.sum() / value**2 + (math.log(value) * weights.sum() if value != 1.0 else 0.0)
        return nll / len(y), torch.full((3,), value)
    groups = [(error[:, :3], weights[:, :3])]
    if y.shape[1] == 4:
        groups += [(error[:, 3] * part, weights[:, 3] * part) for part in (seen.float(), 1.0 - seen.float())]
    nll, sigmas = y.new_zeros(()), y.new_full((3,), math.nan)
    for i, (squares, counts) in enumerate(groups):
        count = counts.sum()
        if count == 0:
            continue
        variance = (squares.sum() / count).detach().clamp(min=SIGMA_FLOOR**2)
        nll = nll + 0.5 * (squares.sum() / variance + count * torch.log(2 * math.pi * variance))
        sigmas[i] = variance.sqrt()
    return nll / len(y), sigmas


def vae_loss(
    y: Tensor,
    mean: Tensor,
    std: Tensor,
    target: Tensor,
    valid: Tensor,
    seen: Tensor,
    options: LossOptions,
    step: int = 0,
) -> Loss:
    """The negative evidence lower bound with a weighted KL term, averaged over the batch."""
    nll, sigmas = negative_log_likelihood(y, target, valid, seen, options.sigma)
    kl = kl_divergence(mean, std).mean()
    return Loss(nll + options.kl_weight(step) * kl, nll.detach(), kl.detach(), sigmas)
