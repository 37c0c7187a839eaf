"""The RGB-D VAE: five halvings down, five doublings by nearest neighbour up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from edgevae.errors import EdgevaeError

from .base import VAE, Size, check_numbers, input_spec, numbers


def conv_encoder(channels: int, width: int, cells: int, latent_dim: int) -> nn.Sequential:
    """Five halvings (4x4 convolution, stride 2), then one linear layer to [mean | raw scale]."""
    widths = [channels, width, 2 * width, 4 * width, 8 * width, 8 * width]
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * cells, 2 * latent_dim))


def upsample_decoder(
    channels: int, widths: list[int], size: tuple[int, int], latent_dim: int
) -> nn.Sequential:
    """One linear layer to cells of ``widths[0]`` channels, doublings (nearest, 3x3 convolution with replicate
    padding) as many as ``widths``, the last one to ``channels``, then tanh.
    """
    cells = (size[0] >> len(widths), size[1] >> len(widths))
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, widths[0] * cells[0] * cells[1]),
        nn.Unflatten(1, (widths[0], *cells)),
    ]
    for n_in, n_out in pairwise([*widths, channels]):
        layers += [nn.Upsample(scale_factor=2, mode="nearest")]
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1, padding_mode="replicate")]
        layers += [nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-2], nn.Tanh())  # neither BatchNorm nor LeakyReLU after the last block


def rgbd_vae(
    *,
    width: int = 64,
    latent_dim: int = 400,
    channels: int = 4,
    size: Size = 128,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
    decoder_widths: Sequence[int] | None = None,
) -> VAE:
    """Convolutional RGB-D VAE: widths w, 2w, 4w, 8w, 8w down and back up again.

    With its defaults the published RGB-D VAE on NYU Depth V2, layer for layer.

    Args:
        width: channels after the first convolution.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``; the sides of ``size`` are multiples of 32.
        decoder_widths: channels before each doubling, at most 5 of them; with three, the decoder's linear
            layer makes cells of 8x8 pixels. None for 8w, 8w, 4w, 2w, w.
    """
    check_numbers(width=width, latent_dim=latent_dim)
    widths = [8 * width, 8 * width, 4 * width, 2 * width, width]
    if decoder_widths is not None:
        widths = numbers("decoder_widths", decoder_widths)
        if len(widths) > 5:
            raise EdgevaeError(f"decoder_widths is {decoder_widths!r}, wanted at most 5 numbers.")
    spec = input_spec(channels, size, color, depth)
    if spec.height % 32 or spec.width % 32:
        raise EdgevaeError(
            f"input size is {spec.height}x{spec.width}, wanted multiples of 32, such as size=128."
        )
    encoder = conv_encoder(channels, width, spec.height // 32 * (spec.width // 32), latent_dim)
    decoder = upsample_decoder(channels, widths, (spec.height, spec.width), latent_dim)
    return VAE("rgbd-vae", encoder, decoder, spec, latent_dim)
