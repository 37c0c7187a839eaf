"""``edgevae.fuse``: a PyTorch module whose convolutions run in the engine's kernels.

Imports torch; nothing that ``import edgevae`` loads imports this file.
"""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import Tensor, nn

from . import torch_layers, torch_ops
from .errors import EdgevaeError, ExportError

# What hands an image on in the memory layout in which it comes.
_KEEPS_LAYOUT = (
    nn.BatchNorm2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.ReLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)
_OUTPUT_ACTIVATIONS = (nn.Sigmoid, nn.Softplus, nn.Tanh)


def fuse(module: nn.Module) -> nn.Module:
    """A copy of a module in which runs of layers are single operators of ``torch.ops.edgevae``.

    A run stands in an ``nn.Sequential`` or a ``Chain``, at any depth: ``Conv2d``, or ``Upsample(2)`` by
    nearest neighbour and a 3x3 ``Conv2d``; then ``BatchNorm2d`` or not; then ``ReLU``, ``LeakyReLU``,
    ``Tanh``, ``Sigmoid``, ``Softplus`` or none. Layers that fit no run stay as they are: groups, dilation,
    other padding, hooks, subclasses. So does the last Tanh, Sigmoid or Softplus of a sequence that belongs to
    a module with a ``forward`` of its own, which may take it off to get at what comes before.

    In evaluation a fused module gives what ``module`` gives, up to rounding. In training it runs the layers
    that it was made of, BatchNorm's statistics and all. It may be trained, loaded (its ``state_dict`` has
    names of its own), moved, scripted, traced, compiled and exported at any time.

    Raises:
        EdgevaeError: ``module`` is no module, or a TorchScript one.
    """
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise EdgevaeError(
            f"got a {type(module).__name__}, wanted an nn.Module; fuse first, then script or trace."
        )
    # Parameters made in inference mode have no version counter, without which packed weights cannot be kept.
    with torch.inference_mode(False):
        module = copy.deepcopy(module)
    if _fits(module, upsampled=False):
        return _fused([module])[0]
    _swap(module, whole=True)
    return module


