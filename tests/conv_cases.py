"""Convolutions with BatchNorm and activation, and what they are in float64, for torch.ops.edgevae."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from activations import ACTIVATIONS
from torch import Tensor

from edgevae import torch_ops as torch_ops  # registers the operators

OPS = torch.ops.edgevae
# As in test_layers.py: float32 sums of k products, nine-product forms four times as much.
EPSILON = 2.0**-24
CASES = [  # n, i, o, h, w, kernel, stride, padding, mode; None as kernel: upsample_conv
    (1, 4, 32, 16, 16, 4, 2, 1, "zeros"),
    (2, 16, 37, 24, 20, 4, 2, 1, "replicate"),
    (2, 3, 5, 7, 9, 3, 1, 1, "replicate"),
    (3, 1, 1, 1, 1, 1, 1, 0, "zeros"),
    (1, 5, 7, 11, 3, 5, 3, 2, "zeros"),
    (2, 17, 33, 5, 4, None, 1, 1, "replicate"),
    (1, 8, 4, 3, 1, None, 1, 1, "zeros"),
]


def tensors(case: tuple[Any, ...], norm: str = "affine", bias: bool = True) -> list[Tensor | None]:
    """x, weight, bias, and what BatchNorm has."""
    n, i, o, h, w, kernel, *_ = case
    k = 3 if kernel is None else kernel
    statistics = [torch.randn(o), torch.rand(o) + 0.5] if norm else [None, None]
    affine = [torch.randn(o), torch.randn(o)] if norm == "affine" else [None, None]
    return [
        torch.randn(n, i, h, w),
        torch.randn(o, i, k, k),
        torch.randn(o) if bias else None,
        *statistics,
        *affine,
    ]


def operator(case: tuple[Any, ...], activation: str = "leaky_relu", **options: Any) -> Callable[..., Tensor]:
    *_, kernel, stride, padding, mode = case
    common = {"eps": 1e-3, "padding_mode": mode, "activation": activation, "slope": 0.2, **options}
    if kernel is None:
        return lambda *args: OPS.upsample_conv(*args, **common)
    return lambda *args: OPS.conv_bn_lrelu(*args, stride=stride, padding=padding, **common)


def definition(
    case: tuple[Any, ...], args: list[Tensor | None], activation: str = "leaky_relu"
) -> tuple[Tensor, Tensor]:
    """The operator in PyTorch, float64, and the scale of its rounding errors before the activation."""
    *_, kernel, stride, padding, mode = case
    x, weight, bias, mean, var, gamma, beta = (None if t is None else t.detach().double() for t in args)

    def before(x: Tensor, weight: Tensor) -> Tensor:
        if kernel is None:
            x = F.interpolate(x, scale_factor=2)
        pads = (padding,) * 4
        return F.conv2d(
            F.pad(x, pads, mode="replicate" if mode == "replicate" else "constant"), weight, None, stride
        )

    assert x is not None
    assert weight is not None
    y, size = before(x, weight), before(x.abs(), weight.abs())
    if bias is not None:
        y, size = y + bias[:, None, None], size + bias.abs()[:, None, None]
    if mean is not None and var is not None:
        y = F.batch_norm(y, mean, var, gamma, beta, eps=1e-3)
        scale = (1 if gamma is None else gamma.abs()) / (var + 1e-3).sqrt()
        size = (size + mean.abs()[:, None, None]) * scale[:, None, None]
        if beta is not None:
            size = size + beta.abs()[:, None, None]
    return ACTIVATIONS[activation](y), size


def assert_close(
    got: Tensor, case: tuple[Any, ...], args: list[Tensor | None], activation: str = "leaky_relu"
) -> None:
    wanted, size = definition(case, args, activation)
    assert got.shape == wanted.shape
    assert args[1] is not None
    # No activation has a slope above 1; the last term is the rounding of its result.
    bound = 16 * EPSILON * (np.sqrt(args[1][0].numel() + 1) * size + wanted.abs() + 1e-30)
    worst = float(((got.double() - wanted).abs() / bound).max())
    assert worst <= 1, f"error is {worst:.2f} times its bound"
