"""One picture a frame: the camera's colour and depth beside what the latent decodes to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import RecordError
from ..files import os_errors_as_sentences, ready_folder, write_whole
from .base import Row, RunInfo, Sink

if TYPE_CHECKING:
    from ..pictures import DepthScale, Panel

_NAME = re.compile(r"frame_\d{6,}\.png")


class ReconstructionSink(Sink):
    """Writes ``frame_NNNNNN.png``; colour above, depth in the Turbo colours with its scale in metres below.

    The depth scale covers what was seen so far, so colours stay comparable from frame to frame.
    """

    needs_pictures = True
    _scale: DepthScale | None = None
    _old: list[Path]

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.path = folder
        self.overwrite = overwrite

    def open(self, run: RunInfo) -> None:
        import cv2  # noqa: F401  # loaded before the first frame, which would otherwise wait for it

        ready_folder(self.path)
        with os_errors_as_sentences(self.path):
            found = [] if self.rows else self.path.iterdir()  # else this run's own
            self._old = [name for name in found if _NAME.fullmatch(name.name)]
        if self._old and not self.overwrite:
            raise RecordError(
                f"{self.path} holds {len(self._old)} pictures of another run; choose another folder or "
                "pass --overwrite."
            )
        self._run = run

    def write(self, row: Row) -> None:
        from ..pictures import png

        picture = png(self._sheet(row))
        with os_errors_as_sentences(self.path):
            while self._old:  # now that the new run has started well
                self._old.pop().unlink(missing_ok=True)
        write_whole(self.path / f"frame_{row.index:06d}.png", picture)
        self.rows += 1

    def _sheet(self, row: Row) -> npt.NDArray[np.uint8]:
        from ..pictures import DepthScale, Panel, panel_size, sheet

        frame, decoded, spec = row.frame, row.decoded, self._run.spec
        assert frame is not None
        assert decoded is not None
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
            if relative:
                measured = None if measured is None else _relative(measured)
                self._scale = DepthScale(0.0, 1.0, relative=True)
            else:
                shown = decoded.depth if measured is None else measured
                self._scale = DepthScale.covering(shown, start=self._scale)
            label = "camera, depth; grey: no reading" if measured is not None else "camera, no depth image"
            coloured = None if measured is None else self._scale.colours(measured)
            error = "" if measured is None else _depth_error(measured, decoded.depth, relative)
            rows.append(
                [
                    Panel(label, coloured, smooth=False),
                    Panel(f"decoded{error}", self._scale.colours(decoded.depth), smooth=False),
                ]
            )
        title = f"{spec.name}, {spec.latent_dim} numbers     frame {row.index}"
        size = panel_size(frame.width, frame.height)
        return sheet(rows, title=title, size=size, legend=self._scale)


def psnr_db(camera: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB at the size of ``decoded``, to which ``camera`` is averaged."""
    import cv2

    height, width = decoded.shape[:2]
    small = cv2.resize(camera, (width, height), interpolation=cv2.INTER_AREA)
    error = float(np.mean((small.astype(np.float32) - decoded.astype(np.float32)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def _depth_error(measured: npt.NDArray[np.float32], decoded: npt.NDArray[np.float32], relative: bool) -> str:
    """The median absolute error over the readings, as a piece of a label."""
    height, width = decoded.shape
    rows = (2 * np.arange(height) + 1) * measured.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * measured.shape[1] // (2 * width)
    sampled = measured[rows[:, None], columns[None, :]]
    known = np.isfinite(sampled) & (sampled > 0)
    if not known.any():
        return ", no reading to compare"
    error = float(np.median(np.abs(sampled - decoded)[known]))
    return f", median error {error:.2f}" if relative else f", median error {error:.2f} m"


def _relative(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Depth scaled to [0, 1] between the nearest and the farthest reading; NaN where there is none."""
    known = depth_m > 0
    if not known.any():
        return np.full_like(depth_m, np.nan)
    near, far = float(depth_m[known].min()), float(depth_m[known].max())
    scaled = (depth_m - near) / max(far - near, 1e-6)
    return np.where(known, scaled, np.nan).astype(np.float32)
