"""A folder of colour pictures, with depth where there is a folder of depth pictures of the same names."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import SourceError
from ..frame import Frame, Intrinsics
from .base import Source
from .image_files import (
    COLOR_SUFFIXES,
    DEPTH_SUFFIXES,
    check_pair,
    fitting,
    read_camera,
    read_color,
    read_depth,
)

_COLOR_NAMES = ("color", "rgb")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts frame2 before frame10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p]


class FolderSource(Source):
    """Pictures of a folder in natural order (frame2 before frame10).

    ``DIR`` holds the pictures themselves, or sub-folders ``color`` (or ``rgb``) and ``depth`` with the
    same file stems. A ``camera.json`` beside them gives intrinsics and, for depth, ``depth_scale_per_metre``.
    A folder records no times: timestamps are index / fps on the clock "file".

    Args:
        folder: of colour pictures (png, jpg, bmp, tiff, webp), or of the sub-folders.
        depth_folder: of depth pictures (16-bit png, .npy); overrides ``DIR/depth``.
        with_depth: False leaves depth unread.
        depth_scale: metres per unit of integer depth; None takes camera.json, else 0.001.
        fps: nominal frames per second.

    Raises:
        SourceError: the folder is missing or empty, or a picture has no depth of its name.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        depth_folder: str | Path | None = None,
        with_depth: bool = True,
        depth_scale: float | None = None,
        fps: float = 30.0,
    ) -> None:
        root = Path(folder)
        self.name = str(folder)
        self.fps = fps
        if not root.is_dir():
            raise SourceError(f"no folder {root}. Give the folder that holds the pictures.")
        color = next((root / name for name in _COLOR_NAMES if (root / name).is_dir()), root)
        self._colors = _files(color, COLOR_SUFFIXES)
        if not self._colors:
            kinds = ", ".join(sorted(COLOR_SUFFIXES))
            raise SourceError(f"folder {color} holds no pictures, wanted at least one ({kinds}).")
        self._depths: list[Path] | None = None
        if with_depth:
            if depth_folder is not None:
                if not Path(depth_folder).is_dir():
                    raise SourceError(f"no depth folder {depth_folder}. Give a folder of 16-bit png or .npy.")
                self._depths = _partners(self._colors, Path(depth_folder))
            elif color != root and (root / "depth").is_dir():
                self._depths = _partners(self._colors, root / "depth")
        calibration = root / "camera.json"
        self._camera: Intrinsics | None = None
        scale: float | None = None
        if calibration.is_file():
            self._camera, scale = read_camera(calibration)
        self._eight_bit = depth_scale is not None
        self._depth_scale = depth_scale or scale or 0.001
        self.length = len(self._colors)
        self._next = 0

    @property
    def has_depth(self) -> bool:
        """Whether its frames carry depth."""
        return self._depths is not None

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next picture.

        Raises:
            FrameError: it cannot be read, or its depth is of another size; names the file, and the next call
                goes on behind it.
            SourceError: its kind of depth or its calibration cannot be used.
        """
        index = self._next
        if index >= len(self._colors):
            return None
        self._next += 1
        path = self._colors[index]
        rgb = read_color(path)
        depth = None
        if self._depths is not None:
            depth = read_depth(self._depths[index], eight_bit=self._eight_bit)
            check_pair(path, rgb, self._depths[index], depth)
        return Frame(
            rgb=rgb,
            depth=depth,
            depth_scale=self._depth_scale,
            timestamp_ns=round(index * 1e9 / (self.fps or 30.0)),
            clock="file",
            index=index,
            intrinsics=fitting(self._camera, path, rgb),
        )


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"cannot list folder {folder}: {error.strerror or error}.") from error
    return sorted((p for p in found if p.is_file()), key=lambda p: natural_key(p.name))


def _partners(colors: list[Path], folder: Path) -> list[Path]:
    """The depth picture of the same stem for each colour picture."""
    depths = {p.stem: p for p in _files(folder, DEPTH_SUFFIXES)}
    missing = [p for p in colors if p.stem not in depths]
    if missing:
        hint = "Give each a depth of the same name (16-bit png or .npy), or use --depth none."
        if (folder.parent / "depth.txt").is_file():
            hint = f"This is a TUM sequence: use tum:{folder.parent}."
        raise SourceError(
            f"{len(missing)} of {len(colors)} colour pictures have no depth in {folder}, "
            f"for example {missing[0].name}. {hint}"
        )
    return [depths[p.stem] for p in colors]
