"""A start better than chance: a network that begins as the principal components of its training frames.

LeakyReLU lets a straight line through if two channels carry it with opposite signs, since
``a(x) - a(-x) = (1 + slope) x`` (Balduzzi et al., "The shattered gradients problem", ICML 2017, section 4:
"looks-linear" weights). So an rgbd-vae can be given the weights of a linear codec, exactly in the encoder and
nearly in the decoder (the better, the smaller the cells that its linear layer makes), and training starts
from there instead of finding the way there first.

* Each convolution of the encoder takes, of the 2x2 (or 4x4) cells that it merges, the principal components of
  what these cells hold, half as many as it has channels; the head takes those of the whole picture.
* The decoder's linear layer makes the principal components of each cell's part of the reconstruction. Each
  doubling is fitted by least squares to those of the parts half as wide, the last one to the pixels.
* The posterior is that of probabilistic principal components (Tipping and Bishop, 1999): with s^2 the error
  of a pixel, a component of variance v has the standard deviation s / sqrt(v + s^2) once it is scaled to 1.

Depth counts as much more than colour as it varies less within cells of 8x8 pixels: what a codec loses is such
detail, and a calibrated likelihood (``training.losses``) weighs the loss of each by its inverse.

Going through cells costs little and regularizes: on frames held out, the codec is better than principal
components of whole pictures fitted to as many frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevae.errors import EdgevaeError

from .models import VAE

LOCAL = 384  # frames from which local components and doublings are fitted
DETAIL = 8  # pixels: what varies within cells of so many a side is lost for the most part
_AT_ONCE = 64
_RIDGE = 1e-4  # of the mean of the diagonal
_FARTHEST = 0.9  # of tanh, whose inverse is fitted


class Line(NamedTuple):
    """Straight lines through channels: ``weights`` on lines become weights on channels.

    Attributes:
        count: lines.
        of: channels; lines come in pairs, then channels without.
        gain: what a pair makes of its line; 0 where each channel is a line.
    """

    count: int
    of: int
    gain: float

    def weights(self, on_lines: Tensor) -> Tensor:
        """(O, count, ...) to (O, of, ...)."""
        if not self.gain:
            return on_lines
        rest = on_lines.new_zeros(len(on_lines), self.of - 2 * self.count, *on_lines.shape[2:])
        return torch.cat([on_lines / self.gain, -on_lines / self.gain, rest], 1)

    def read(self, x: Tensor) -> Tensor:
        """(N, of, h, w) to (N, count, h, w)."""
        if not self.gain:
            return x
        return (x[:, : self.count] - x[:, self.count : 2 * self.count]) / self.gain


@torch.no_grad()
def linear_start(net: VAE, batches: Iterable[Tensor], frames: int) -> int:
    """Give ``net`` the weights of a linear codec.

    Args:
        net: an rgbd-vae; whatever its weights were is lost.
        batches: training frames (N, C, h, w) in [-1, 1].
        frames: how many of them are taken; several times ``net.latent_dim``.

    Returns:
        How many were taken.

    Raises:
        EdgevaeError: another model, or fewer frames than latents.
    """
    if net.name != "rgbd-vae":
        raise EdgevaeError(f"a linear start is for rgbd-vae, not {net.name}; set model.start: random.")
    x = torch.cat([batch.half() for batch in _taken(batches, frames)])  # 0.5 GB for 4000 of 4x128x128
    if len(x) <= net.latent_dim:
        raise EdgevaeError(
            f"{len(x)} training frames are too few for a linear start with {net.latent_dim} latents; "
            "set model.start: random."
        )
    was = net.training
    net.eval()
    try:
        some = x[:LOCAL].float()
        weights = _weights(some)
        lines, scale = _start_convolutions(net, some, weights)
        basis = _start_head(net, x, lines, scale, weights)
        _start_decoder(net, some, _mean(x), basis, weights)
    finally:
        net.train(was)
    return len(x)


def _taken(batches: Iterable[Tensor], frames: int) -> Iterator[Tensor]:
    left = frames
    for batch in batches:
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return


def _weights(x: Tensor) -> Tensor:
    """What each channel counts, (C, 1, 1): colour 1, depth by how much less it varies within cells."""
    weights = torch.ones(x.shape[1], 1, 1)
    if x.shape[1] == 4:
        detail = (x - F.interpolate(F.avg_pool2d(x, DETAIL), scale_factor=DETAIL)).square().mean((0, 2, 3))
        weights[3] = (detail[:3].mean() / detail[3].clamp(min=1e-8)).sqrt()
    return weights


def _start_convolutions(net: VAE, x: Tensor, weights: Tensor) -> tuple[Line, Tensor]:
    """The encoder's convolutions; the lines after the last one and their standard deviations (count,)."""
    line, scale = Line(x.shape[1], x.shape[1], 0.0), weights.flatten()
    for conv, norm, activation in _blocks(net.encoder):
        side, around = conv.stride[0], int(conv.padding[0])  # 2x2 in the middle of 4x4, or all of it
        count = min(conv.out_channels // 2, side * side * line.count)
        parts = _cells(line.read(x) * scale[:, None, None], side)
        axes = _principal(parts, count).T.reshape(count, line.count, side, side)
        kernel = F.pad(line.weights(axes * scale[:, None, None]), (around,) * 4)
        _set_pairs(conv, kernel, torch.zeros(count))
        x = _normalized(norm, activation, _run([conv], x))
        line = Line(count, conv.out_channels, 1 + activation.negative_slope)
        scale = _statistic(norm.running_var)[:count].sqrt()
    return line, scale


def _start_head(net: VAE, x: Tensor, line: Line, scale: Tensor, weights: Tensor) -> Tensor:
    """The encoder's end; by what a latent of 1 moves the picture, (latent_dim, C, h, w)."""
    latents = net.latent_dim
    body = [layer for layer in net.encoder if not isinstance(layer, (nn.Flatten, nn.Linear))]
    heads = [layer for layer in net.encoder if isinstance(layer, nn.Linear)]
    lines = torch.cat([line.read(_run(body, part.float())) for part in x.split(_AT_ONCE)])
    rows = (lines * scale[:, None, None]).flatten(1)
    if rows.shape[1] < latents:
        raise EdgevaeError(
            f"{rows.shape[1]} lines reach a latent of {latents}; widen it, or set model.start: random."
        )
    middle = rows.mean(0)
    variances, axes = _eigen((rows - middle).T @ (rows - middle) / len(rows))
    onto = axes[:, :latents] / variances[:latents].sqrt()
    z = (rows - middle) @ onto
    basis = torch.zeros(latents, x[0].numel())
    for some, part in zip(z.split(_AT_ONCE), x.split(_AT_ONCE), strict=True):
        basis += some.T @ part.float().flatten(1) / len(x)
    basis = basis.view(latents, *x.shape[1:])
    spread = (basis * weights).square().sum((1, 2, 3))
    error = max(_variance(x, weights) - float(spread.sum()), 1e-6) / x[0].numel()  # of a pixel
    std = (error / (spread + error)).sqrt().clamp(min=1e-3)
    kernel = onto.T.reshape(latents, *lines.shape[1:]) * scale[:, None, None]
    _set_head(heads, line.weights(kernel).flatten(1), -(middle @ onto), torch.log(torch.expm1(std)))
    return basis


def _set_head(heads: list[nn.Linear], kernel: Tensor, bias: Tensor, scale: Tensor) -> None:
    """The mean by ``kernel`` (latent_dim, features) and ``bias``, the raw scale the same for every picture.

    Of two layers the first makes the mean, the second hands it on; numbers between them beyond the latent
    keep their weights, for what the scale may depend on later.
    """
    latents, (first, last) = len(kernel), (heads[0], heads[-1])
    if first is not last and first.out_features < latents:
        raise EdgevaeError(
            f"head_width is {first.out_features}, and a linear start takes at least the latent's {latents}; "
            "widen it, or set model.start: random."
        )
    last.weight.zero_()
    last.bias[latents:] = scale
    first.weight[:latents], first.bias[:latents] = kernel, bias
    if first is not last:
        last.weight[:latents, :latents] = torch.eye(latents)
        last.bias[:latents] = 0


def _start_decoder(net: VAE, x: Tensor, mean: Tensor, basis: Tensor, weights: Tensor) -> None:
    linear, cells, last = net.decoder[0], net.decoder[1], net.decoder[-2]
    assert isinstance(linear, nn.Linear)
    assert isinstance(cells, nn.Unflatten)
    assert isinstance(last, (nn.Conv2d, nn.ConvTranspose2d))
    z = net.posterior_of(x)[0]
    wanted = mean + torch.einsum("nl,lchw->nchw", z, basis)
    count, height, _ = cells.unflattened_size
    side = net.input.height // height
    weighted, basis = wanted * weights, basis * weights
    parts = _cells(weighted, side)
    lines = min(count, parts.shape[1])
    axes = _principal(parts, lines)
    scale = _onto(axes, parts).std((0, 2, 3)).clamp(min=1e-6)[:, None, None]
    linear.weight.view(count, -1, net.latent_dim)[:lines] = (
        (_onto(axes, _cells(basis, side)) / scale).flatten(2).permute(1, 2, 0)
    )
    linear.bias.view(count, -1)[:lines] = (
        _onto(axes, _cells((mean * weights)[None], side))[0] / scale
    ).flatten(1)
    x, line = _run([linear, cells], z), Line(lines, count, 0.0)
    for conv, norm, activation in _blocks(net.decoder):
        side //= 2
        parts = _cells(weighted, side)
        lines = min(conv.out_channels // 2, parts.shape[1])
        _set_pairs(conv, *_fitted(line, x, _onto(_principal(parts, lines), parts)))
        x = _normalized(norm, activation, _run([_DOUBLE, conv], x))
        line = Line(lines, conv.out_channels, 1 + activation.negative_slope)
    wanted = torch.atanh(wanted.clamp(-_FARTHEST, _FARTHEST))
    if isinstance(last, nn.Conv2d):
        kernel, bias = _fitted(line, x, wanted)
    else:
        kernel, bias = _fitted_patches(line, x, wanted)
    last.weight.copy_(kernel)
    assert last.bias is not None
    last.bias.copy_(bias)


def _blocks(layers: nn.Sequential) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]]:
    """Each convolution that BatchNorm and LeakyReLU follow, with these."""
    chain = list(layers)
    for conv, norm, activation in zip(chain, chain[1:], chain[2:], strict=False):
        if isinstance(norm, nn.BatchNorm2d):
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(activation, nn.LeakyReLU)
            yield conv, norm, activation


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    chain = list(layers)
    parts = []
    for part in x.split(_AT_ONCE):
        for layer in chain:
            part = layer(part)
        parts.append(part)
    return torch.cat(parts)


