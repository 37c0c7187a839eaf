"""A model small enough to run in microseconds, for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np


def tiny_document(size: int = 32, latent: int = 8) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """An RGB-D model with every layer of the main one, small enough to run in microseconds."""
    rng = np.random.default_rng(7)
    tensors: dict[str, np.ndarray] = {}

    def weights(name: str, *shape: int) -> dict[str, str]:
        fan_in = int(np.prod(shape[1:]))
        tensors[f"{name}.weight"] = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        tensors[f"{name}.bias"] = (0.1 * rng.standard_normal(shape[0])).astype(np.float32)
        return {"weight": f"{name}.weight", "bias": f"{name}.bias"}

    leaky = {"op": "activation", "kind": "leaky_relu", "slope": 0.2}
    down = {"op": "conv2d", "stride": 2, "padding": 1, "padding_mode": "zeros"}
    up = {"op": "upsample_conv2d", "padding_mode": "replicate"}
    side = size // 4
    encoder = [
        {**down, **weights("encoder.0", 8, 4, 4, 4)},
        leaky,
        {**down, **weights("encoder.1", 12, 8, 4, 4)},
        leaky,
        {"op": "reshape", "shape": [12 * side * side]},
        {"op": "linear", **weights("encoder.head", 2 * latent, 12 * side * side)},
    ]
    decoder = [
        {"op": "linear", **weights("decoder.input", 12 * side * side, latent)},
        {"op": "reshape", "shape": [12, side, side]},
        {**up, **weights("decoder.0", 8, 12, 3, 3)},
        leaky,
        {**up, **weights("decoder.1", 4, 8, 3, 3)},
        {"op": "activation", "kind": "tanh"},
    ]
    document = {
        "format_version": 1,
        "name": "tiny",
        "input": {"channels": 4, "height": size, "width": size},
        "latent_dim": latent,
        "condition_dim": 0,
        "posterior": {"scale": "softplus", "epsilon": 1e-5},
        "color": {"encoding": "fixed"},
        "depth": {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0},
        "precision": "fp32",
        "encoder": encoder,
        "decoder": decoder,
        "provenance": {"data": [{"name": "noise", "licence": "none", "pairs": 0}], "metrics": {}},
    }
    return document, tensors
