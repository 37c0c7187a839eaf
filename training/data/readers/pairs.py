"""Folders of colour and depth pictures."""

from __future__ import annotations

import csv
from pathlib import Path

from edgevae.errors import SourceError

from .base import Entry, Picture
from .image_files import COLOR_SUFFIXES, read_color, read_depth

Row = tuple[Path, Path, Entry]


class Pairs:
    """A folder of colour and depth images.

    With ``manifest.csv`` in the folder: its columns ``color`` and ``depth`` or ``depth_mm`` (paths relative
    to the folder), ``source`` (the scene) and ``licence``, the last two optional. Otherwise ``color/`` (or
    ``rgb/``) and ``depth/`` hold files of equal names; every image folder below that has both is one scene.
    """

    def __init__(self, root: Path, depth_scale: float, licence: str) -> None:
        if not root.is_dir():
            raise SourceError(f"{root} is no folder; wanted a folder of colour and depth pairs.")
        self.depth_scale = depth_scale
        manifest = root / "manifest.csv"
        listed = manifest.is_file()
        self._rows = _manifest_rows(manifest, licence) if listed else _folder_rows(root, licence)
        if not self._rows:
            raise SourceError(
                f"{root} holds no pairs; wanted manifest.csv, or color/NAME.jpg with depth/NAME.png."
            )
        self.inputs = [path for color, depth, _ in self._rows for path in (color, depth)]
        self.inputs += [manifest] * listed

    def entries(self) -> list[Entry]:
        return [entry for _, _, entry in self._rows]

    def read(self, index: int) -> Picture:
        color, depth, _ = self._rows[index]
        return read_color(color), read_depth(depth, self.depth_scale)


def _manifest_rows(manifest: Path, licence: str) -> list[Row]:
    root = manifest.parent
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            columns = set(table.fieldnames or ())
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{manifest} cannot be read as a table ({error}); restore it.") from error
    depth = "depth_mm" if "depth_mm" in columns else "depth"
    if not {"color", depth} <= columns:
        raise SourceError(f"{manifest} has columns {sorted(columns)}, wanted color and depth (or depth_mm).")
    listed = []
    for line, row in enumerate(rows, start=2):
        if not row["color"] or not row[depth]:
            raise SourceError(f"{manifest}, line {line}, names no color or no {depth}; complete the line.")
        scene = row.get("source") or root.name
        entry = Entry(row["color"], scene, row.get("licence") or licence, "", scene)
        listed.append((root / row["color"], root / row[depth], entry))
    return listed


def _folder_rows(root: Path, licence: str) -> list[Row]:
    rows = []
    for depth_dir in sorted([root / "depth", *root.glob("*/depth")]):
        color_dir = next((d for n in ("color", "rgb") if (d := depth_dir.parent / n).is_dir()), None)
        if color_dir is None:
            continue
        colors = {p.stem: p for p in sorted(color_dir.iterdir()) if p.suffix.lower() in COLOR_SUFFIXES}
        scene = depth_dir.parent.name
        for depth in sorted(depth_dir.glob("*.png")):
            if depth.stem in colors:
                color = colors[depth.stem]
                entry = Entry(str(color.relative_to(root)), scene, licence, "", scene)
                rows.append((color, depth, entry))
    return rows
