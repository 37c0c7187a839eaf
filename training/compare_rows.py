"""A row of a comparison: one model on one held-out set, and how its figures are shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

RUN, PCA, MEAN = "run", "pca", "mean"  # kinds of rows
NOTHING = "-"


@dataclass(frozen=True)
class Row:
    """One model on one held-out set.

    Attributes:
        name: the run's, or that of a baseline.
        kind: ``RUN``, ``PCA``, or ``MEAN`` for the mean image.
        model: its name in the registry; empty for a baseline.
        latent_dim: numbers in a latent.
        latent_bytes: of a frame's latent, float32.
        figures: as ``training.metrics`` names them.
        errors: squared error of each image, (images,), in the order of the set.
        parameters: numbers in the exported file, BatchNorm folded; None for what is not exported.
        macs_encode, macs_decode: products of one image by the definition of the exported layers, those for
            the raw scales of the posterior among them.
        encode_ms, decode_ms: one frame in the native engine, encoded to the mean, medians.
        encode_ratio, decode_ratio: those times by those of the fastest model of the table.
    """

    name: str
    kind: str
    model: str
    latent_dim: int
    latent_bytes: int
    figures: dict[str, float]
    errors: npt.NDArray[np.float64] = field(repr=False, compare=False)
    parameters: int | None = None
    macs_encode: int | None = None
    macs_decode: int | None = None
    encode_ms: float | None = None
    encode_ratio: float | None = None
    decode_ms: float | None = None
    decode_ratio: float | None = None

    @property
    def mse(self) -> float:
        """Squared error per image."""
        return self.figures["mse_per_image"]

    @property
    def total_ms(self) -> float:
        """Encode and decode together; infinite where nothing was timed."""
        if self.encode_ms is None or self.decode_ms is None:
            return math.inf
        return self.encode_ms + self.decode_ms

    @property
    def macs(self) -> int:
        """Products of encode and decode together."""
        return (self.macs_encode or 0) + (self.macs_decode or 0)

    def document(self) -> dict[str, Any]:
        """The row as plain JSON types."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "errors"}


def significant(value: float, digits: int = 3) -> str:
    """``value`` with so many digits that matter; its whole part is never cut."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _count(value: float) -> str:
    return f"{significant(value / 1e6)} M" if value >= 1e6 else f"{significant(value / 1e3)} k"


def _millions(value: float) -> str:
    return significant(value / 1e6)


def _times(value: float) -> str:
    return f"{value:.2f}"


def _field(name: str, show: Callable[[float], str]) -> Callable[[Row], str]:
    return lambda row: NOTHING if (value := getattr(row, name)) is None else show(value)


class Scored(Protocol):
    """A row of any table with ``figures`` as ``training.metrics`` names them."""

    @property
    def figures(self) -> dict[str, float]: ...


def figure(show: Callable[[float], str], *names: str) -> Callable[[Scored], str]:
    """The first of ``names`` that the row has."""
    return lambda row: next((show(row.figures[name]) for name in names if name in row.figures), NOTHING)


def share(value: float) -> str:
    return f"{value:.3f}"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("", lambda row: row.name),
    ("model", lambda row: row.model or NOTHING),
    ("parameters", _field("parameters", _count)),
    ("encode MMAC", _field("macs_encode", _millions)),
    ("decode MMAC", _field("macs_decode", _millions)),
    ("latent", lambda row: str(row.latent_dim)),
    ("bytes", lambda row: str(row.latent_bytes)),
    ("MSE/image", lambda row: significant(row.mse, 4)),
    ("PSNR dB", figure("{:.2f}".format, "color_psnr", "grey_psnr")),
    ("SSIM", figure(share, "ssim")),
    ("depth RMSE m", figure(share, "depth_rmse_m")),
    ("AbsRel", figure(share, "depth_absrel")),
    ("δ<1.25", figure(share, "depth_delta1")),
    ("KL nats", figure(significant, "kl")),
    ("active", figure("{:.0f}".format, "active_units")),
    ("encode ms", _field("encode_ms", significant)),
    ("×", _field("encode_ratio", _times)),
    ("decode ms", _field("decode_ms", significant)),
    ("×", _field("decode_ratio", _times)),
)


def cells(rows: tuple[Row, ...]) -> list[list[str]]:
    """A table as text, its head first; columns that say nothing of any row are left out."""
    columns = [[head, *(cell(row) for row in rows)] for head, cell in COLUMNS]
    told = [column for column in columns if any(cell != NOTHING for cell in column[1:])]
    return [list(row) for row in zip(*told, strict=True)]
