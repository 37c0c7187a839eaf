"""What a run minimises: a likelihood, masked where depth is missing, and a KL term; each chosen on its own.

Likelihoods, all in nats per image (``LossOptions.likelihood``):

* ``gaussian`` with a standard deviation ``sigma`` that is a number, ``learned`` or ``optimal``. With 1.0 it
  is half the squared error summed over the image, the loss of the published RGB-D VAE on NYU Depth V2
  (``configs/rgbd-vae.yaml``). ``learned`` trains the sigmas along with the network, ``optimal`` takes the
  maximum-likelihood value on the batch, sigma^2 = mean squared error: both sigma-VAEs of Rybkin, Daniilidis,
  Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021, sections 3.1 and 3.2.
  Colour, depth that the network saw, and depth that it had to guess each have a sigma of their own, since
  their errors differ by an order of magnitude.
* ``bernoulli``: the cross-entropy of p = (y + 1) / 2, summed over the image, for targets read as
  probabilities. The logit of p is twice what goes into the decoder's last tanh.
* ``mse``: the squared error summed over the image, in units of [-1, 1].

Pixels whose depth is not a reading count nowhere. The errors of an image are multiplied by
(all elements) / (valid elements), so that the sum stays an estimate of what the sum over the complete image
would be, and images with many and few readings are comparable. Without a depth channel nothing is masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import Output

SIGMA_FLOOR = 1e-3  # in units of [-1, 1]; below a quarter of an 8-bit step nothing is left to explain
LIKELIHOODS = ("gaussian", "bernoulli", "mse")
GROUPS = ("color", "depth", "guessed")  # what has a sigma of its own


@dataclass
class KLOptions:
    """How much the KL term counts, and when.

    Attributes:
        beta: its weight (Higgins et al., "beta-VAE", ICLR 2017).
        warmup_steps: optimizer steps in which the weight rises linearly from 0 to ``beta``.
        cycle_steps: the rise begins again after so many steps (Fu et al., "Cyclical annealing schedule",
            NAACL 2019); 0 for never.
        free_bits: nats that the posterior of each latent may have for nothing: a latent whose KL, averaged
            over the batch, is smaller counts as much as this (Kingma et al., "Inverse autoregressive flow",
            NeurIPS 2016, appendix C.8).
        capacity: nats of all latents together: the term becomes beta * |KL - C| (Burgess et al.,
            "Understanding disentangling in beta-VAE", 2018), where C rises from 0 to ``capacity`` within
            ``warmup_steps``, instead of the weight; 0 for the plain term.
    """

    beta: float = 1.0
    warmup_steps: int = 0
    cycle_steps: int = 0
    free_bits: float = 0.0
    capacity: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta", "warmup_steps", "cycle_steps", "free_bits", "capacity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"kl.{name} is {getattr(self, name)}, wanted 0 or more")
        if self.capacity and (self.free_bits or self.cycle_steps):
            raise ValueError("kl.capacity goes with neither free_bits nor cycle_steps; wanted one of them")
        if self.cycle_steps and not 0 < self.warmup_steps <= self.cycle_steps:
            raise ValueError(
                f"kl.warmup_steps is {self.warmup_steps}, wanted 1 to cycle_steps ({self.cycle_steps})"
            )

    def risen(self, step: int) -> float:
        """How far the rise is at ``step``, 0 to 1."""
        if self.cycle_steps:
            step %= self.cycle_steps
        return min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0

    def weight(self, step: int) -> float:
        return self.beta if self.capacity else self.beta * self.risen(step)

    def term(self, kl: Tensor, step: int) -> Tensor:
        """What is added to the loss for ``kl`` (N, latent_dim), see :func:`kl_divergence`."""
        if self.capacity:
            return self.beta * (kl.sum(1).mean() - self.capacity * self.risen(step)).abs()
        of_latent = kl.mean(0)
        if self.free_bits:
            of_latent = of_latent.clamp(min=self.free_bits)
        return self.weight(step) * of_latent.sum()


@dataclass
class LossOptions:
    """What the loss is.

    Attributes:
        likelihood: "gaussian", "bernoulli" or "mse".
        sigma: of the Gaussian: a number, "learned" or "optimal".
        kl: of the posterior; without effect on a model that has none.
    """

    likelihood: str = "gaussian"
    sigma: float | str = 1.0
    kl: KLOptions = field(default_factory=KLOptions)

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood is {self.likelihood!r}, wanted one of {', '.join(LIKELIHOODS)}")
        number = isinstance(self.sigma, (int, float)) and 0 < self.sigma < math.inf
        if not (number or self.sigma in ("learned", "optimal")):
            raise ValueError(f"sigma is {self.sigma!r}, wanted a positive number, 'learned' or 'optimal'")


@dataclass
class Loss:
    """Nats per image, scalars.

    Attributes:
        total: what is minimised.
        nll: the likelihood's part.
        kl: KL(q || p), unweighted; 0 without a posterior.
        sigmas: of the Gaussian, by name; empty for other likelihoods.
    """

    total: Tensor
    nll: Tensor
    kl: Tensor
    sigmas: dict[str, float]


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
    """KL(N(mean, std^2) || N(0, 1)) of each image and latent in nats, (N, latent_dim)."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log())


