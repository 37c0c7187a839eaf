"""What every model of the registry is: a VAE between frames in [-1, 1] and latents, or a plain autoencoder.

Its two halves are sequential layers, each of which has its counterpart in the model file
(docs/model-file.md), so that whatever trains also runs in the native engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevae import model_file
from edgevae.errors import EdgevaeError
from edgevae.preprocess import DepthEncoding, InputSpec
from edgevae.torch_layers import Chain

from .. import subpixel

LOG_DEPTH = {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0}
STD_EPSILON = 1e-5

Size = int | tuple[int, int] | list[int]


class Output(NamedTuple):
    """What ``forward`` gives.

    Attributes:
        y: the reconstruction (N, C, h, w) in [-1, 1].
        raw: the same before the decoder's last Tanh. Since tanh(a) = 2 sigmoid(2 a) - 1, ``2 * raw`` is the
            logit of (y + 1) / 2, a Bernoulli's p.
        mean: of the posterior, (N, latent_dim); the code itself in a plain autoencoder.
        std: of the posterior, (N, latent_dim), or None.
    """

    y: Tensor
    raw: Tensor
    mean: Tensor
    std: Tensor | None


class VAE(nn.Module):
    """An autoencoder, by its kind of ``posterior`` a variational one with a diagonal Gaussian.

    Attributes:
        encoder: (N, C, h, w) in [-1, 1] to (N, 2 * latent_dim), [mean | raw scale]; to (N, latent_dim)
            without a posterior.
        decoder: (N, latent_dim) to (N, C, h, w) in [-1, 1]; ends in Tanh.
        input: what the network expects of a frame.
        posterior: "softplus" (std = softplus(raw) + 1e-5), "logvar" (std = exp(raw / 2) + 1e-5), or None.
        condition_dim: length of the condition that encoder and decoder take beside x and z; 0 for none.
        options: the arguments ``build`` would need to make this model again.
        provenance: data, licences, metrics; empty until a checkpoint fills it.
    """

    def __init__(
        self,
        name: str,
        encoder: Iterable[nn.Module],
        decoder: Iterable[nn.Module],
        spec: InputSpec,
        latent_dim: int,
        *,
        posterior: str | None = "softplus",
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.encoder, self.decoder = Chain(*encoder), Chain(*decoder)
        self.input, self.latent_dim = spec, latent_dim
        self.posterior, self.condition_dim = posterior, condition_dim
        self.options: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}

    def posterior_of(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation of q(z | x), each (N, latent_dim); no deviation without a posterior.

        Args:
            x: float32 (N, C, h, w) in [-1, 1].
            condition: float32 (N, condition_dim) for a conditional model, else None.
        """
        self._check_condition(x, condition)
        head = self.encoder(x, condition).float()
        if self.posterior is None:
            return head, None
        mean, raw = head.chunk(2, dim=1)
        return mean, deviation(raw, self.posterior, STD_EPSILON)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Pictures (N, C, h, w) in [-1, 1] from latents (N, latent_dim)."""
        return torch.tanh(self._raw(z, condition))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Output:
        """Reconstruct ``x``. Samples z while training; decodes the mean in eval mode."""
        mean, std = self.posterior_of(x, condition)
        z = mean + std * torch.randn_like(std) if self.training and std is not None else mean
        raw = self._raw(z, condition)
        return Output(torch.tanh(raw), raw, mean, std)

    def _raw(self, z: Tensor, condition: Tensor | None) -> Tensor:
        self._check_condition(z, condition)
        return subpixel.run(list(self.decoder)[:-1], z, condition).float()

    def _check_condition(self, x: Tensor, condition: Tensor | None) -> None:
        wanted = (len(x), self.condition_dim) if self.condition_dim else None
        got = None if condition is None else tuple(condition.shape)
        if got != wanted:
            raise EdgevaeError(f"{self.name} got the condition {got}, wanted {wanted}.")

    def document(self) -> dict[str, Any]:
        """The model file's document (docs/model-file.md) without its layers and its storage precision."""
        posterior = None if self.posterior is None else {"scale": self.posterior, "epsilon": STD_EPSILON}
        return {
            "name": self.name,
            "latent_dim": self.latent_dim,
            "condition_dim": self.condition_dim,
            "posterior": posterior,
            **input_document(self.input),
            "provenance": self.provenance,
        }


def deviation(raw: Tensor, scale: str, epsilon: float) -> Tensor:
    """A posterior's standard deviation from its raw scale; ``scale`` as in the document of a model file."""
    return (F.softplus(raw) if scale == "softplus" else torch.exp(raw / 2)) + epsilon


def input_document(spec: InputSpec) -> dict[str, Any]:
    """The part of a model file's document that says what a frame becomes."""
    return {
        "input": {"channels": spec.channels, "height": spec.height, "width": spec.width},
        "color": {"encoding": spec.color},
        "depth": None if spec.depth is None else asdict(spec.depth),
    }


def one_hot(labels: Tensor, condition_dim: int) -> Tensor:
    """Labels (N,) as a conditional model takes them, float32 (N, condition_dim)."""
    return F.one_hot(labels, condition_dim).float()


def input_spec(
    channels: int, size: Size, color: str = "fixed", depth: dict[str, Any] | None = None
) -> InputSpec:
    """The options that every model has, checked.

    Args:
        channels: 1 (grey), 3 (colour) or 4 (colour and depth).
        size: height and width, one number or (height, width).
        color: "fixed" or "minmax" (per image and channel).
        depth: depth encoding as in the model file, used with 4 channels; None takes log depth from 0.25 m
            to 80 m.

    Raises:
        EdgevaeError: one of them is out of its range.
    """
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise EdgevaeError(f"size is {size!r}, wanted one number or [height, width].")
    try:
        encoding = DepthEncoding(**(LOG_DEPTH if depth is None else depth)) if channels == 4 else None
    except TypeError:
        raise EdgevaeError(f"depth is {depth!r}, wanted a mapping such as {LOG_DEPTH}.") from None
    spec = InputSpec(channels, pair[0], pair[1], color, encoding)
    model_file.check_input(input_document(spec))
    return spec


def check_numbers(**options: Any) -> None:
    """Check that options are whole numbers of at least 1.

    Raises:
        EdgevaeError: one is not.
    """
    for name, value in options.items():
        if not _whole(value):
            raise EdgevaeError(
                f"{name} is {value!r}, wanted a whole number from 1 to {model_file.MAX_VECTOR}."
            )


def numbers(name: str, values: Sequence[int]) -> list[int]:
    """An option that is a list of whole numbers of at least 1.

    Raises:
        EdgevaeError: it is not.
    """
    if not isinstance(values, (list, tuple)) or not values or not all(map(_whole, values)):
        raise EdgevaeError(
            f"{name} is {values!r}, wanted a list of whole numbers from 1 to {model_file.MAX_VECTOR}."
        )
    return list(values)


def _whole(value: object) -> bool:
    return type(value) is int and 1 <= value <= model_file.MAX_VECTOR  # bool is a subclass of int
