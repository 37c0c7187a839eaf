"""The RGB-D VAE at any width with random weights: as fast as a trained one, and there without training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import model_file
from ..errors import EdgevaeError

PREFIX = "random:"
MAX_WIDTH = 256


def parse_width(name: str) -> int | None:
    """64 for "random:64"; None for what is no such name.

    Raises:
        EdgevaeError: it is such a name, without a width from 1 to 256.
    """
    if not name.startswith(PREFIX):
        return None
    text = name.removeprefix(PREFIX)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= MAX_WIDTH):
        raise EdgevaeError(f"model is {name!r}, wanted random:WIDTH with a width from 1 to {MAX_WIDTH}.")
    return int(text)


def write_random_model(path: Path, width: int) -> None:
    """Write the model file: 4x128x128 to 400 and back, ``width`` channels after the first convolution."""
    generator = np.random.default_rng(0)
    tensors: dict[str, npt.NDArray[np.float32]] = {}

    def layer(op: str, name: str, *shape: int, **fields: Any) -> dict[str, Any]:
        # variance 2 / inputs keeps the size of activations through ReLU-like layers
        scale = np.sqrt(2 / np.prod(shape[1:]))
        tensors[f"{name}.w"] = (scale * generator.standard_normal(shape)).astype(np.float32)
        tensors[f"{name}.b"] = 0.1 * generator.standard_normal(shape[0], np.float32)
        return {"op": op, "weight": f"{name}.w", "bias": f"{name}.b", **fields}

    leaky = {"op": "activation", "kind": "leaky_relu", "slope": 0.2}
    window = {"stride": 2, "padding": 1, "padding_mode": "zeros"}
    widths = (width, 2 * width, 4 * width, 8 * width, 8 * width)
    encoder: list[dict[str, Any]] = []
    for index, (n_in, n_out) in enumerate(itertools.pairwise((4, *widths))):
        encoder += [layer("conv2d", f"e{index}", n_out, n_in, 4, 4, **window), leaky]
    deep = widths[-1]
    encoder += [{"op": "reshape", "shape": [deep * 4 * 4]}, layer("linear", "head", 800, deep * 4 * 4)]

    decoder = [layer("linear", "start", deep * 4 * 4, 400), {"op": "reshape", "shape": [deep, 4, 4]}]
    for index, (n_in, n_out) in enumerate(itertools.pairwise((*reversed(widths), 4))):
        decoder += [layer("upsample_conv2d", f"d{index}", n_out, n_in, 3, 3, padding_mode="replicate"), leaky]
    decoder[-1] = {"op": "activation", "kind": "tanh"}

    document = {
        "format_version": 1,
        "name": f"rgbd-vae, width {width}, random weights",
        "input": {"channels": 4, "height": 128, "width": 128},
        "latent_dim": 400,
        "condition_dim": 0,
        "posterior": {"scale": "softplus", "epsilon": 1e-5},
        "color": {"encoding": "fixed"},
        "depth": {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0},
        "precision": "fp32",
        "encoder": encoder,
        "decoder": decoder,
        "provenance": {},
    }
    model_file.write(path, document, tensors)
