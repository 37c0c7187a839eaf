"""The scene-transition VAE: halvings until a handful of cells is left, whatever the size, and back."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import nn

from . import blocks
from .base import VAE, Size, check_numbers, input_spec

SMALLEST = 7  # cells along the shorter side where the halvings end; from 64 to 1024 that is 4
SLOPE = 0.2


def keep_size(layer: nn.Module, gain: float = 1.0) -> None:
    """Draw a convolution's weights so that its output varies as much as the input did before its LeakyReLU.

    He et al., "Delving deep into rectifiers", 2015, equation 15: variance 2 / (1 + slope^2) / n, with the n
    inputs that an output sums; a transposed convolution with stride 2 sums every fourth tap.
    """
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        taps: float = layer.in_channels * math.prod(layer.kernel_size)
        if isinstance(layer, nn.ConvTranspose2d):
            taps /= math.prod(layer.stride)
        nn.init.normal_(layer.weight, 0, gain * math.sqrt(2 / (1 + SLOPE**2) / taps))
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def transition_vae(
    *,
    width: int = 256,
    min_width: int = 16,
    latent_dim: int = 2,
    channels: int = 1,
    size: Size = 64,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """VAE of convolutions and transposed convolutions for sizes from 28 to 1024 pixels.

    The reference's: convolutional encoder, decoder of transposed convolutions, a latent of 2, grey. Ours:

    * as many halvings as leave 4 to 7 cells along the shorter side, so that the linear layers have the same
      size at 64 and at 1024 pixels instead of growing with the picture;
    * channels halve from ``width`` at those cells towards the picture, down to ``min_width``: a large picture
      adds narrow layers, and 1024 pixels take 0.5 G products each way in grey and train within 8 GiB;
    * weights drawn so that a signal keeps its size through all sixteen layers: PyTorch's own leave 5e-6
      between the pictures of two latents at 1024 pixels;
    * no BatchNorm: the statistics of the few large pictures of a batch differ from the running ones, and the
      trained network answers with one grey picture.

    Args:
        width: channels after the last halving.
        min_width: channels below which they do not fall.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``.
    """
    check_numbers(width=width, min_width=min_width, latent_dim=latent_dim)
    spec = input_spec(channels, size, color, depth)
    times = max(1, (min(spec.height, spec.width) // (SMALLEST + 1)).bit_length())
    sizes = blocks.halvings(spec.height, spec.width, times)
    widths = [channels, *(max(min_width, width >> i) for i in reversed(range(times)))]
    encoder: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        encoder += [blocks.halve(n_in, n_out), nn.LeakyReLU(SLOPE)]
    flat = blocks.numbers_in(widths[-1], sizes[-1])
    encoder += [nn.Flatten(), nn.Linear(flat, 2 * latent_dim)]
    decoder = blocks.transposed_decoder(
        latent_dim, widths[::-1], sizes[::-1], lambda _: [nn.LeakyReLU(SLOPE)]
    )
    for layer in (*encoder, *decoder[:-2]):
        keep_size(layer)
    keep_size(decoder[-2], gain=0.2)  # before the Tanh: a new network's pictures are grey, and not one grey
    return VAE("transition-vae", encoder, decoder, spec, latent_dim)
