"""The RGB-D VAE: halvings down, doublings by nearest neighbour up, five of each as it was published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from edgevae.errors import EdgevaeError

from .base import VAE, Size, check_numbers, input_spec, numbers

PATCHES = (2, 4)


def conv_encoder(
    channels: int, widths: list[int], size: tuple[int, int], latent_dim: int, head_width: int, patch: int
) -> nn.Sequential:
    """Convolutions to ``widths`` channels, then a linear layer to [mean | raw scale], or two with
    ``head_width`` numbers between them. The first makes a pixel of each ``patch``, the others halve; 4x4 all.
    """
    layers: list[nn.Module] = []
    strides = [patch] + [2] * (len(widths) - 1)
    for (n_in, n_out), stride in zip(pairwise([channels, *widths]), strides, strict=True):
        layers += [nn.Conv2d(n_in, n_out, 4, stride=stride, padding=(4 - stride) // 2)]
        layers += [nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2)]
    left = widths[-1] * math.prod(cells(size, len(widths), patch))
    sizes = [left, *([head_width] if head_width else []), 2 * latent_dim]
    return nn.Sequential(*layers, nn.Flatten(), *(nn.Linear(*pair) for pair in pairwise(sizes)))


def upsample_decoder(
    channels: int, widths: list[int], size: tuple[int, int], latent_dim: int, patch: int
) -> nn.Sequential:
    """One linear layer to cells of ``widths[0]`` channels, doublings (nearest, 3x3 convolution with replicate
    padding) as many as ``widths``, the last one to ``channels``, then tanh. A ``patch`` of 4 pixels is made
    by a transposed convolution in place of the last doubling.
    """
    first = (widths[0], *cells(size, len(widths), patch))
    layers: list[nn.Module] = [nn.Linear(latent_dim, math.prod(first)), nn.Unflatten(1, first)]
    for n_in, n_out in pairwise(widths):
        layers += [*_doubling(n_in, n_out), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2)]
    if patch == 2:
        last = _doubling(widths[-1], channels)
    else:
        last = [nn.ConvTranspose2d(widths[-1], channels, patch, stride=patch)]
    return nn.Sequential(*layers, *last, nn.Tanh())


def cells(size: tuple[int, int], layers: int, patch: int) -> tuple[int, int]:
    """What so many layers leave of a picture of ``size``, one of which takes patches."""
    side = patch << (layers - 1)
    return size[0] // side, size[1] // side


def _doubling(n_in: int, n_out: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(n_in, n_out, 3, padding=1, padding_mode="replicate"),
    ]


def rgbd_vae(
    *,
    width: int = 64,
    latent_dim: int = 400,
    channels: int = 4,
    size: Size = 128,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
    encoder_widths: Sequence[int] | None = None,
    decoder_widths: Sequence[int] | None = None,
    head_width: int = 0,
    patch: int = 2,
) -> VAE:
    """Convolutional RGB-D VAE: widths w, 2w, 4w, 8w, 8w down and back up again.

    With its defaults the published RGB-D VAE on NYU Depth V2, layer for layer.

    Args:
        width: channels after the first convolution.
        latent_dim: length of the latent.
        channels, size, color, depth: as for ``base.input_spec``; the sides of ``size`` are multiples
            of 32 (fewer layers ask for less).
        encoder_widths: channels after each halving, at most 5 of them. None for w, 2w, 4w, 8w, 8w.
        decoder_widths: channels before each doubling, at most 5 of them; with three, the decoder's linear
            layer makes cells of 8x8 pixels. None for 8w, 8w, 4w, 2w, w.
        head_width: numbers between two linear layers that end the encoder in place of one, which saves
            weights if they are fewer than 2 ``latent_dim``; 0 for one layer.
        patch: pixels a side that the first layer makes one of and the last layer makes of one, 2 or 4; with
            4 the largest images are gone, and with them most of the time.
    """
    check_numbers(width=width, latent_dim=latent_dim)
    if head_width:
        check_numbers(head_width=head_width)
    if patch not in PATCHES:
        raise EdgevaeError(f"patch is {patch!r}, wanted one of {PATCHES}.")
    down = _widths("encoder_widths", encoder_widths, [width, 2 * width, 4 * width, 8 * width, 8 * width])
    up = _widths("decoder_widths", decoder_widths, [8 * width, 8 * width, 4 * width, 2 * width, width])
    spec = input_spec(channels, size, color, depth)
    side = patch << (max(len(down), len(up)) - 1)
    if spec.height % side or spec.width % side:
        raise EdgevaeError(
            f"input size is {spec.height}x{spec.width}, wanted multiples of {side}, such as size=128."
        )
    encoder = conv_encoder(channels, down, (spec.height, spec.width), latent_dim, head_width, patch)
    decoder = upsample_decoder(channels, up, (spec.height, spec.width), latent_dim, patch)
    return VAE("rgbd-vae", encoder, decoder, spec, latent_dim)


def _widths(name: str, given: Sequence[int] | None, otherwise: list[int]) -> list[int]:
    if given is None:
        return otherwise
    widths = numbers(name, given)
    if len(widths) > 5:
        raise EdgevaeError(f"{name} is {given!r}, wanted at most 5 numbers.")
    return widths
