"""The models, one builder each, and the registry that ``build`` looks them up in.

Every model is a ``torch.nn.Module`` with ``encoder`` and ``decoder``: plain sequential layers, each of which
has its counterpart in the model file (docs/model-file.md), so that whatever trains also runs in the native
engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevae.errors import EdgevaeError
from edgevae.preprocess import DepthEncoding, InputSpec

from . import subpixel

LOG_DEPTH = {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0}
STD_EPSILON = 1e-5


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


class VAE(nn.Module):
    """A variational autoencoder with a diagonal Gaussian posterior, std = softplus(raw) + 1e-5.

    Attributes:
        encoder: (N, C, h, w) in [-1, 1] to (N, 2 * latent_dim), [mean | raw scale].
        decoder: (N, latent_dim) to (N, C, h, w) in [-1, 1].
        input: what the network expects of a frame.
        options: the arguments ``build`` would need to make this model again.
        provenance: data, licences, metrics; empty until a checkpoint fills it.
    """

    def __init__(
        self, name: str, encoder: nn.Sequential, decoder: nn.Sequential, spec: InputSpec, latent_dim: int
    ) -> None:
        super().__init__()
        self.name = name
        self.encoder, self.decoder = encoder, decoder
        self.input, self.latent_dim = spec, latent_dim
        self.options: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (N, latent_dim)."""
        mean, raw = self.encoder(x).float().chunk(2, dim=1)
        return mean, F.softplus(raw) + STD_EPSILON

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean, std. Samples z while training; decodes the mean in eval mode."""
        mean, std = self.posterior(x)
        z = mean + std * torch.randn_like(std) if self.training else mean
        return subpixel.run(self.decoder, z).float(), mean, std

    def document(self) -> dict[str, Any]:
        """The model file's document (docs/model-file.md) without its layers and its storage precision."""
        depth = self.input.depth
        return {
            "name": self.name,
            "input": {
                "channels": self.input.channels,
                "height": self.input.height,
                "width": self.input.width,
            },
            "latent_dim": self.latent_dim,
            "condition_dim": 0,
            "posterior": {"scale": "softplus", "epsilon": STD_EPSILON},
            "color": {"encoding": self.input.color},
            "depth": None if depth is None else asdict(depth),
            "provenance": self.provenance,
        }


def rgbd_vae(
    *,
    width: int = 64,
    latent_dim: int = 400,
    channels: int = 4,
    size: int | tuple[int, int] | list[int] = 128,
    color: str = "fixed",
    depth: dict[str, Any] | None = None,
) -> VAE:
    """Convolutional RGB-D VAE: widths w, 2w, 4w, 8w, 8w down and back up again.

    Args:
        width: channels after the first convolution.
        latent_dim: length of the latent.
        channels: 4 (colour and depth), 3 (colour) or 1 (grey).
        size: height and width of the input, one number or (height, width); multiples of 32.
        color: "fixed" or "minmax" (per image and channel).
        depth: depth encoding as in the model file; None takes log depth from 0.25 m to 80 m.
    """
    height, wide = (size, size) if isinstance(size, int) else size
    if height % 32 or wide % 32 or min(height, wide) < 32:
        raise EdgevaeError(f"input size is {height}x{wide}, wanted multiples of 32, such as size=128.")
    if channels not in (1, 3, 4) or min(width, latent_dim) < 1:
        raise EdgevaeError(
            f"got channels={channels}, width={width}, latent_dim={latent_dim}; "
            "wanted 1, 3 or 4 channels and a width and latent_dim of at least 1."
        )
    encoding = DepthEncoding(**(depth or LOG_DEPTH)) if channels == 4 else None
    spec = InputSpec(channels, height, wide, color=color, depth=encoding)
    cells = (height // 32, wide // 32)
    encoder = conv_encoder(channels, width, cells[0] * cells[1], latent_dim)
    return VAE("rgbd-vae", encoder, upsample_decoder(channels, width, cells, latent_dim), spec, latent_dim)


REGISTRY: dict[str, Callable[..., VAE]] = {"rgbd-vae": rgbd_vae}


def build(name: str, **options: Any) -> VAE:
    """Build a model of the registry, with random weights.

    Raises:
        EdgevaeError: no model has that name, or it does not take these options.
    """
    if name not in REGISTRY:
        raise EdgevaeError(f"no model is called {name!r}; wanted one of: {', '.join(sorted(REGISTRY))}.")
    try:
        model = REGISTRY[name](**options)
    except TypeError as error:
        raise EdgevaeError(f"model {name!r} cannot be built with options {options}: {error}.") from error
    model.options = dict(options)
    return model