def _set_pairs(conv: nn.Conv2d, kernel: Tensor, bias: Tensor) -> None:
    """Lines into pairs of channels; channels beyond keep the weights that they have."""
    assert conv.bias is not None
    pairs = 2 * len(kernel)
    conv.weight[:pairs] = torch.cat([kernel, -kernel])
    conv.bias.zero_()
    conv.bias[:pairs] = torch.cat([bias, -bias])


def _normalized(norm: nn.BatchNorm2d, activation: nn.Module, y: Tensor) -> Tensor:
    """What follows a convolution that gives ``y``, BatchNorm having taken its statistics from that."""
    _statistic(norm.running_mean).copy_(y.mean((0, 2, 3)))
    _statistic(norm.running_var).copy_(y.var((0, 2, 3)))
    return _run([norm, activation], y)


def _statistic(values: Tensor | None) -> Tensor:
    assert values is not None
    return values


def _fitted(line: Line, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The 3x3 kernel on channels, and the bias, that make ``wanted`` (N, O, 2h, 2w) of the doubled ``x``."""
    step = max(1, x.shape[2] // 16)  # a quarter of a million places are enough
    x, wanted = line.read(x[::step]), wanted[::step]
    terms, outputs = 9 * line.count + 1, wanted.shape[1]
    gram, moment = torch.zeros(terms, terms), torch.zeros(terms, outputs)
    for part, target in zip(x.split(8), wanted.split(8), strict=True):
        taps = F.unfold(F.pad(_DOUBLE(part), (1, 1, 1, 1), mode="replicate"), 3)
        rows = torch.cat([taps, torch.ones(len(part), 1, taps.shape[2])], 1).permute(1, 0, 2).flatten(1)
        gram += rows @ rows.T
        moment += rows @ target.flatten(2).permute(1, 0, 2).flatten(1).T
    solved = _solved(gram, moment)
    kernel = solved[:-1].T.reshape(outputs, line.count, 3, 3)
    return line.weights(kernel), solved[-1]


def _fitted_patches(line: Line, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The transposed kernel on channels, (of, C, s, s), and the bias, that make ``wanted`` (N, C, sh, sw)."""
    channels, side = wanted.shape[1], wanted.shape[2] // x.shape[2]
    rows = line.read(x).permute(1, 0, 2, 3).flatten(1)
    rows = torch.cat([rows, torch.ones(1, rows.shape[1])])
    solved = _solved(rows @ rows.T, rows @ _cells(wanted, side).permute(1, 0, 2, 3).flatten(1).T)
    kernel = solved[:-1].T.reshape(channels * side**2, line.count)
    of_channels = line.weights(kernel).T.reshape(line.of, channels, side, side)
    return of_channels, solved[-1].view(channels, -1).mean(1)  # one bias for all pixels of a patch


def _solved(gram: Tensor, moment: Tensor) -> Tensor:
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    return torch.linalg.solve(gram.double(), moment.double()).float()


_DOUBLE = nn.Upsample(scale_factor=2, mode="nearest")


def _cells(x: Tensor, side: int) -> Tensor:
    """What cells of ``side`` x ``side`` pixels hold: (N, C, h, w) to (N, C * side^2, h / side, w / side)."""
    return F.pixel_unshuffle(x, side)


def _onto(axes: Tensor, parts: Tensor) -> Tensor:
    """Parts (N, D, h, w) along ``axes`` (D, K): (N, K, h, w)."""
    return torch.einsum("nchw,ck->nkhw", parts, axes)


def _principal(parts: Tensor, count: int) -> Tensor:
    """The first ``count`` principal axes of (N, D, h, w) at all places, (D, count)."""
    rows = parts.transpose(0, 1).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    return _eigen(rows @ rows.T / rows.shape[1])[1][:, :count]


def _eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances in descending order, and their axes as columns."""
    values, axes = torch.linalg.eigh(covariance.double())
    return values.flip(0).clamp(min=1e-12).float(), axes.flip(1).float()


def _mean(x: Tensor) -> Tensor:
    return sum((part.float().sum(0) for part in x.split(_AT_ONCE)), torch.zeros(x.shape[1:])) / len(x)


def _variance(x: Tensor, weights: Tensor) -> float:
    """Of weighted frames, summed over all numbers of a frame."""
    mean = _mean(x)
    parts = (((part.float() - mean) * weights).square().sum() for part in x.split(_AT_ONCE))
    return sum(map(float, parts)) / len(x)
