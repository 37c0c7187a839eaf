"""A set of pictures as a config names it, and the set itself, decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevae.errors import SourceError

from . import readers
from .readers import Entry, Reader

KINDS = ("nyu_mat", "pairs", "tum", "synthetic", "mnist", "frey", "classes", "images", "source")
FITS = ("stretch", "letterbox", "crop")
# Where a set comes from, and how it is to lie.
HOMES = {
    "mnist": "MNIST is at yann.lecun.com/exdb/mnist: place its four idx files, .gz or not, in this folder",
    "frey": "Frey Face is at cs.nyu.edu/~roweis/data.html: place frey_rawface.mat here",
    "classes": "for UT Zappos50K (vision.cs.utexas.edu/projects/finegrained/utzap50k) unpack the folder "
    "ut-zap50k-images here; any folder with a folder of pictures for each class will do",
    "nyu_mat": "NYU Depth V2 is at cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html: place "
    "nyu_depth_v2_labeled.mat here",
    "tum": "the TUM RGB-D benchmark is at cvg.cit.tum.de/data/datasets/rgbd-dataset: unpack a sequence here",
}


@dataclass
class SetOptions:
    """One set of pictures.

    Attributes:
        kind: "nyu_mat", "pairs", "tum", "synthetic", "mnist", "frey", "classes" (a folder for each class),
            "images" (pictures without depth) or "source" (whatever ``edgevae.open_source`` reads, an edgevae
            record with pictures among it).
        path: file or folder, relative to the data root; for "source" a URI; unused for "synthetic".
        name: what metrics and provenance call it; the last part of the path by default.
        licence: for provenance; a manifest's own column goes first.
        weight: how often a frame of this set is drawn, relative to a frame of a set with weight 1.
        crop: [top, bottom, left, right] of the part of every image that is used, end exclusive; empty: all.
        depth_scale: metres per unit of stored depth; 0 takes the format's own (0.001 for pairs, 1/5000 for
            TUM). NYU depth stored in 8 bits has 9.99547 / 255.
        max_depth_m: readings beyond are treated as no reading; 0 for no bound.
        height: rows of the cached images; larger images are reduced to it, keeping their shape. 0 keeps them.
        size: [height, width] of the cached images; empty: of the first image, as ``height`` says.
        fit: how an image of another shape comes to that size: "stretch", "letterbox" (white beside it, no
            depth) or "crop" (what sticks out in the middle is cut off).
        grey: keep colour pictures as grey ones.
        split_file: for "nyu_mat", relative to the data root.
        hold_out: patterns of scenes that validate and never train; ["*"] for the whole set.
        hold_out_last: so many of the last remaining frames validate, too.
        test: patterns of scenes that ``python -m training test`` scores, and nothing else sees.
        leave_out: patterns of scenes that are not used at all.
        parts: shares of what then remains, drawn at random: [train, validation] or [train, validation,
            test], as in [0.7, 0.2, 0.1]; of each class where there are classes. Empty: all of it trains.
        split_by: what is drawn for ``parts``: "scene" (whole ones) or "frame"; by default frames of mnist,
            frey, classes and images, scenes of the rest.
        split_seed: another number, another draw; it does not follow the seed of the run.
        seeds: for "synthetic": drives.
        frames, stride: for "synthetic" frames of each drive and every how many-th, 50 and 5 by default; for
            "source" at most so many, and every how many-th, all and 1 by default.
        max_bad: share of the pictures that may be unreadable; they are skipped, counted and listed.
    """

    kind: str
    path: str = ""
    name: str = ""
    licence: str = "not stated"
    weight: float = 1.0
    crop: list[int] = field(default_factory=list)
    depth_scale: float = 0.0
    max_depth_m: float = 0.0
    height: int = 240
    size: list[int] = field(default_factory=list)
    fit: str = "stretch"
    grey: bool = False
    split_file: str = ""
    hold_out: list[str] = field(default_factory=list)
    hold_out_last: int = 0
    test: list[str] = field(default_factory=list)
    leave_out: list[str] = field(default_factory=list)
    parts: list[float] = field(default_factory=list)
    split_by: str = ""
    split_seed: int = 0
    seeds: list[int] = field(default_factory=lambda: [0])
    frames: int = 0
    stride: int = 0
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, wanted {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        if self.crop and len(self.crop) != 4:
            raise ValueError(f"crop is {self.crop}, wanted [top, bottom, left, right]")
        if self.size and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size is {self.size}, wanted [height, width]")
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}, wanted stretch, letterbox or crop")
        shares = len(self.parts) in (2, 3) and min(self.parts) > 0
        if self.parts and not (shares and math.isclose(sum(self.parts), 1, abs_tol=1e-6)):
            raise ValueError(
                f"parts is {self.parts}, wanted [train, validation] or [train, validation, test] with a sum "
                "of 1, as in [0.7, 0.2, 0.1]"
            )
        if self.split_by not in ("", "scene", "frame"):
            raise ValueError(f"split_by is {self.split_by!r}, wanted scene or frame")
        if not (0 <= self.max_bad <= 1 and self.weight > 0):
            raise ValueError(
                f"max_bad is {self.max_bad}, weight is {self.weight}; wanted a share from 0 to 1 and a "
                "weight above 0"
            )
        if min(self.height, self.frames, self.stride, self.hold_out_last) < 0:
            raise ValueError("height, frames, stride and hold_out_last cannot be negative")
        if self.kind == "synthetic":
            self.frames, self.stride = self.frames or 50, self.stride or 5
        self.stride = self.stride or 1
        self.name = self.name or Path(self.path.partition("?")[0]).name or self.kind
        self.split_by = self.split_by or (
            "frame" if self.kind in ("mnist", "frey", "classes", "images") else "scene"
        )


def open_reader(options: SetOptions, root: Path) -> Reader:
    """The reader of a set.

    Raises:
        SourceError: files are missing or unreadable.
    """
    if options.kind == "synthetic":
        return readers.Synthetic(options.seeds, options.frames, options.stride)
    if options.kind == "source":
        uri = _uri(options.path, root)
        try:
            return readers.Stream(uri, options.name, options.licence, options.frames, options.stride)
        except SourceError as error:
            raise SourceError(
                f"set {options.name!r}: {error} Paths are taken from {root}, which EDGEVAE_DATA or "
                "--data.root names."
            ) from error
    path = root / options.path
    if not path.exists():
        home = HOMES.get(options.kind, "place the set here")
        raise SourceError(
            f"{path} does not exist (set {options.name!r}); {home}, or set EDGEVAE_DATA or --data.root to "
            "the folder that holds the data sets."
        )
    if options.kind == "nyu_mat":
        split_file = root / options.split_file if options.split_file else None
        return readers.NyuMat(path, options.licence, split_file)
    if options.kind == "tum":
        return readers.Tum(path, options.licence, options.depth_scale or 1 / 5000)
    if options.kind == "pairs":
        return readers.Pairs(path, options.depth_scale or 0.001, options.licence)
    plain: dict[str, Callable[[Path, str], Reader]] = {
        "mnist": readers.Mnist,
        "frey": readers.Frey,
        "classes": readers.ClassFolders,
        "images": readers.ImageFolder,
    }
    return plain[options.kind](path, options.licence)


def _uri(path: str, root: Path) -> str:
    """A source's URI with the file or folder it names below the data root, where it is there."""
    scheme, colon, rest = path.partition(":")
    if colon and scheme in ("tum", "nyu"):
        return f"{scheme}:{root / rest}"
    return str(root / path) if (root / path.partition("?")[0]).exists() else path


