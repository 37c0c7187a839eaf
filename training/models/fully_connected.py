"""Models of linear layers alone: every pixel meets every hidden number, so sizes of a few thousand pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from edgevae.preprocess import InputSpec
from edgevae.torch_layers import ConcatCondition, ToUnit

from . import blocks
from .base import VAE, Size, check_numbers, input_spec, numbers


def fc_vae(
    *,
    hidden: Sequence[int] = (100,),
    latent_dim: int = 10,
    channels: int = 1,
    size: Size = 28,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """Fully connected VAE: pixels, ``hidden``, (latent_dim + latent_dim), and the same way back; ReLU.

    With its defaults the reference's 784-100-(10+10). Ours: Tanh over [-1, 1] where it has no output range.

    Args:
        hidden: widths of the hidden layers, from the picture to the latent.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``.
    """
    spec = input_spec(channels, size, color, depth)
    return _fully_connected("fc-vae", spec, hidden, latent_dim, "softplus")


def beta_vae(
    *,
    hidden: Sequence[int] = (400,),
    latent_dim: int = 20,
    channels: int = 1,
    size: Size = 28,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """The beta-VAE's network on MNIST: pixels, ``hidden``, 40 = 20 means and 20 log variances; ReLU.

    With its defaults the reference's 784-400-40. Ours: p is (y + 1) / 2 with y in [-1, 1] from Tanh, which is
    the reference's sigmoid of a logit twice as large. Beta belongs to the loss.

    Args: as for ``fc_vae``.
    """
    spec = input_spec(channels, size, color, depth)
    return _fully_connected("beta-vae", spec, hidden, latent_dim, "logvar")


def conditional_vae(
    *,
    hidden: Sequence[int] = (512, 256),
    latent_dim: int = 2,
    condition_dim: int = 10,
    channels: int = 1,
    size: Size = 28,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """Conditional VAE: a class, one-hot, stands beside the pixels and beside the latent; ReLU.

    With its defaults the reference's 784+10, 512, 256, z = 2. Ours: Tanh over [-1, 1] at the end.

    Args:
        condition_dim: length of the condition, the number of classes.
        hidden, latent_dim, channels, size, color, depth: as for ``fc_vae``.
    """
    check_numbers(condition_dim=condition_dim)
    spec = input_spec(channels, size, color, depth)
    return _fully_connected("conditional-vae", spec, hidden, latent_dim, "softplus", condition_dim)


def _fully_connected(
    name: str,
    spec: InputSpec,
    hidden: Sequence[int],
    latent_dim: int,
    posterior: str,
    condition_dim: int = 0,
) -> VAE:
    check_numbers(latent_dim=latent_dim)
    hidden = numbers("hidden", hidden)
    # With grey pictures, black must be 0: a background that never changes would be hundreds of copies of the
    # first layer's bias, all trained. Ten epochs of MNIST end at 98.5 nats with 0, at 99.9 with -1.
    black = [ToUnit()] if spec.channels == 1 else []
    shape = (spec.channels, spec.height, spec.width)
    pixels = math.prod(shape)
    concat = [ConcatCondition(condition_dim)] if condition_dim else []
    encoder = [
        nn.Flatten(),
        *black,
        *concat,
        *blocks.linear([pixels + condition_dim, *hidden, 2 * latent_dim]),
    ]
    decoder = [
        *concat,
        *blocks.linear([latent_dim + condition_dim, *reversed(hidden), pixels]),
        nn.Unflatten(1, shape),
        nn.Tanh(),
    ]
    return VAE(name, encoder, decoder, spec, latent_dim, posterior=posterior, condition_dim=condition_dim)
