"""A model small enough to run in microseconds, for the tests."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np


def tiny_document(
    size: int | tuple[int, int] = 32, latent: int = 8, widths: tuple[int, ...] = (8, 12), condition: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """An RGB-D model with every layer of the main one, small enough to run in microseconds.

    Args:
        size: height and width of the image, one number or two; multiples of 2 to the number of `widths`.
        latent: length of the latent.
        widths: channels after each halving of the encoder; the decoder goes back the same way.
        condition: length of the condition that stands beside the head's input and the latent.
    """
    rng = np.random.default_rng(7)
    tensors: dict[str, np.ndarray] = {}

    def weights(name: str, *shape: int) -> dict[str, str]:
        fan_in = int(np.prod(shape[1:]))
        tensors[f"{name}.weight"] = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        tensors[f"{name}.bias"] = (0.1 * rng.standard_normal(shape[0])).astype(np.float32)
        return {"weight": f"{name}.weight", "bias": f"{name}.bias"}

    leaky = {"op": "activation", "kind": "leaky_relu", "slope": 0.2}
    down = {"op": "conv2d", "stride": 2, "padding": 1, "padding_mode": "zeros"}
    concat = [{"op": "concat_condition", "size": condition}] if condition else []
    up = {"op": "upsample_conv2d", "padding_mode": "replicate"}
    height, width = (size, size) if isinstance(size, int) else size
    cells = [widths[-1], height >> len(widths), width >> len(widths)]
    encoder = []
    for i, (n_in, n_out) in enumerate(pairwise((4, *widths))):
        encoder += [{**down, **weights(f"encoder.{i}", n_out, n_in, 4, 4)}, leaky]
    encoder += [
        {"op": "reshape", "shape": [int(np.prod(cells))]},
        *concat,
        {"op": "linear", **weights("encoder.head", 2 * latent, int(np.prod(cells)) + condition)},
    ]
    decoder = [
        *concat,
        {"op": "linear", **weights("decoder.input", int(np.prod(cells)), latent + condition)},
        {"op": "reshape", "shape": cells},
    ]
    for i, (n_in, n_out) in enumerate(pairwise((*reversed(widths), 4))):
        decoder += [{**up, **weights(f"decoder.{i}", n_out, n_in, 3, 3)}, leaky]
    decoder[-1] = {"op": "activation", "kind": "tanh"}
    document = {
        "format_version": 1,
        "name": "tiny",
        "input": {"channels": 4, "height": height, "width": width},
        "latent_dim": latent,
        "condition_dim": condition,
        "posterior": {"scale": "softplus", "epsilon": 1e-5},
        "color": {"encoding": "fixed"},
        "depth": {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0},
        "precision": "fp32",
        "encoder": encoder,
        "decoder": decoder,
        "provenance": {"data": [{"name": "noise", "licence": "none", "pairs": 0}], "metrics": {}},
    }
    return document, tensors
