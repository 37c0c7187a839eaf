"""PyTorch layers to the layers of the model file, BatchNorm folded; the two that PyTorch itself has not.

Imports torch; nothing that ``import edgevae`` loads imports this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .errors import ExportError

Layer = dict[str, Any]
Float64Array = npt.NDArray[np.float64]
Arrays = dict[str, Float64Array]

_NOTHING_IN_EVAL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


class ConcatCondition(nn.Module):
    """``torch.cat([x, condition], 1)`` on vectors, the condition (N, ``size``)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return torch.cat([x, condition.to(x.dtype)], 1)


class ToUnit(nn.Module):
    """[-1, 1] to [0, 1]: (x + 1) / 2. In a model file it is part of the linear layer that follows."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) / 2


class Chain(nn.Sequential):
    """An ``nn.Sequential`` that hands ``condition`` to the layers that concatenate it."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return run(self, x, condition)


def run(layers: Iterable[nn.Module], x: Tensor, condition: Tensor | None = None) -> Tensor:
    """``x`` through ``layers``, one after the other."""
    for layer in layers:
        x = layer(x, condition) if isinstance(layer, (Chain, ConcatCondition)) else layer(x)
    return x


def walk(
    name: str, module: nn.Module, x: Tensor, condition: Tensor | None = None
) -> tuple[list[Layer], dict[str, npt.NDArray[np.float32]]]:
    """Express a sequential module in eval mode as a layer list of ``docs/model-file.md``.

    Args:
        name: "encoder" or "decoder"; tensors are called ``<name>.<layer>.weight`` and so on.
        module: an ``nn.Sequential`` or a ``Chain``, nested at will, on the CPU.
        x: any input (1, ...) of the right shape; shapes of flattened layers are read off its way through.
        condition: (1, k) for a conditional model.

    Returns:
        The layers, and their tensors as float32. BatchNorm is folded in float64 and rounded once.

    Raises:
        ExportError: a layer that the model file has no word for, named with what was wanted instead.
    """
    layers: list[Layer] = []
    arrays: Arrays = {}
    upsample = ""  # the Upsample that waits for its convolution
    foldable = False  # whether the last layer is linear and the next BatchNorm belongs to it
    to_unit, in_unit = "", 0  # the ToUnit that waits for its linear layer, and how many numbers it took
    with torch.no_grad():
        for where, leaf in leaves(name, module):
            try:
                x = run([leaf], x, condition)
            except (RuntimeError, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())
                raise ExportError(f"{_say(where, leaf)} does not take {tuple(x.shape)}: {reason}") from None
            if isinstance(leaf, _NOTHING_IN_EVAL):
                continue
            if to_unit and type(leaf) not in (nn.Flatten, ConcatCondition, nn.Linear):
                raise ExportError(f"{to_unit} is followed by {_say(where, leaf)}, wanted Linear.")
            if upsample and type(leaf) is not nn.Conv2d:
                raise ExportError(f"{upsample} is followed by {_say(where, leaf)}, wanted Conv2d.")
            if isinstance(leaf, (nn.BatchNorm1d, nn.BatchNorm2d)):
                if not foldable:
                    raise ExportError(
                        f"{_say(where, leaf)} follows no convolution or linear layer that it could fold into."
                    )
                _fold(where, leaf, layers[-1], arrays)
            elif isinstance(leaf, ToUnit):
                to_unit, in_unit = _say(where, leaf), x[0].numel()
                foldable = False
            elif isinstance(leaf, nn.Upsample):
                check_upsample(where, leaf)
                upsample = _say(where, leaf)
                foldable = False
            else:
                layer = _express(where, leaf, f"{name}.{len(layers)}", x, arrays)
                if upsample:
                    layer, upsample = _join(layer, upsample, arrays), ""
                if to_unit and layer["op"] == "linear":
                    _from_unit(layer, f"{name}.{len(layers)}", arrays, in_unit)
                    to_unit = ""
                layers.append(layer)
                foldable = "weight" in layer
    if to_unit:
        raise ExportError(f"{to_unit} has no linear layer after it that it could fold into.")
    if upsample:
        raise ExportError(f"{upsample} is the last layer, wanted a Conv2d after it.")
    return layers, {key: array.astype(np.float32) for key, array in arrays.items()}


def _from_unit(layer: Layer, name: str, arrays: Arrays, count: int) -> None:
    """Have a linear layer take its first ``count`` inputs in [-1, 1] where it took them in [0, 1].

    W (x + 1) / 2 + b = (W / 2) x + (b + the sum of W / 2 over its inputs).
    """
    weight = arrays[layer["weight"]].copy()
    weight[:, :count] /= 2
    bias = 0.0 if layer["bias"] is None else arrays[layer["bias"]]
    layer["bias"] = f"{name}.bias"
    arrays[layer["weight"]], arrays[layer["bias"]] = weight, bias + weight[:, :count].sum(1)


