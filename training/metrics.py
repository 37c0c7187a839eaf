"""What validation, test and comparison report: sums over images, and over processes by torchmetrics.

Sums over images and pixels are kept in float64 and divided once, so that neither an uneven last batch nor
the number of processes changes a figure.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from edgevae.preprocess import InputSpec

from .losses import kl_divergence, squared_error

Metres = npt.NDArray[np.float32]

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al., "Image quality assessment", 2004
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # from fine to coarse; Wang et al., 2003
DELTA = 1.25  # of depth: "delta < 1.25" of the literature on depth estimation
ACTIVE_VARIANCE = 0.01
EDGE_REACH_PX = 10  # farther edges have nothing to do with each other
EDGE_SLOPES = (0.025, 0.05)  # of the logarithm of depth, per pixel: hysteresis of Canny's detector


class Reconstruction(Metric):
    """Errors of reconstructions of one set.

    * ``mse_per_image``: squared error summed over C x h x w in [-1, 1], mean over images; missing depth is
      scaled for as in ``training.losses``. Without missing depth it is the figure published for NYU.
    * ``color_psnr``, of a grey network ``grey_psnr``: decibels, mean over images; the peak is the full range.
    * ``ssim``: of colour or grey, see :func:`ssim`, mean over images.
    * ``depth_rmse_m``, ``depth_absrel``, ``depth_delta1``: root of the mean squared error in metres, mean of
      |error| / depth, share with max(got / want, want / got) < 1.25; over all valid pixels of all images,
      where the depth encoding is metric and readings are within its range.
    """

    full_state_update = False
    images: Tensor
    mse: Tensor
    psnr: Tensor
    similarity: Tensor
    pixels: Tensor
    square_m: Tensor
    absrel: Tensor
    delta1: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.metres = spec.depth is not None and spec.depth.metric
        for name in ("images", "mse", "psnr", "similarity", "pixels", "square_m", "absrel", "delta1"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, y: Tensor, target: Tensor, valid: Tensor) -> None:
        """Count a batch: ``y`` and ``target`` (N, C, h, w) in [-1, 1], ``valid`` bool (N, h, w)."""
        y = y.detach().float()
        self.images += len(y)
        self.mse += squared_error(y, target, valid).sum(dtype=torch.float64)
        shown = min(self.spec.channels, 3)
        y01, target01 = (y[:, :shown] + 1) / 2, (target[:, :shown] + 1) / 2
        errors = (y01 - target01).square().mean((1, 2, 3)).clamp(min=2.5e-11)
        self.psnr += (-10 * torch.log10(errors)).sum(dtype=torch.float64)
        self.similarity += ssim(y01, target01).sum(dtype=torch.float64)
        if self.metres:
            got, want = (self._metres(x[:, 3][valid]) for x in (y, target))
            self.pixels += len(want)
            self.square_m += (got - want).square().sum()
            self.absrel += ((got - want).abs() / want).sum()
            self.delta1 += (torch.maximum(got / want, want / got) < DELTA).sum()

    def _metres(self, x: Tensor) -> Tensor:
        assert self.spec.depth is not None
        return torch.from_numpy(self.spec.depth.to_metres(x.cpu().numpy())).to(x.device, torch.float64)

    def compute(self) -> dict[str, float]:
        """The figures; those that do not apply are absent."""
        images, pixels = float(self.images), float(self.pixels)
        values = {
            "mse_per_image": float(self.mse) / images,
            "grey_psnr" if self.spec.channels == 1 else "color_psnr": float(self.psnr) / images,
            "ssim": float(self.similarity) / images,
        }
        if pixels:
            values["depth_rmse_m"] = math.sqrt(float(self.square_m) / pixels)
            values["depth_absrel"] = float(self.absrel) / pixels
            values["depth_delta1"] = float(self.delta1) / pixels
        return values


def ssim(y: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of pictures (N, C, h, w) in [0, 1], for each image, (N,).

    Gaussian window of 11 x 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, borders mirrored, mean over
    channels and pixels. Pictures with a side below 11 get the largest odd window that fits, its sigma in
    proportion.

    The same as torchmetrics' ``structural_similarity_index_measure``, which the tests hold it to; blurring by
    two matrices takes a fortieth of the time for 28 x 28 pixels and a seventh for 128 x 128.
    """
    return _similarities(y, target)[0]


