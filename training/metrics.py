"""What validation and test report, summed over images and over processes by torchmetrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric

from edgevae.preprocess import InputSpec

from .losses import squared_error


class Reconstruction(nn.Module):
    """Errors of reconstructions of one set.

    * ``mse_per_image``: squared error summed over C x h x w in [-1, 1], mean over images; missing depth is
      scaled
      for as in ``training.losses``. Without missing depth it is the figure published for NYU.
    * ``color_psnr``: decibels, mean over images; the peak is the full range of 2.
    * ``depth_absrel``, ``depth_rmse_m``: over all valid pixels, where the depth encoding is metric and
      readings are
      within its range.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.metric = spec.depth is not None and spec.depth.metric
        self.mse, self.psnr = MeanMetric(), MeanMetric()
        self.absrel, self.square_m, self.pixels = SumMetric(), SumMetric(), SumMetric()

    def update(self, y: Tensor, target: Tensor, valid: Tensor) -> None:
        self.mse.update(squared_error(y, target, valid))
        if self.spec.channels >= 3:
            color_mse = (y[:, :3] - target[:, :3]).square().mean((1, 2, 3)).clamp(min=1e-10)
            self.psnr.update(10 * torch.log10(4 / color_mse))
        if self.metric:
            got, want = self._metres(y[:, 3])[valid], self._metres(target[:, 3])[valid]
            self.absrel.update(((got - want).abs() / want).sum())
            self.square_m.update((got - want).square().sum())
            self.pixels.update(valid.sum())

    def _metres(self, x: Tensor) -> Tensor:
        assert self.spec.depth is not None
        return torch.from_numpy(self.spec.depth.to_metres(x.detach().cpu().numpy())).to(x.device)

    def compute(self) -> dict[str, float]:
        """The figures; those that do not apply are absent."""
        values = {"mse_per_image": float(self.mse.compute())}
        if self.spec.channels >= 3:
            values["color_psnr"] = float(self.psnr.compute())
        if self.metric and (pixels := float(self.pixels.compute())):
            values["depth_absrel"] = float(self.absrel.compute()) / pixels
            values["depth_rmse_m"] = math.sqrt(float(self.square_m.compute()) / pixels)
        return values

    def reset(self) -> None:
        for metric in (self.mse, self.psnr, self.absrel, self.square_m, self.pixels):
            metric.reset()
