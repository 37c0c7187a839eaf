"""Layers that several families share. Pictures of any size are halved, rounded down, and come back."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import nn

from edgevae.errors import EdgevaeError


def linear(sizes: list[int]) -> list[nn.Module]:
    """Linear layers from ``sizes[0]`` to ``sizes[-1]`` numbers, ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return layers[:-1]


def halvings(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """The sizes that ``times`` halvings go through, rounded down: (28, 20), (14, 10), (7, 5), (3, 2).

    Raises:
        EdgevaeError: nothing would be left.
    """
    if min(height, width) < 2**times:
        raise EdgevaeError(
            f"size is {height}x{width}, wanted at least {2**times} a side: it is halved {times} times."
        )
    return [(height >> i, width >> i) for i in range(times + 1)]


def halve(n_in: int, n_out: int) -> nn.Conv2d:
    """A 4x4 convolution with stride 2: n pixels become n / 2, rounded down."""
    return nn.Conv2d(n_in, n_out, 4, stride=2, padding=1)


def double(n_in: int, n_out: int, target: tuple[int, int]) -> nn.ConvTranspose2d:
    """A transposed convolution that undoes a halving of ``target`` (h, w): 4 taps to 2 n, 5 to 2 n + 1."""
    return nn.ConvTranspose2d(n_in, n_out, (4 + target[0] % 2, 4 + target[1] % 2), stride=2, padding=1)


def transposed_decoder(
    latent_dim: int,
    widths: list[int],
    sizes: list[tuple[int, int]],
    between: Callable[[int], list[nn.Module]],
) -> list[nn.Module]:
    """A linear layer, a doubling to each further one of ``sizes``, Tanh.

    Args:
        latent_dim: length of the latent.
        widths: channels at each of ``sizes``.
        sizes: (h, w), from the smallest to the picture.
        between: the layers that follow a doubling to so many channels; none follow the last.
    """
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, numbers_in(widths[0], sizes[0])),
        nn.Unflatten(1, (widths[0], *sizes[0])),
    ]
    for index in range(1, len(sizes)):
        if index > 1:
            layers += between(widths[index - 1])
        layers.append(double(widths[index - 1], widths[index], sizes[index]))
    return [*layers, nn.Tanh()]


def numbers_in(channels: int, size: tuple[int, int]) -> int:
    """How many numbers an image of so many channels holds."""
    return channels * math.prod(size)
