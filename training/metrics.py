"""What validation, test and comparison report: sums over images, and over processes by torchmetrics.

Sums over images and pixels are kept in float64 and divided once, so that neither an uneven last batch nor
the number of processes changes a figure.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from edgevae.preprocess import InputSpec

from .losses import kl_divergence, squared_error

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al., "Image quality assessment", 2004
DELTA = 1.25  # of depth: "delta < 1.25" of the literature on depth estimation
ACTIVE_VARIANCE = 0.01


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
    similarity: Tensor = luminance * structure
    return similarity.mean((1, 2, 3))


def _blur(size: int, window: int) -> Tensor:
    """The matrix (size, size) that blurs a column of pixels with a Gaussian of ``window`` taps."""
    taps = torch.arange(window, dtype=torch.float64) - window // 2
    weights = torch.exp(-0.5 * (taps / (SSIM_SIGMA * window / SSIM_WINDOW)).square())
    basis = F.pad(torch.eye(size, dtype=torch.float64), [window // 2] * 2, mode="reflect")
    return F.conv1d(basis.unsqueeze(1), (weights / weights.sum()).view(1, 1, -1)).squeeze(1).T


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
