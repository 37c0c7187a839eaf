"""A start better than chance: a network that begins as the principal components of its training frames.

LeakyReLU lets a straight line through if two channels carry it with opposite signs, since
``a(x) - a(-x) = (1 + slope) x`` (Balduzzi et al., "The shattered gradients problem", ICML 2017, section 4:
"looks-linear" weights). So an rgbd-vae can be given the weights of a linear codec, exactly in the encoder and
nearly in the decoder (the better, the smaller the cells that its linear layer makes), and training starts
from there instead of finding the way there first.

* Each convolution of the encoder takes, of the 2x2 (or 4x4) cells that it merges, the principal components of
  what these cells hold, half as many as it has channels; the head takes those of the whole picture.
* The first convolution takes depth apart from colour where the network has a value of its own for no reading
  (``no_reading`` below -1), and takes the mean distance for that: a network that would have to learn where
  readings end is far from it, for its inputs lie many deviations from that value.
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
from edgevae.preprocess import DepthEncoding

from .models import VAE

LOCAL = 384  # frames from which local components and doublings are fitted
DETAIL = 8  # pixels: what varies within cells of so many a side is lost for the most part
QUARTERS = 4  # of a cell, whose depth the first convolution takes apart
_AT_ONCE = 64
_RIDGE = 1e-4  # of the mean of the diagonal
_FARTHEST = 0.9  # of tanh, whose inverse is fitted


class Line(NamedTuple):
    """Straight lines through channels: ``weights`` on lines become weights on channels.

    Attributes:
        count: lines.
        of: channels; lines come in pairs, then channels without.
        first, second: what a line takes of the two channels of its pair, (count,) each; None where each
            channel is a line.
    """

    count: int
    of: int
    first: Tensor | None = None
    second: Tensor | None = None

    def weights(self, on_lines: Tensor) -> Tensor:
        """(O, count, ...) to (O, of, ...)."""
        if self.first is None or self.second is None:
            return on_lines
        rest = on_lines.new_zeros(len(on_lines), self.of - 2 * self.count, *on_lines.shape[2:])
        shape = (-1, *[1] * (on_lines.ndim - 2))
        return torch.cat([on_lines * self.first.view(shape), on_lines * self.second.view(shape), rest], 1)

    def read(self, x: Tensor) -> Tensor:
        """(N, of, h, w) to (N, count, h, w)."""
        if self.first is None or self.second is None:
            return x
        first, second = x[:, : self.count], x[:, self.count : 2 * self.count]
        return first * self.first[:, None, None] + second * self.second[:, None, None]


def _pairs(count: int, activation: nn.LeakyReLU, of: int) -> Line:
    """Lines of which one channel has x, the other -x, through LeakyReLU."""
    share = torch.full((count,), 1 / (1 + activation.negative_slope))
    return Line(count, of, share, -share)


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
    line, scale = Line(x.shape[1], x.shape[1]), weights.flatten()
    depth = net.input.depth
    for conv, norm, activation in _blocks(net.encoder):
        side, around = conv.stride[0], int(conv.padding[0])  # 2x2 in the middle of 4x4, or all of it
        count = min(conv.out_channels // 2, side * side * line.count)
        weighted = line.read(x) * scale[:, None, None]
        apart = line.first is None and depth is not None and depth.no_reading < -1 and count > QUARTERS
        if apart:
            kernel = torch.cat([_quarters(side), _cell_axes(weighted[:, :3], side, count - QUARTERS)])
        else:
            kernel = _cell_axes(weighted, side, count)
        kernel = F.pad(line.weights(kernel * scale[:, None, None]), (around,) * 4)
        _set_pairs(conv, kernel, torch.zeros(count))
        before, line = x, _pairs(count, activation, conv.out_channels)
        x = _normalized(norm, activation, _run([conv], x))
        scale = _statistic(norm.running_var)[:count].sqrt()
        if apart:
            assert depth is not None
            line = _see_holes(norm, activation, line, depth, float(weights[3]))
            x = _run([conv, norm, activation], before)
    return line, scale


def _cell_axes(x: Tensor, side: int, count: int) -> Tensor:
    """Kernels onto the principal components of the cells of (N, C, h, w), (count, 4 or C, side, side)."""
    channels = x.shape[1]
    kernel = _principal(_cells(x, side), count).T.reshape(-1, channels, side, side)
    if channels == 3:  # of colour and depth, whose depth goes by itself
        kernel = F.pad(kernel, (0, 0, 0, 0, 0, 1))
    return kernel


def _quarters(side: int) -> Tensor:
    """Kernels onto the mean depth of each quarter of a cell, (4, 4, side, side)."""
    kernel = torch.zeros(QUARTERS, 4, side, side)
    half = side // 2
    for i in range(QUARTERS):
        y, x = i // 2 * half, i % 2 * half
        kernel[i, 3, y : y + half, x : x + half] = 1 / half**2
    return kernel


def _see_holes(
    norm: nn.BatchNorm2d, activation: nn.LeakyReLU, line: Line, depth: DepthEncoding, weight: float
) -> Line:
    """Let the pairs of the first four lines bend between readings and what stands for none.

    Filled holes are mirrored at ``no_reading``: with the bend there, the sum of a pair is the same for a
    value and its mirror image. Else the bend lies between the nearest distance, -1, and ``no_reading``.

    With u the distance from that bend, in standard deviations, and a the slope of LeakyReLU, a pair holds
    (u, -a u) where there is a reading and (a u, -u) where there is none. So first + second / a is 0 for all
    readings, and (1/a - a) |u| for none: with a share of that, a line takes the mean distance where it has no
    reading, and is a straight line for all readings.
    """
    assert line.first is not None
    assert line.second is not None
    slope = activation.negative_slope
    mean = _statistic(norm.running_mean)[:QUARTERS]
    std = (_statistic(norm.running_var)[:QUARTERS] + norm.eps).sqrt()
    bend = depth.no_reading if depth.fill else (depth.no_reading - 1) / 2
    middle = (mean - weight * bend) / std  # of the readings
    norm.bias[:QUARTERS] = middle
    norm.bias[line.count : line.count + QUARTERS] = -middle
    first, second = line.first.clone(), line.second.clone()
    if depth.fill:
        first[:QUARTERS] = second[:QUARTERS] = 1 / (1 - slope)
    else:
        none = weight * (depth.no_reading - bend) / std
        share = (middle - none) / (-none * (1 / slope - slope))
        first[:QUARTERS] += share
        second[:QUARTERS] += share / slope
    return line._replace(first=first, second=second)


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
    x, line = _run([linear, cells], z), Line(lines, count)
    for conv, norm, activation in _blocks(net.decoder):
        side //= 2
        parts = _cells(weighted, side)
        lines = min(conv.out_channels // 2, parts.shape[1])
        _set_pairs(conv, *_fitted(line, x, _onto(_principal(parts, lines), parts)))
        x = _normalized(norm, activation, _run([_DOUBLE, conv], x))
        line = _pairs(lines, activation, conv.out_channels)
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
