"""Every model of training's registry, small enough for a step in milliseconds, and something to feed it."""

from __future__ import annotations

from typing import Any

import torch

import training

# Each model of the registry, small, at sizes that no halving divides.
SMALL: dict[str, dict[str, Any]] = {
    "rgbd-vae": {"width": 2, "latent_dim": 3, "size": [32, 64]},
    "fc-vae": {"hidden": [9, 7], "latent_dim": 3, "size": [5, 7], "channels": 3},
    "conditional-vae": {"hidden": [9], "condition_dim": 3, "size": [7, 5], "channels": 4},
    "vgg-vae": {"widths": [3, 4], "block_depth": 2, "latent_dim": 3, "size": [9, 14]},
    "transition-vae": {"width": 5, "min_width": 3, "size": [29, 43], "channels": 3},
    "conv-autoencoder": {"widths": [3, 4, 2], "latent_dim": 3, "size": [17, 22]},
    "conv-vae": {"widths": [3, 4, 2], "latent_dim": 3, "size": [22, 15], "channels": 4},
    "frey-vae": {"widths": [3, 4], "latent_dim": 3, "size": [11, 6]},
    "beta-vae": {"hidden": [9], "latent_dim": 3, "size": [7, 8]},
}


def batch(net: training.models.VAE, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pictures of noise, and a class for each where the model wants one."""
    x = torch.rand(count, net.input.channels, net.input.height, net.input.width) * 2 - 1
    if not net.condition_dim:
        return x, None
    return x, torch.eye(net.condition_dim)[torch.arange(count) % net.condition_dim]
