"""The posterior's deviation, fitted afterwards: how far latents move when depth is taken away.

While a network trains, nothing asks the posterior of a frame without depth to contain that of the same frame
with its depth. So its deviation hardly grows, though the latents move by many of it. Here only the rows that
make the deviation are fitted, means and decoder stay: for pairs of the same training frame, whole and with
depth withheld as training withholds it, by maximum likelihood

    minimise  log s + ((m_whole - m)^2 + s_whole^2) / (2 s^2),

which is the cross-entropy from q(z | whole) to q(z | part), averaged. For the whole frame itself the least
lies at s = s_whole: what it was. ``training.evaluate.coverage`` checks on other frames whether it worked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

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
AXES = 128  # of the features, along which the deviation may change
STEPS = 400
_BATCH = 32


def fit_scale(
    document: dict[str, Any],
    tensors: dict[str, npt.NDArray[Any]],
    data: FramesDataModule,
    say: Callable[[str], None] = lambda words: None,
) -> int:
    """Replace the rows of the encoder's last layer that make the deviation, in ``tensors``.

    Args:
        document, tensors: of a model file that is not int8.
        data: that it was trained on, with its augmentation.
        say: is told what is going on, a line at a time.

    Returns:
        How many frames it took; 0 where training withholds no depth, or the model has no posterior or does
        not end in a linear layer, and nothing was changed.
    """
    last = document["encoder"][-1]
    augment, posterior = data.augment, document["posterior"]
    withholds = augment.dropping + augment.drop_holes + augment.drop_range
    if not withholds or posterior is None or last["op"] != "linear" or last["bias"] is None:
        return 0
    say(f"deviation of the posterior, from {FRAMES} training frames and the same without some of their depth")
    latents = int(document["latent_dim"])
    body = chain(document["encoder"][:-1], tensors)
    weight, bias = (torch.from_numpy(np.array(tensors[last[key]], np.float32)) for key in ("weight", "bias"))
    rows, moments = [], []
    for whole, part in _pairs(data):
        with torch.inference_mode():
            features = [body(x) for x in (whole, part)]
            means = [F.linear(h, weight[:latents], bias[:latents]) for h in features]
            std = deviation(F.linear(features[0], weight[latents:], bias[latents:]), **posterior)
        rows += features
        moments += [std.square(), (means[0] - means[1]).square() + std.square()]
    changed_weight, changed_bias = _fit(
        torch.cat(rows), torch.cat(moments), weight[latents:], bias[latents:], posterior
    )
    tensors[last["weight"]] = torch.cat([weight[:latents], changed_weight]).numpy()
    tensors[last["bias"]] = torch.cat([bias[:latents], changed_bias]).numpy()
    return FRAMES


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


def _fit(
    rows: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, posterior: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the raw scale, changed along the rows' principal axes.

    Args:
        rows: features (N, D).
        moments: wanted mean squares of z - mean, (N, latent_dim).
        weight, bias: (latent_dim, D), (latent_dim,).
        posterior: of the document.
    """
    torch.manual_seed(0)
    middle = rows.mean(0)
    _, scale, axes = torch.pca_lowrank(rows - middle, min(AXES, *rows.shape), center=False)
    axes = axes / (scale / len(rows) ** 0.5).clamp(min=1e-6)
    along = (rows - middle) @ axes
    raw = F.linear(rows, weight, bias)
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
        return weight + turned, bias + shift - turned @ middle
