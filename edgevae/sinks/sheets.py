"""One picture of a row: the camera's colour and depth beside what its latent decodes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from ..pictures import DepthScale, Image, Panel, panel_size, sheet

if TYPE_CHECKING:
    from ..model import ModelSpec
    from .base import Row


class Sheets:
    """Draws rows; colour above, depth in the Turbo colours with its scale in metres below.

    The depth scale covers what was seen so far, so colours stay comparable from frame to frame. Every sheet
    is of the first one's size.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._scale: DepthScale | None = None
        self._size: tuple[int, int] | None = None

    def draw(self, row: Row) -> Image:
        """The sheet of ``row``, which must carry its pictures."""
        frame, decoded, spec = row.frame, row.decoded, self._spec
        assert frame is not None
        assert decoded is not None
        self._size = self._size or panel_size(frame.width, frame.height)
        rows: list[list[Panel]] = [
            [
                Panel("camera, colour", frame.rgb),
                Panel(f"decoded, {psnr_db(frame.rgb, decoded.rgb):.1f} dB", decoded.rgb),
            ]
        ]
        if spec.input.depth is not None:
            assert decoded.depth is not None
            relative = not spec.input.depth.metric
            measured = frame.depth_m()
            if relative and measured is not None:
                measured = _relative(measured)
            # Reduced first: colours and percentiles of what is shown cost a quarter of those of all pixels.
            small = None if measured is None else _sampled(measured, self._size)
            if relative:
                self._scale = DepthScale(0.0, 1.0, relative=True)
            else:
                self._scale = DepthScale.covering(
                    decoded.depth if small is None else small, start=self._scale
                )
            label = "camera, depth; grey: no reading" if small is not None else "camera, no depth image"
            coloured = None if small is None else self._scale.colours(small)
            error = "" if measured is None else _error_label(measured, decoded.depth, relative)
            rows.append(
                [
                    Panel(label, coloured, smooth=False),
                    Panel(f"decoded{error}", self._scale.colours(decoded.depth), smooth=False),
                ]
            )
        title = f"{spec.name}, {spec.latent_dim} numbers     frame {row.index}"
        return sheet(rows, title=title, size=self._size, legend=self._scale)


def psnr_db(camera: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB at the size of ``decoded``, to which ``camera`` is averaged."""
    height, width = decoded.shape[:2]
    small = cv2.resize(camera, (width, height), interpolation=cv2.INTER_AREA)
    error = float(np.mean((small.astype(np.float32) - decoded.astype(np.float32)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def depth_error(measured: npt.NDArray[np.float32], decoded: npt.NDArray[np.float32]) -> float | None:
    """The median absolute error at the pixels of ``decoded`` where ``measured`` has readings, or None."""
    height, width = decoded.shape
    rows = (2 * np.arange(height) + 1) * measured.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * measured.shape[1] // (2 * width)
    sampled = measured[rows[:, None], columns[None, :]]
    known = np.isfinite(sampled) & (sampled > 0)
    return float(np.median(np.abs(sampled - decoded)[known])) if known.any() else None


def _error_label(measured: npt.NDArray[np.float32], decoded: npt.NDArray[np.float32], relative: bool) -> str:
    error = depth_error(measured, decoded)
    if error is None:
        return ", no reading to compare"
    return f", median error {error:.2f}" if relative else f", median error {error:.2f} m"


def _sampled(depth_m: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Single pixels of ``depth_m``, so many that they fill ``size`` (width, height); none are mixed."""
    return np.asarray(cv2.resize(depth_m, size, interpolation=cv2.INTER_NEAREST), np.float32)


def _relative(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Depth scaled to [0, 1] between the nearest and the farthest reading; NaN where there is none."""
    known = depth_m > 0
    if not known.any():
        return np.full_like(depth_m, np.nan)
    near, far = float(depth_m[known].min()), float(depth_m[known].max())
    scaled = (depth_m - near) / max(far - near, 1e-6)
    return np.where(known, scaled, np.nan).astype(np.float32)
