"""The RGB-D VAE: five halvings down, five doublings by nearest neighbour up."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from edgevae.errors import EdgevaeError

from .base import VAE, Size, check_numbers, input_spec


def conv_encoder(channels: int, width: int, cells: int, latent_dim: int) -> nn.Sequential:
    """Five halvings (4x4 convolution, stride 2), then one linear layer to [mean | raw scale]."""
    widths = [channels, width, 2 * width, 4 * width, 8 * width, 8 * width]
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * cells, 2 * latent_dim))


def upsample_decoder(channels: int, width: int, cells: tuple[int, int], latent_dim: int) -> nn.Sequential:
    """One linear layer, then five doublings (nearest, 3x3 convolution with replicate padding), then tanh."""
    widths = [8 * width, 8 * width, 4 * width, 2 * width, width, channels]
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, widths[0] * cells[0] * cells[1]),
        nn.Unflatten(1, (widths[0], *cells)),
    ]
    for n_in, n_out in pairwise(widths):
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
) -> VAE:
    """Convolutional RGB-D VAE: widths w, 2w, 4w, 8w, 8w down and back up again.

    With its defaults the published RGB-D VAE on NYU Depth V2, layer for layer.

    Args:
        width: channels after the first convolution.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``; the sides of ``size`` are multiples of 32.
    """
    check_numbers(width=width, latent_dim=latent_dim)
    spec = input_spec(channels, size, color, depth)
    if spec.height % 32 or spec.width % 32:
        raise EdgevaeError(
            f"input size is {spec.height}x{spec.width}, wanted multiples of 32, such as size=128."
        )
    cells = (spec.height // 32, spec.width // 32)
    encoder = conv_encoder(channels, width, cells[0] * cells[1], latent_dim)
    return VAE("rgbd-vae", encoder, upsample_decoder(channels, width, cells, latent_dim), spec, latent_dim)
