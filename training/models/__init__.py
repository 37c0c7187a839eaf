"""The models: one file a family, and the registry that ``build`` looks them up in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from edgevae import model_file
from edgevae.errors import EdgevaeError

from .base import VAE, Output, one_hot
from .conv import conv_autoencoder, conv_vae
from .frey import frey_vae
from .fully_connected import beta_vae, conditional_vae, fc_vae
from .rgbd import rgbd_vae
from .transition import transition_vae
from .vgg import vgg_vae

__all__ = ["REGISTRY", "VAE", "Output", "build", "one_hot"]

REGISTRY: dict[str, Callable[..., VAE]] = {
    "rgbd-vae": rgbd_vae,
    "fc-vae": fc_vae,
    "conditional-vae": conditional_vae,
    "vgg-vae": vgg_vae,
    "transition-vae": transition_vae,
    "conv-autoencoder": conv_autoencoder,
    "conv-vae": conv_vae,
    "frey-vae": frey_vae,
    "beta-vae": beta_vae,
}


def build(name: str, **options: Any) -> VAE:
    """Build a model of the registry, with random weights.

    Raises:
        EdgevaeError: no model has that name, it does not take these options, or it would be larger than a
            model file may be.
    """
    if name not in REGISTRY:
        raise EdgevaeError(f"no model is called {name!r}; wanted one of: {', '.join(sorted(REGISTRY))}.")
    takes = inspect.signature(REGISTRY[name]).parameters
    for option in options:
        if option not in takes:
            raise EdgevaeError(
                f"model {name!r} has no option {option!r}; wanted some of: {', '.join(takes)}."
            )
    with torch.device("meta"):  # shapes without memory: a size mistaken in a config costs nothing
        weights = sum(tensor.numel() for tensor in REGISTRY[name](**options).state_dict().values())
    if 4 * weights > model_file.MAX_FILE_BYTES:
        raise EdgevaeError(
            f"model {name!r} with options {options} has {weights:,} numbers, wanted at most "
            f"{model_file.MAX_FILE_BYTES // 4:,}: what a model file may hold; take a smaller size or layers."
        )
    model = REGISTRY[name](**options)
    model.options = dict(options)
    return model
