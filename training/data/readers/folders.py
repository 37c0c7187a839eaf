"""Folders of pictures without depth: one folder for each class, or no classes at all."""

from __future__ import annotations

from pathlib import Path

from edgevae.errors import SourceError

from .base import Entry, Picture
from .image_files import COLOR_SUFFIXES, find_pictures, read_color


class ImageFolder:
    """Every picture below a folder; each folder that holds some is a scene."""

    def __init__(self, root: Path, licence: str) -> None:
        if not root.is_dir():
            raise SourceError(f"{root} is no folder; wanted a folder of pictures.")
        self.root, self.licence = root, licence
        self.inputs = find_pictures(root)
        if not self.inputs:
            raise SourceError(f"{root} holds no pictures; wanted at least one ({_kinds()}).")

    def entries(self) -> list[Entry]:
        listed = []
        for path in self.inputs:
            inside = path.relative_to(self.root)
            scene = self.root.name if inside.parent == Path() else inside.parent.as_posix()
            listed.append(Entry(inside.as_posix(), scene, self.licence, "", scene))
        return listed

    def read(self, index: int) -> Picture:
        return read_color(self.inputs[index]), None


class ClassFolders(ImageFolder):
    """A folder for each class, pictures at any depth below it, as UT Zappos50K (Yu and Grauman 2014) lies:
    ``Boots/Ankle/BRAND/7965384.144.jpg``. Class and scene are the name of the first folder."""

    def __init__(self, root: Path, licence: str) -> None:
        super().__init__(root, licence)
        loose = [path for path in self.inputs if path.parent == root]
        if loose:
            raise SourceError(
                f"{root} holds pictures beside the folders of classes ({len(loose)}, such as {loose[0].name}"
                "); move each below the folder of its class, or use kind: images for a set without classes."
            )
        classes = {path.relative_to(root).parts[0] for path in self.inputs}
        if len(classes) == 1:
            raise SourceError(
                f"{root} has pictures in the one folder {classes.pop()!r}, wanted a folder for each of "
                "several classes; is it one level too high or too low? Without classes use kind: images."
            )
        others = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
        empty = sorted(p.name for p in others if p.name not in classes)
        if empty:
            raise SourceError(
                f"{root / empty[0]} holds no pictures ({_kinds()}), though a folder of a class; fill it or "
                "remove it."
            )

    def entries(self) -> list[Entry]:
        listed = (path.relative_to(self.root) for path in self.inputs)
        return [Entry(p.as_posix(), p.parts[0], self.licence, p.parts[0], p.parts[0]) for p in listed]


def _kinds() -> str:
    return ", ".join(sorted(COLOR_SUFFIXES))