def ms_ssim(y: Tensor, target: Tensor) -> Tensor:
    """Structural similarity at several scales (Wang, Simoncelli, Bovik, "Multiscale structural similarity for
    image quality assessment", Asilomar 2003) of pictures (N, C, h, w) in [0, 1], for each image, (N,).

    Five scales, each half of the one before, with the published weights; contrast and structure at all of
    them, luminance at the coarsest. As in ``ssim`` the window shrinks with the picture: with 128 x 128 pixels
    the coarsest scale has 8 x 8. No scale has a side below 4; the weights of those left add up to 1.
    """
    scales = max(1, min(len(MS_SSIM_WEIGHTS), int(math.log2(min(y.shape[2:]) / 4)) + 1))
    weights = [weight / sum(MS_SSIM_WEIGHTS[:scales]) for weight in MS_SSIM_WEIGHTS[:scales]]
    product = torch.ones(len(y), dtype=y.dtype, device=y.device)
    for scale, weight in enumerate(weights):
        whole, structure = _similarities(y, target)
        last = scale == scales - 1
        product = product * (whole if last else structure).clamp(min=0) ** weight
        if not last:
            y, target = (F.avg_pool2d(x, 2) for x in (y, target))
    return product


def _similarities(y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of each image, and its part without luminance, each (N,)."""
    smallest = min(y.shape[2:])
    window = min(SSIM_WINDOW, smallest - 1 + smallest % 2)
    rows, columns = (_blur(size, window).to(y) for size in y.shape[2:])
    moments = torch.stack([y, target, y * y, target * target, y * target])
    with torch.autocast(y.device.type, enabled=False):  # a variance is a small difference: not in bfloat16
        mean_y, mean_t, yy, tt, yt = rows @ moments @ columns.T
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_y * mean_t + c1) / (mean_y.square() + mean_t.square() + c1)
    variances = (yy - mean_y.square()).clamp(min=0) + (tt - mean_t.square()).clamp(min=0)
    structure = (2 * (yt - mean_y * mean_t) + c2) / (variances + c2)
    return (luminance * structure).mean((1, 2, 3)), structure.mean((1, 2, 3))


def _blur(size: int, window: int) -> Tensor:
    """The matrix (size, size) that blurs a column of pixels with a Gaussian of ``window`` taps."""
    taps = torch.arange(window, dtype=torch.float64) - window // 2
    weights = torch.exp(-0.5 * (taps / (SSIM_SIGMA * window / SSIM_WINDOW)).square())
    basis = F.pad(torch.eye(size, dtype=torch.float64), [window // 2] * 2, mode="reflect")
    return F.conv1d(basis.unsqueeze(1), (weights / weights.sum()).view(1, 1, -1)).squeeze(1).T


def minmax_error(y: Tensor, target: Tensor, valid: Tensor, spec: InputSpec) -> Tensor:
    """Squared error of each image, (N,), as the published figures on NYU Depth V2 are taken: with every
    channel of an image stretched so that the original reaches from -1 to 1, colour and metres alike.

    Reconstructions are stretched by the original's range and clipped to [-1, 1]. Arguments are as in
    :meth:`Reconstruction.update`; missing depth is scaled for. A channel that is constant in the original
    counts as zero. For a model whose own encodings stretch every image, the plain squared error.
    """
    own = spec.color == "minmax", spec.depth is None or spec.depth.encoding == "minmax"
    stretched = []
    for x in (y, target):
        channels = [x[:, :3].double()]
        if spec.depth is not None:
            metres = x[:, 3:].double() if own[1] else torch.from_numpy(spec.depth.to_metres(x[:, 3:].numpy()))
            channels.append(metres.double())
        stretched.append(channels)
    parts = []
    for got, want, plain in zip(*stretched, own, strict=False):
        if plain:
            parts.append((got, want))
            continue
        counts = valid.unsqueeze(1) if parts else torch.ones_like(want, dtype=torch.bool)
        low = want.masked_fill(~counts, math.inf).amin((2, 3), keepdim=True)
        high = want.masked_fill(~counts, -math.inf).amax((2, 3), keepdim=True)
        flat = ~(high > low)
        scale = torch.where(flat, 0.0, 2 / (high - low).masked_fill(flat, 1.0))
        low = low.masked_fill(flat, 0.0)
        parts.append(tuple(((x - low) * scale - 1).clamp(-1, 1) for x in (got, want)))
    got, want = (torch.cat(side, 1) for side in zip(*parts, strict=True))
    return squared_error(got, want, valid)


def edge_error_px(got_m: Metres, want_m: Metres, valid: npt.NDArray[np.bool_]) -> float | None:
    """How far the edges of two depth images (h, w) in metres lie apart, in pixels; None without edges to
    meet.

    The mean distance from every edge pixel of either image to the nearest one of the other, at most
    ``EDGE_REACH_PX``: the symmetric, truncated chamfer distance that Koch et al., "Evaluation of CNN-based
    single-image depth estimation methods", ECCV workshops 2018, call depth boundary error (completeness).
    Edges are Canny's on the logarithm of depth in both images, where a step of a part of the distance counts
    alike near and far; theirs are annotated in one of the images. No edge is looked for beside a pixel that
    is not ``valid``.
    """
    inside = cv2.erode(valid.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0
    edges = [_edges(metres, inside) for metres in (got_m, want_m)]
    if not edges[1].any():
        return None
    if not edges[0].any():
        return float(EDGE_REACH_PX)
    away = [
        cv2.distanceTransform((~each).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for each in edges
    ]
    distances = np.concatenate([away[1][edges[0]], away[0][edges[1]]])
    return float(np.minimum(distances, EDGE_REACH_PX).mean())


def _edges(metres: Metres, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Canny's edges of the logarithm of depth, where ``inside``."""
    unit = 4000.0  # of slopes as OpenCV takes them, int16: up to 8 a pixel
    logs = np.log(np.maximum(metres, 1e-3)).astype(np.float32)
    slopes = [cv2.Sobel(logs, cv2.CV_32F, *way, ksize=3, scale=unit / 8) for way in ((1, 0), (0, 1))]
    fixed = [np.where(inside, slope, 0).clip(-32768, 32767).astype(np.int16) for slope in slopes]
    low, high = (unit * slope for slope in EDGE_SLOPES)
    return np.asarray(cv2.Canny(fixed[0], fixed[1], low, high, L2gradient=True) > 0)


class LatentFigures(Metric):
    """What the posterior of one set says: how much each latent carries.

    * ``kl``: KL(q(z | x) || N(0, 1)) in nats per image.
    * ``active_units``: how many dimensions have a posterior mean whose variance over the data is above 0.01
      (Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 5.2).
    """

    full_state_update = False
    images: Tensor
    means: Tensor
    squares: Tensor
    kls: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Sums over images; the first batch gives the last three their length, the latent's.
        for name in ("images", "means", "squares", "kls"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, std: Tensor) -> None:
        """Count the posteriors of a batch, each (N, latent_dim)."""
        mean, std = mean.detach().double(), std.detach().double()
        self.images = self.images + len(mean)
        self.means = self.means + mean.sum(0)
        self.squares = self.squares + mean.square().sum(0)
        self.kls = self.kls + kl_divergence(mean, std).sum(0)

    def compute(self) -> dict[str, float]:
        variance = self.squares / self.images - (self.means / self.images).square()
        return {
            "kl": float(self.kls.sum() / self.images),
            "active_units": float((variance > ACTIVE_VARIANCE).sum()),
        }

    def kl_per_dim(self) -> Tensor:
        """Nats per image of each dimension, (latent_dim,), of what this process has counted."""
        return self.kls / self.images
