"""The figures of one row: sums over the frames of a set, divided once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from edgevae.preprocess import FloatArray, InputSpec

from ..losses import squared_error
from ..metrics import Reconstruction, edge_error_px, minmax_error, ms_ssim

Bool = npt.NDArray[np.bool_]
DEPTH_FIGURES = ("depth_rmse_m", "depth_absrel", "depth_delta1")
SEEN, GUESSED = "seen", "guessed"  # depth that the encoder was given, and depth that it was not


class Score:
    """Figures of reconstructions of one set, as they come.

    Attributes:
        errors: squared error of each image so far, in the network's encoding.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self.errors: list[float] = []
        self._whole = Reconstruction(spec)
        self._parts = {SEEN: Reconstruction(spec), GUESSED: Reconstruction(spec)}
        self._minmax = self._ms_ssim = self._edges_px = 0.0
        self._with_edges = 0
        self._split = False

    def update(self, y: FloatArray, target: FloatArray, valid: Bool, missing: Bool) -> None:
        """Count a batch.

        Args:
            y, target: (N, C, h, w) in [-1, 1].
            valid: where the target's depth is a reading, (N, h, w).
            missing: what was withheld from the encoder, (N, h, w).
        """
        spec = self.spec
        got, want = torch.from_numpy(y), torch.from_numpy(target)
        known = torch.from_numpy(valid)
        self.errors += squared_error(got, want, known).double().tolist()
        self._whole.update(got, want, known)
        self._minmax += float(minmax_error(got, want, known, spec).sum())
        shown = min(spec.channels, 3)
        colors = (x[:, :shown].double() / 2 + 0.5 for x in (got, want))
        self._ms_ssim += float(ms_ssim(*colors).sum())
        if spec.depth is None or not spec.depth.metric:
            return
        self._split |= bool(missing.any() and not missing.all())
        if self._split:
            for part, mask in ((SEEN, valid & ~missing), (GUESSED, valid & missing)):
                self._parts[part].update(got, want, torch.from_numpy(mask))
        metres = (spec.depth.to_metres(x[:, 3]) for x in (y, target))
        for got_m, want_m, mask in zip(*metres, valid, strict=True):
            edges_px = edge_error_px(got_m, want_m, mask)
            if edges_px is not None:
                self._edges_px += edges_px
                self._with_edges += 1

    def figures(self) -> dict[str, float]:
        """Those that apply, by name."""
        images = len(self.errors)
        values = self._whole.compute()
        values |= {"mse_minmax": self._minmax / images, "ms_ssim": self._ms_ssim / images}
        if self._with_edges:
            values["depth_edge_px"] = self._edges_px / self._with_edges
        if self._split:
            for name, part in self._parts.items():
                found = part.compute()
                values |= {f"{each}_{name}": found[each] for each in DEPTH_FIGURES if each in found}
        return values