class Likelihood(nn.Module):
    """-log p(target | z); a module, since a learned sigma is trained along with the network."""

    def __init__(self, options: LossOptions) -> None:
        super().__init__()
        self.options = options
        learned = options.likelihood == "gaussian" and options.sigma == "learned"
        self.log_sigma = nn.Parameter(torch.zeros(len(GROUPS))) if learned else None

    def forward(
        self, out: Output, target: Tensor, valid: Tensor, seen: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over the batch in nats, and the sigmas of a Gaussian.

        Args:
            out: of the network; its pictures are (N, C, h, w).
            target: the same shape.
            valid: bool (N, h, w), depth of the target is a reading.
            seen: bool (N, h, w), depth reached the encoder.

        The constant log(2 pi) / 2 of each element is left out when sigma is a number, so that sigma = 1 gives
        half the sum of squared errors.
        """
        weights = element_weights(valid, target.shape[1])
        n, sigma = len(target), self.options.sigma
        if self.options.likelihood == "bernoulli":
            entropy = F.binary_cross_entropy_with_logits(2 * out.raw, (target + 1) / 2, reduction="none")
            return (entropy * weights).sum() / n, {}
        error = (out.y - target).square() * weights
        if self.options.likelihood == "mse":
            return error.sum() / n, {}
        if isinstance(sigma, (int, float)):
            nll = 0.5 * error.sum() / sigma**2
            if sigma != 1.0:
                nll = nll + math.log(sigma) * weights.sum()
            return nll / n, dict.fromkeys(GROUPS if target.shape[1] == 4 else GROUPS[:1], float(sigma))
        return self._calibrated(error, weights, seen)

    def _calibrated(self, error: Tensor, weights: Tensor, seen: Tensor) -> tuple[Tensor, dict[str, float]]:
        parts = {"color": (error[:, :3], weights[:, :3])}
        if error.shape[1] == 4:
            for name, mask in (("depth", seen.float()), ("guessed", 1.0 - seen.float())):
                parts[name] = (error[:, 3] * mask, weights[:, 3] * mask)
        nll, sigmas = error.new_zeros(()), {}
        for i, (name, (squares, counts)) in enumerate(parts.items()):
            count = counts.sum()
            if count == 0:
                continue
            if self.log_sigma is None:
                variance = (squares.sum() / count).detach().clamp(min=SIGMA_FLOOR**2)
            else:
                variance = (2 * self.log_sigma[i]).exp().clamp(min=SIGMA_FLOOR**2)
            nll = nll + 0.5 * (squares.sum() / variance + count * torch.log(2 * math.pi * variance))
            sigmas[name] = float(variance.detach().sqrt())
        return nll / len(error), sigmas


def vae_loss(
    likelihood: Likelihood,
    out: Output,
    target: Tensor,
    valid: Tensor,
    seen: Tensor,
    step: int | None = None,
) -> Loss:
    """The negative evidence lower bound with its KL term as the options say, averaged over the batch.

    Args:
        likelihood: with the options of the whole loss.
        out, target, valid, seen: see :class:`Likelihood`.
        step: of the optimizer, for what changes over the run; None for what counts in the end: the likelihood
            and beta times the plain KL term.
    """
    nll, sigmas = likelihood(out, target, valid, seen)
    if out.std is None:
        return Loss(nll, nll.detach(), nll.new_zeros(()), sigmas)
    kl = kl_divergence(out.mean, out.std)
    plain, options = kl.sum(1).mean(), likelihood.options.kl
    term = options.beta * plain if step is None else options.term(kl, step)
    return Loss(nll + term, nll.detach(), plain.detach(), sigmas)
