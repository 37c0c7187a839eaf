"""``FILE.png``: one picture as a source of one frame; ``COLOR.png,DEPTH.png`` with its depth."""

from __future__ import annotations

from pathlib import Path

from ..errors import FrameError, SourceError
from ..frame import Frame, Intrinsics
from .base import Source
from .image_files import COLOR_SUFFIXES, check_pair, fitting, read_camera, read_color, read_depth


class PictureSource(Source):
    """One frame, number 0, at time 0 on the clock "file".

    A ``camera.json`` in the picture's folder gives intrinsics and, for depth, ``depth_scale_per_metre``.

    Args:
        color: png, jpg, bmp, tiff or webp.
        depth: 16-bit png or .npy, registered to colour; None for colour alone.
        depth_scale: metres per unit of integer depth; None takes camera.json, else 0.001.

    Raises:
        SourceError: a file is missing.
    """

    def __init__(
        self, color: str | Path, depth: str | Path | None = None, *, depth_scale: float | None = None
    ) -> None:
        self.name = str(color) if depth is None else f"{color},{depth}"
        self._color = Path(color)
        self._depth = None if depth is None else Path(depth)
        for path in (self._color, self._depth):
            if path is not None and not path.is_file():
                raise SourceError(f"no file {path}; wanted a picture, or COLOR.png,DEPTH.png.")
        self._camera: Intrinsics | None = None
        scale = None
        calibration = self._color.parent / "camera.json"
        if calibration.is_file():
            self._camera, scale = read_camera(calibration)
        self._eight_bit = depth_scale is not None
        self._depth_scale = depth_scale or scale or 0.001
        self.length = 1
        self._given = False

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The picture, then None.

        Raises:
            SourceError: it cannot be read, or its depth is of another size.
        """
        if self._given:
            return None
        self._given = True
        try:
            rgb = read_color(self._color)
            depth = None
            if self._depth is not None:
                depth = read_depth(self._depth, eight_bit=self._eight_bit)
                check_pair(self._color, rgb, self._depth, depth)
        except FrameError as error:  # of one picture nothing is left
            raise SourceError(str(error)) from error
        return Frame(
            rgb=rgb,
            depth=depth,
            depth_scale=self._depth_scale,
            clock="file",
            intrinsics=fitting(self._camera, self._color, rgb),
        )


def picture_files(body: str) -> tuple[str, str | None] | None:
    """Colour and depth of ``COLOR`` or ``COLOR,DEPTH``; None if it is not the name of a picture."""
    color, _, depth = (body, "", "") if Path(body).is_file() else body.partition(",")
    if Path(color).suffix.lower() not in COLOR_SUFFIXES or not (depth or Path(color).is_file()):
        return None
    return color, depth or None