class FusedConv(nn.Module):
    """What ``fuse`` puts in the place of a run of layers. It holds them: parameters and buffers are theirs.

    Attributes:
        upsample, conv, norm, activation: the layers; None for one that is not there.
        channels_last: the memory layout of the output, as the operators have it.
    """

    def __init__(
        self,
        upsample: nn.Upsample | None,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        activation: nn.Module | None,
    ) -> None:
        super().__init__()
        self.upsample, self.conv, self.norm, self.activation = upsample, conv, norm, activation
        self.training = conv.training
        self.channels_last: bool | None = None
        window = torch_layers.window("", conv)
        self.stride: int = window["stride"]
        self.padding: int = window["padding"]
        self.padding_mode: str = window["padding_mode"]
        known = None if activation is None else torch_layers.activation("", activation)
        self.kind: str = "none" if known is None else known["kind"]
        self.slope: float = 0.0 if known is None else known.get("slope", 0.0)

    # TorchScript compiles what follows: it leaves out the branch of an attribute that is None.

    def forward(self, x: Tensor) -> Tensor:
        training = self.training
        if self.norm is not None:
            training = training or self.norm.training
        return self._layers(x) if training else self._operator(x)

    def _operator(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        mean, var, gamma, beta = None, None, None, None
        eps = 0.0
        if self.norm is not None:
            mean, var, gamma, beta = (
                self.norm.running_mean,
                self.norm.running_var,
                self.norm.weight,
                self.norm.bias,
            )
            eps = self.norm.eps
        if self.upsample is not None:
            return torch.ops.edgevae.upsample_conv(  # type: ignore[no-any-return]
                x,
                weight,
                bias,
                mean,
                var,
                gamma,
                beta,
                eps=eps,
                padding_mode=self.padding_mode,
                activation=self.kind,
                slope=self.slope,
                channels_last=self.channels_last,
            )
        return torch.ops.edgevae.conv_bn_lrelu(  # type: ignore[no-any-return]
            x,
            weight,
            bias,
            mean,
            var,
            gamma,
            beta,
            eps=eps,
            stride=self.stride,
            padding=self.padding,
            padding_mode=self.padding_mode,
            activation=self.kind,
            slope=self.slope,
            channels_last=self.channels_last,
        )

    def _layers(self, x: Tensor) -> Tensor:
        if self.upsample is not None:
            x = self.upsample(x)
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
            # What is compiled writes BatchNorm's statistics where the version counter sees it.
            if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # type: ignore[attr-defined]
                torch_ops.forget(self.conv.weight)
        if self.activation is not None:
            x = self.activation(x)
        return x


def _swap(module: nn.Module, *, whole: bool, nested: bool = False) -> None:
    """Fuse in place.

    Args:
        module: whatever it is.
        whole: those who use it take it with its last layer.
        nested: it is part of a sequence.
    """
    if not torch_layers.is_sequence(module):
        for child in module.children():
            _swap(child, whole=False)
        return
    for index, child in enumerate(module):
        _swap(child, whole=whole or index + 1 < len(module), nested=True)
    layers = _fused(list(module), whole)
    del module[:]
    module.extend(layers)
    if not nested:
        _choose_layouts(module)


def _fused(layers: list[nn.Module], whole: bool = True) -> list[nn.Module]:
    """The layers with each run as one."""
    found: list[nn.Module] = []
    rest = list(layers)
    while rest:
        layer = rest.pop(0)
        upsample = None
        if isinstance(layer, nn.Upsample) and _doubles(layer) and rest and _fits(rest[0], upsampled=True):
            upsample, layer = layer, rest.pop(0)
        elif not _fits(layer, upsampled=False):
            found.append(layer)
            continue
        assert isinstance(layer, nn.Conv2d)
        norm = None
        if rest and isinstance(rest[0], nn.BatchNorm2d) and _normalizes(rest[0], layer):
            norm = rest[0]
            del rest[0]
        activation = None
        if rest and _activates(rest[0]):
            taken_off = not whole and len(rest) == 1 and isinstance(rest[0], _OUTPUT_ACTIVATIONS)
            activation = None if taken_off else rest.pop(0)
        found.append(FusedConv(upsample, layer, norm, activation))
    return found


def _choose_layouts(sequence: nn.Module) -> None:
    """Between fused layers channels come last; what leaves them is plain, for those who take views."""
    before: FusedConv | None = None
    for _, leaf in torch_layers.leaves("", sequence):
        if isinstance(leaf, FusedConv):
            if before is not None:
                before.channels_last, leaf.channels_last = True, False
            before = leaf
        elif type(leaf) not in _KEEPS_LAYOUT:
            before = None


def _plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer is what its type says, and nobody looks on."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is kind and not any(hooks)


def _doubles(layer: nn.Upsample) -> bool:
    if not _plain(layer, nn.Upsample):
        return False
    with contextlib.suppress(ExportError):
        torch_layers.check_upsample("", layer)
        return True
    return False


def _fits(layer: nn.Module, upsampled: bool) -> bool:
    if not _plain(layer, nn.Conv2d):
        return False
    assert isinstance(layer, nn.Conv2d)
    with contextlib.suppress(ExportError):
        window = torch_layers.window("", layer)
        if upsampled:
            return layer.kernel_size == (3, 3) and window["stride"] == window["padding"] == 1
        return bool(window["padding"] < min(layer.kernel_size))
    return False


def _normalizes(layer: nn.BatchNorm2d, conv: nn.Conv2d) -> bool:
    averages = layer.running_mean is not None
    return _plain(layer, nn.BatchNorm2d) and averages and layer.num_features == conv.out_channels


def _activates(layer: nn.Module) -> bool:
    with contextlib.suppress(ExportError):
        return _plain(layer, type(layer)) and torch_layers.activation("", layer) is not None
    return False
