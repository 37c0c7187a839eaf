"""A small convolutional autoencoder, plain and variational: the same layers, with and without a posterior."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from . import blocks
from .base import VAE, Size, check_numbers, input_spec, numbers


def conv_autoencoder(
    *,
    widths: Sequence[int] = (12, 24, 6),
    latent_dim: int = 256,
    channels: int = 3,
    size: Size = 100,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """Plain autoencoder: the layers of ``conv_vae``, whose code has no deviation; for a squared error.

    Args: as for ``conv_vae``.
    """
    return _convolutional("conv-autoencoder", None, widths, latent_dim, channels, size, color, depth)


def conv_vae(
    *,
    widths: Sequence[int] = (12, 24, 6),
    latent_dim: int = 256,
    channels: int = 3,
    size: Size = 100,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """Convolutional VAE: a halving convolution and ReLU for each of ``widths``, a linear layer to the latent.

    The reference's on UT Zappos50K at 100x100: channels 3-12-24-6, z = 256. Ours, since it does not say: 4x4
    convolutions with stride 2 (100, 50, 25, 12 pixels). No convolution's output has 256 numbers with 6
    channels, so a linear layer makes them from 6 x 12 x 12 = 864. Tanh over [-1, 1] is the reference's
    sigmoid of a logit twice as large.

    Args:
        widths: channels after each halving.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``.
    """
    return _convolutional("conv-vae", "logvar", widths, latent_dim, channels, size, color, depth)


def _convolutional(
    name: str,
    posterior: str | None,
    widths: Sequence[int],
    latent_dim: int,
    channels: int,
    size: Size,
    color: str,
    depth: dict[str, Any] | None,
) -> VAE:
    check_numbers(latent_dim=latent_dim)
    widths = numbers("widths", widths)
    spec = input_spec(channels, size, color, depth)
    sizes = blocks.halvings(spec.height, spec.width, len(widths))
    encoder: list[nn.Module] = []
    for n_in, n_out in pairwise((channels, *widths)):
        encoder += [blocks.halve(n_in, n_out), nn.ReLU()]
    flat = blocks.numbers_in(widths[-1], sizes[-1])
    encoder += [nn.Flatten(), nn.Linear(flat, latent_dim if posterior is None else 2 * latent_dim)]
    decoder = blocks.transposed_decoder(
        latent_dim, [*widths[::-1], channels], sizes[::-1], lambda _: [nn.ReLU()]
    )
    return VAE(name, encoder, decoder, spec, latent_dim, posterior=posterior)
