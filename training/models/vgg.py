"""The VGG-block VAE: many 3x3 convolutions between two halvings, transposed convolutions back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from . import blocks
from .base import VAE, Size, check_numbers, input_spec, numbers


def vgg_block(n_in: int, n_out: int, depth: int) -> list[nn.Module]:
    """``depth`` times [3x3 convolution, BatchNorm, Softplus], then a pooling that halves."""
    layers: list[nn.Module] = []
    for index in range(depth):
        conv = nn.Conv2d(n_in if index == 0 else n_out, n_out, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(n_out), nn.Softplus()]
    return [*layers, nn.MaxPool2d(2)]


def vgg_vae(
    *,
    widths: Sequence[int] = (16, 16),
    block_depth: int = 16,
    latent_dim: int = 400,
    channels: int = 1,
    size: Size = 28,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """VAE of VGG blocks, BatchNorm and Softplus after every convolution; back by transposed convolutions.

    The reference's: two blocks of sixteen 3x3 convolutions, z = 400. Ours, since it does not say: 16 channels
    in both blocks, max pooling, transposed convolutions of 4x4 (5 taps towards an odd side).

    Args:
        widths: channels of each block; as many halvings.
        block_depth: convolutions in a block.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``.
    """
    check_numbers(block_depth=block_depth, latent_dim=latent_dim)
    widths = numbers("widths", widths)
    spec = input_spec(channels, size, color, depth)
    sizes = blocks.halvings(spec.height, spec.width, len(widths))
    encoder: list[nn.Module] = []
    for n_in, n_out in pairwise((channels, *widths)):
        encoder += vgg_block(n_in, n_out, block_depth)
    flat = blocks.numbers_in(widths[-1], sizes[-1])
    encoder += [nn.Flatten(), nn.Linear(flat, 2 * latent_dim)]
    decoder = blocks.transposed_decoder(
        latent_dim, [*widths[::-1], channels], sizes[::-1], lambda n: [nn.BatchNorm2d(n), nn.Softplus()]
    )
    return VAE("vgg-vae", encoder, decoder, spec, latent_dim)
