"""The posterior's deviation, fitted afterwards: how far latents move when depth is taken away.

While a network trains, nothing asks the posterior of a frame without depth to contain that of the same frame
with its depth. So its deviation hardly grows, though the latents move by many of it. Here only what makes the
deviation is fitted, means and decoder stay: for pairs of the same training frame, whole and with depth
withheld as training withholds it, by maximum likelihood

    minimise  log s + ((m_whole - m)^2 + s_whole^2) / (2 s^2),

which is the cross-entropy from q(z | whole) to q(z | part), averaged. For the whole frame itself the least
lies at s = s_whole: what it was. ``training.evaluate.coverage`` checks on other frames whether it worked.

Where two linear layers end the encoder, the numbers between them hold what the means need, in as many
directions as there are latents, and hardly how much depth is missing. The directions that no mean depends on
are given away: to what of the convolutions' output tells most of the wanted deviation, by reduced-rank
regression (Izenman, "Reduced-rank regression for the multivariate linear model", 1975).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edgevae.torch_model import chain

from .data import FramesDataModule
from .data.draws import Draws
from .data.frames import Frames
from .models.base import deviation

FRAMES = 4096
AXES = 512  # of what the last layer sees, along which the deviation may change
SEEN = 1024  # axes of the convolutions' output that are looked at for what tells of it
STEPS = 400
_BATCH = 32


def fit_scale(
    document: dict[str, Any],
    tensors: dict[str, npt.NDArray[Any]],
    data: FramesDataModule,
    say: Callable[[str], None] = lambda words: None,
) -> int:
    """Replace what makes the deviation in the encoder's last linear layer, or two, in ``tensors``.

    Args:
        document, tensors: of a model file that is not int8.
        data: that it was trained on, with its augmentation.
        say: is told what is going on, a line at a time.

    Returns:
        How many frames it took; 0 where training withholds no depth, or the model has no posterior or does
        not end in a linear layer, and nothing was changed.
    """
    layers, posterior = document["encoder"], document["posterior"]
    heads = list(takewhile(lambda layer: layer["op"] == "linear", layers[:-3:-1]))[::-1]
    augment = data.augment
    withholds = augment.dropping + augment.drop_holes + augment.drop_range
    if not withholds or posterior is None or not heads or any(head["bias"] is None for head in heads):
        return 0
    say(f"deviation of the posterior, from {FRAMES} training frames and the same without some of their depth")
    latents = int(document["latent_dim"])
    body = chain(layers[: -len(heads)], tensors)
    weights = [
        _Linear(*(torch.from_numpy(np.array(tensors[head[key]], np.float32)) for key in ("weight", "bias")))
        for head in heads
    ]
    rows, moments = [], []
    for whole, part in _pairs(data):
        with torch.inference_mode():
            features = [body(x) for x in (whole, part)]
            outputs = [_through(weights, h).tensor_split([latents], 1) for h in features]
            variance = deviation(outputs[0][1], **posterior).square()
            rows += features
            moments += [variance, (outputs[0][0] - outputs[1][0]).square() + variance]
    seen, wanted = torch.cat(rows), torch.cat(moments)
    if len(heads) == 2:
        weights = _give_away(weights, latents, seen, _raw(wanted.sqrt(), posterior))
        seen = weights[0](seen)
    weights[-1] = _fit(seen, wanted, weights[-1], latents, posterior)
    for head, (weight, bias) in zip(heads, weights, strict=True):
        tensors[head["weight"]], tensors[head["bias"]] = weight.numpy(), bias.numpy()
    return FRAMES


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def _through(layers: Sequence[_Linear], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _give_away(layers: Sequence[_Linear], latents: int, rows: Tensor, wanted: Tensor) -> list[_Linear]:
    """Two linear layers, the directions between them that no mean depends on made to tell of ``wanted``.

    Args:
        layers: (H, D) and (2 latents, H).
        latents: how many means.
        rows: what the first sees, (N, D).
        wanted: raw scales (N, latents).
    """
    first, last = layers
    free = len(first.weight) - latents
    if free <= 0:
        return list(layers)
    middle, axes, along = _axes(rows, SEEN)
    tells = torch.linalg.svd(along.T @ (wanted - wanted.mean(0)) / len(rows), full_matrices=False)[0]
    told = (axes @ tells[:, :free]).T
    kept = torch.linalg.svd(last.weight[:latents], full_matrices=False)[2]
    return [
        _Linear(torch.cat([kept @ first.weight, told]), torch.cat([kept @ first.bias, -told @ middle])),
        _Linear(F.pad(last.weight @ kept.T, (0, len(told))), last.bias),
    ]


def _pairs(data: FramesDataModule) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of training frames, whole and with depth withheld, the same crops of both."""
    names = dict.fromkeys(str(each["name"]) for each in data.provenance())
    sets = [data.trained(name) for name in names]
    total = sum(map(len, sets))
    keep = replace(data.augment, drop_depth=0.0, drop_blocks=0.0, drop_holes=0.0, drop_range=0.0)
    for frames in sets:
        count = round(FRAMES * len(frames) / total)
        drawn = np.arange(count)
        whole, part = (
            Frames(frames.frames, frames.indices.tolist(), frames.spec, augment, seed=frames.seed)
            for augment in (keep, data.augment)
        )
        for places in np.split(drawn, range(_BATCH, count, _BATCH)):
            draws = Draws(0, places, places % len(frames))
            yield whole.batch(draws)["input"], part.batch(draws)["input"]


def _raw(std: Tensor, posterior: dict[str, Any]) -> Tensor:
    """What :func:`deviation` makes ``std`` of."""
    std = (std - float(posterior["epsilon"])).clamp(min=1e-6)
    return torch.log(torch.expm1(std)) if posterior["scale"] == "softplus" else 2 * std.log()


def _axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of (N, D), its first principal axes (D, A) scaled to a deviation of 1, and rows along them."""
    torch.manual_seed(0)
    middle = rows.mean(0)
    _, scale, axes = torch.pca_lowrank(rows - middle, min(count, *rows.shape), center=False)
    axes = axes / (scale / len(rows) ** 0.5).clamp(min=1e-6)
    return middle, axes, (rows - middle) @ axes


def _fit(rows: Tensor, moments: Tensor, layer: _Linear, latents: int, posterior: dict[str, Any]) -> _Linear:
    """The last layer, its rows of the raw scale changed along the principal axes of what it sees.

    Args:
        rows: what it sees (N, D).
        moments: wanted mean squares of z - mean, (N, latents).
        layer: (2 latents, D).
        latents: how many.
        posterior: of the document.
    """
    middle, axes, along = _axes(rows, AXES)
    raw = layer(rows)[:, latents:]
    # Begin with least squares to each pair's own distance: from far too narrow it is a long way.
    away = _raw(moments.sqrt(), posterior) - raw
    shift = away.mean(0).requires_grad_()
    steps = (along.T @ away / len(rows)).requires_grad_()
    optimizer = torch.optim.Adam([steps, shift], lr=0.03, betas=(0.9, 0.95))  # first gradients are huge
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / STEPS)
        std = deviation(raw + along @ steps + shift, **posterior)
        loss = (std.log() + moments / (2 * std.square())).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        turned = (axes @ steps).T
        return _Linear(
            torch.cat([layer.weight[:latents], layer.weight[latents:] + turned]),
            torch.cat([layer.bias[:latents], layer.bias[latents:] + shift - turned @ middle]),
        )