class FrameSet:
    """A set, decoded: all images of one size, memory-mapped from the cache.

    Attributes:
        color: uint8 (N, H, W, 3), or (N, H, W) of a grey set.
        depth: uint16 (N, H, W) in units of ``training.data.prepare.DEPTH_UNIT_M``, 0 = no reading; None of a
            set without depth.
        entries: what is known of each frame.
        skipped: how many pictures could not be used.
    """

    def __init__(
        self,
        options: SetOptions,
        entries: list[Entry],
        skipped: int,
        color: tuple[Path, tuple[int, ...]],
        depth: tuple[Path, tuple[int, ...]] | None,
    ) -> None:
        self.options, self.entries, self.skipped = options, entries, skipped
        self._files = color, depth
        self.color: npt.NDArray[np.uint8] = np.memmap(color[0], np.uint8, "r", shape=color[1])
        self.depth: npt.NDArray[np.uint16] | None = None
        if depth is not None:
            self.depth = np.memmap(depth[0], np.uint16, "r", shape=depth[1])

    def __reduce__(self) -> tuple[type[FrameSet], tuple[object, ...]]:
        """Another process maps the files anew, and is not sent their content."""
        return FrameSet, (self.options, self.entries, self.skipped, *self._files)

    def __len__(self) -> int:
        return len(self.entries)
