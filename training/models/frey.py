"""The VAE of the Frey faces: convolutions with pooling down, transposed convolutions up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from . import blocks
from .base import VAE, Size, check_numbers, input_spec, numbers


def frey_vae(
    *,
    widths: Sequence[int] = (32, 64, 128),
    latent_dim: int = 20,
    channels: int = 1,
    size: Size = (28, 20),
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """Convolutional VAE: [3x3 convolution, ReLU, max pooling] for each of ``widths``.

    With its defaults the reference's: 32-64-128 channels, 28x20, 14x10, 7x5, 3x2, a latent of 20, a linear
    layer to 768 = 128 x 3 x 2, three transposed convolutions. Ours, since it does not say: 3x3 convolutions,
    transposed ones of 4x4 with 5 taps towards an odd side. Tanh over [-1, 1] is the reference's sigmoid of a
    logit twice as large.

    Args:
        widths: channels after each pooling.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``.
    """
    check_numbers(latent_dim=latent_dim)
    widths = numbers("widths", widths)
    spec = input_spec(channels, size, color, depth)
    sizes = blocks.halvings(spec.height, spec.width, len(widths))
    encoder: list[nn.Module] = []
    for n_in, n_out in pairwise((channels, *widths)):
        encoder += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    flat = blocks.numbers_in(widths[-1], sizes[-1])
    encoder += [nn.Flatten(), nn.Linear(flat, 2 * latent_dim)]
    decoder = blocks.transposed_decoder(
        latent_dim, [*widths[::-1], channels], sizes[::-1], lambda _: [nn.ReLU()]
    )
    return VAE("frey-vae", encoder, decoder, spec, latent_dim, posterior="logvar")