def is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it is nothing but its layers, one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward in (
        nn.Sequential.forward,
        Chain.forward,
    )


def leaves(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a sequence, and of those within, with names to call them by in a message."""
    if is_sequence(module):
        for index, child in enumerate(module):
            yield from leaves(f"{name}.{index}", child)
    else:
        yield name, module


def _express(where: str, leaf: nn.Module, name: str, y: Tensor, arrays: Arrays) -> Layer:
    """The layer for one module; ``y`` is its output, ``name`` prefixes its tensors."""
    # Exact types: a subclass may compute something else.
    kind = type(leaf)
    if kind is nn.Conv2d:
        assert isinstance(leaf, nn.Conv2d)
        return {"op": "conv2d", **_weights(leaf, name, arrays), **window(where, leaf)}
    if kind is nn.ConvTranspose2d:
        assert isinstance(leaf, nn.ConvTranspose2d)
        return {
            "op": "conv_transpose2d",
            **_weights(leaf, name, arrays),
            "stride": _square(where, leaf, "stride", leaf.stride),
            "padding": _padding(where, leaf),
            "output_padding": _square(where, leaf, "output_padding", leaf.output_padding),
        }
    if kind is nn.Linear:
        assert isinstance(leaf, nn.Linear)
        return {"op": "linear", **_weights(leaf, name, arrays)}
    if kind is nn.MaxPool2d:
        assert isinstance(leaf, nn.MaxPool2d)
        _want(where, leaf, "padding", leaf.padding, (0, (0, 0)))
        _want(where, leaf, "dilation", leaf.dilation, (1, (1, 1)))
        _want(where, leaf, "ceil_mode", leaf.ceil_mode, (False,))
        return {
            "op": "max_pool2d",
            "kernel": _square(where, leaf, "kernel_size", leaf.kernel_size),
            "stride": _square(where, leaf, "stride", leaf.stride),
        }
    if kind in (nn.Flatten, nn.Unflatten):
        shape = list(y.shape[1:])
        if y.shape[0] != 1 or len(shape) not in (1, 3):
            raise ExportError(f"{_say(where, leaf)} gives {tuple(y.shape)}, wanted (N, n) or (N, c, h, w).")
        return {"op": "reshape", "shape": shape}
    if (known := activation(where, leaf)) is not None:
        return {"op": "activation", **known}
    if kind is ConcatCondition:
        assert isinstance(leaf, ConcatCondition)
        return {"op": "concat_condition", "size": leaf.size}
    raise ExportError(
        f"{_say(where, leaf)} has no counterpart in the model file, wanted one of Conv2d, ConvTranspose2d, "
        "Linear, Upsample with Conv2d, MaxPool2d, BatchNorm, Dropout, Flatten, Unflatten, ConcatCondition, "
        "ReLU, LeakyReLU, Tanh, Sigmoid, Softplus."
    )


def window(where: str, leaf: nn.Conv2d) -> Layer:
    """``stride``, ``padding`` and ``padding_mode`` of a convolution that the model file has a word for.

    Raises:
        ExportError: it has none.
    """
    _want(where, leaf, "padding_mode", leaf.padding_mode, ("zeros", "replicate"))
    return {
        "stride": _square(where, leaf, "stride", leaf.stride),
        "padding": _padding(where, leaf),
        "padding_mode": leaf.padding_mode,
    }


def activation(where: str, leaf: nn.Module) -> Layer | None:
    """``kind`` and, of a LeakyReLU, ``slope`` of an activation; None of any other layer.

    Raises:
        ExportError: it is one that the model file has no word for.
    """
    plain: dict[type, str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    kind = type(leaf)
    if kind in plain:
        return {"kind": plain[kind]}
    if kind is nn.LeakyReLU:
        assert isinstance(leaf, nn.LeakyReLU)
        return {"kind": "leaky_relu", "slope": float(leaf.negative_slope)}
    if kind is nn.Softplus:
        assert isinstance(leaf, nn.Softplus)
        _want(where, leaf, "beta", leaf.beta, (1,))
        if (
            leaf.threshold < 20
        ):  # above 20 the linear branch differs from log(1 + exp(x)) by less than float32 sees
            raise ExportError(f"{_say(where, leaf)} has threshold {leaf.threshold}, wanted at least 20.")
        return {"kind": "softplus"}
    return None


def _join(conv: Layer, upsample: str, arrays: Arrays) -> Layer:
    kernel = arrays[conv["weight"]].shape[2:]
    if kernel != (3, 3) or conv["stride"] != 1 or conv["padding"] != 1:
        raise ExportError(
            f"{upsample} is followed by a Conv2d with kernel {kernel[0]}x{kernel[1]}, stride "
            f"{conv['stride']} and padding {conv['padding']}, wanted kernel 3x3, stride 1 and padding 1."
        )
    return {
        "op": "upsample_conv2d",
        "weight": conv["weight"],
        "bias": conv["bias"],
        "padding_mode": conv["padding_mode"],
    }


def _fold(where: str, norm: nn.BatchNorm1d | nn.BatchNorm2d, layer: Layer, arrays: Arrays) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise ExportError(
            f"{_say(where, norm)} keeps no running statistics, wanted track_running_stats=True."
        )
    weight = arrays[layer["weight"]]
    outputs = 1 if layer["op"] == "conv_transpose2d" else 0
    if weight.shape[outputs] != norm.num_features:
        raise ExportError(
            f"{_say(where, norm)} has {norm.num_features} features, wanted {weight.shape[outputs]} as before "
            "it."
        )
    statistics = [norm.running_mean, norm.running_var, *((norm.weight, norm.bias) if norm.affine else ())]
    bias: str = layer["bias"] or layer["weight"].removesuffix("weight") + "bias"
    arrays[layer["weight"]], arrays[bias] = folded(
        weight, arrays.get(bias), norm.eps, *map(float64, statistics), outputs=outputs
    )
    layer["bias"] = bias


def folded(
    weight: Float64Array,
    bias: Float64Array | None,
    eps: float,
    mean: Float64Array,
    var: Float64Array,
    gamma: Float64Array | None = None,
    beta: Float64Array | None = None,
    *,
    outputs: int = 0,
) -> tuple[Float64Array, Float64Array]:
    """gamma (w x + b - mean) / sqrt(var + eps) + beta as one weight and one bias.

    Args:
        weight: its dimension ``outputs`` counts the layer's outputs.
        bias, mean, var, gamma, beta: (outputs,) each; None stands for zeros, and for ones as ``gamma``.
        eps: of the BatchNorm.
    """
    scale = (1.0 if gamma is None else gamma) / np.sqrt(var + eps)
    along = [1] * weight.ndim
    along[outputs] = -1
    shifted = ((0.0 if bias is None else bias) - mean) * scale + (0.0 if beta is None else beta)
    return weight * scale.reshape(along), shifted


def _weights(leaf: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, name: str, arrays: Arrays) -> Layer:
    arrays[f"{name}.weight"] = float64(leaf.weight)
    if leaf.bias is None:
        return {"weight": f"{name}.weight", "bias": None}
    arrays[f"{name}.bias"] = float64(leaf.bias)
    return {"weight": f"{name}.weight", "bias": f"{name}.bias"}


def _padding(where: str, leaf: nn.Conv2d | nn.ConvTranspose2d) -> int:
    _want(where, leaf, "groups", leaf.groups, (1,))
    _want(where, leaf, "dilation", leaf.dilation, ((1, 1),))
    padding = leaf.padding
    if padding == "valid":
        return 0
    if padding == "same":
        height, width = leaf.kernel_size
        if height != width or height % 2 == 0:
            raise ExportError(f"{_say(where, leaf)} has padding 'same', wanted an odd square kernel with it.")
        return height // 2
    return _square(where, leaf, "padding", padding)


def check_upsample(where: str, leaf: nn.Upsample) -> None:
    """Raise ExportError if a layer is not nearest-neighbour upsampling by 2."""
    _want(where, leaf, "mode", leaf.mode, ("nearest",))
    _want(where, leaf, "scale_factor", leaf.scale_factor, (2.0, (2.0, 2.0)))


def _square(where: str, leaf: nn.Module, what: str, value: Any) -> int:
    values = set(value) if isinstance(value, tuple) else {value}
    if len(values) != 1:
        raise ExportError(f"{_say(where, leaf)} has {what} {value}, wanted the same in both directions.")
    return int(values.pop())


def _want(where: str, leaf: nn.Module, what: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ExportError(
            f"{_say(where, leaf)} has {what} {value!r}, wanted {' or '.join(map(repr, allowed))}."
        )


def _say(where: str, leaf: nn.Module) -> str:
    return f"layer {where} ({type(leaf).__name__})"


def float64(tensor: Tensor) -> Float64Array:
    """The numbers of a tensor, copied."""
    return tensor.detach().cpu().double().numpy().copy()
