"""A set of frames as a config names it, and its cache of decoded images on disk."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edgevae
from edgevae.errors import SourceError

from .readers import NyuMat, Pair, Pairs, Reader, Synthetic, Tum

CACHE_VERSION = 1
DEPTH_UNIT_M = 0.002  # of the cached uint16 depth: up to 131 m


@dataclass
class SetOptions:
    """One set of frames.

    Attributes:
        kind: "nyu_mat", "pairs", "tum" or "synthetic".
        path: file or folder, relative to the data root; unused for "synthetic".
        name: what metrics and provenance call it; the last part of the path by default.
        licence: for provenance; a manifest's own column goes first.
        weight: how often a frame of this set is drawn, relative to a frame of a set with weight 1.
        crop: [top, bottom, left, right] of the part of every image that is used, end exclusive; empty: all.
        depth_scale: metres per unit of stored depth; 0 takes the format's own (0.001 for pairs, 1/5000 for
            TUM). NYU depth stored in 8 bits has 9.99547 / 255.
        max_depth_m: readings beyond are treated as no reading; 0 for no bound.
        height: rows of the cached images; larger images are reduced to it, keeping their shape. 0 keeps them.
        split_file: for "nyu_mat", relative to the data root.
        hold_out: patterns of scenes that validate and never train; ["*"] for the whole set.
        hold_out_last: so many of the last remaining frames validate, too.
        leave_out: patterns of scenes that are not used at all.
        seeds, frames, stride: for "synthetic": drives, frames of each, every how many-th frame.
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
    split_file: str = ""
    hold_out: list[str] = field(default_factory=list)
    hold_out_last: int = 0
    leave_out: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    frames: int = 50
    stride: int = 5

    def __post_init__(self) -> None:
        if self.kind not in ("nyu_mat", "pairs", "tum", "synthetic"):
            raise ValueError(f"kind is {self.kind!r}, wanted nyu_mat, pairs, tum or synthetic")
        if self.crop and len(self.crop) != 4:
            raise ValueError(f"crop is {self.crop}, wanted [top, bottom, left, right]")
        self.name = self.name or Path(self.path).name or self.kind


def open_reader(options: SetOptions, root: Path) -> Reader:
    """The reader of a set.

    Raises:
        SourceError: files are missing or unreadable.
    """
    path = root / options.path
    if options.kind == "synthetic":
        return Synthetic(options.seeds, options.frames, options.stride)
    if not path.exists():
        raise SourceError(
            f"{path} does not exist (set {options.name!r}); set EDGEVAE_DATA or --data.root to the folder "
            "that holds the data sets, or take the set out of the config."
        )
    if options.kind == "nyu_mat":
        return NyuMat(path, options.licence, root / options.split_file if options.split_file else None)
    if options.kind == "tum":
        return Tum(path, options.licence, options.depth_scale or 1 / 5000)
    return Pairs(path, options.depth_scale or 0.001, options.licence)


@dataclass
class FrameSet:
    """A set, decoded: all images of one size, memory-mapped from the cache.

    Attributes:
        color: uint8 (N, H, W, 3).
        depth: uint16 (N, H, W) in units of ``DEPTH_UNIT_M``, 0 = no reading.
        scenes, licences: for each frame.
    """

    options: SetOptions
    color: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.uint16]
    scenes: list[str]
    licences: list[str]

    def split(self) -> tuple[list[int], list[int]]:
        """Indices for training and for validation."""
        train: list[int] = []
        held: list[int] = []
        for i, scene in enumerate(self.scenes):
            if not _matches(scene, self.options.leave_out):
                (held if _matches(scene, self.options.hold_out) else train).append(i)
        cut = max(0, len(train) - self.options.hold_out_last)
        return train[:cut], held + train[cut:]


def _matches(scene: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(scene, pattern) for pattern in patterns)


def open_set(options: SetOptions, root: Path, cache_dir: Path) -> FrameSet:
    """A set from its cache, which is made first where it is missing or older than the files.

    Raises:
        SourceError: files are missing or unreadable, or frames of the set cannot be cropped as asked.
    """
    reader = open_reader(options, root)
    folder = cache_dir / f"{options.name}-{_fingerprint(options, reader)}"
    if not (folder / "done").exists():
        _write_cache(options, reader, folder)
    color = np.load(folder / "color.npy", mmap_mode="r")
    depth = np.load(folder / "depth.npy", mmap_mode="r")
    return FrameSet(options, color, depth, list(reader.scenes), list(reader.licences))


def _fingerprint(options: SetOptions, reader: Reader) -> str:
    decoding = ("kind", "crop", "depth_scale", "max_depth_m", "height", "seeds", "frames", "stride")
    state: list[object] = [CACHE_VERSION, [asdict(options)[key] for key in decoding], list(reader.scenes)]
    if options.kind == "synthetic":
        state.append(edgevae.__version__)  # no file tells when the renderer changes
    for path in reader.inputs:
        if not path.is_file():
            raise SourceError(
                f"{path} is missing (set {options.name!r}); restore it or take it out of the set."
            )
        stat = path.stat()
        state.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


def _write_cache(options: SetOptions, reader: Reader, folder: Path) -> None:
    """Decode every pair once; the folder appears under its name only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        first = _prepare(reader[0], options, None)
        size = first[0].shape[:2]
        color = _new_array(temporary / "color.npy", np.uint8, (len(reader), *size, 3))
        depth = _new_array(temporary / "depth.npy", np.uint16, (len(reader), *size))
        for i in range(len(reader)):
            color[i], depth[i] = first if i == 0 else _prepare(reader[i], options, size)
        color.flush()
        depth.flush()
        (temporary / "done").touch()
        try:
            os.replace(temporary, folder)
        except OSError:  # another process was first
            if not (folder / "done").exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _prepare(
    pair: Pair, options: SetOptions, size: tuple[int, ...] | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Crop, mask and reduce one pair; ``size`` (H, W) of the first pair, None when this is the first.

    Colour is reduced by area average; depth takes the sample at the centre of each cell, so that the depths
    of two surfaces never mix.
    """
    import cv2

    rgb, depth_m = pair
    if depth_m.shape != rgb.shape[:2]:
        raise SourceError(
            f"set {options.name!r}: colour is {rgb.shape[:2]}, depth is {depth_m.shape}; "
            "wanted the same pixel grid."
        )
    if options.crop:
        top, bottom, left, right = options.crop
        if not (0 <= top < bottom <= rgb.shape[0] and 0 <= left < right <= rgb.shape[1]):
            raise SourceError(
                f"set {options.name!r}: crop {options.crop} is outside an image of {rgb.shape[:2]}."
            )
        rgb, depth_m = rgb[top:bottom, left:right], depth_m[top:bottom, left:right]
    h, w = rgb.shape[:2]
    if size is None:
        height = min(h, options.height or h)
        size = (height, round(w * height / h))
    if (h, w) != tuple(size):
        interpolation = cv2.INTER_AREA if size[0] < h else cv2.INTER_LINEAR
        rgb = cv2.resize(rgb, (size[1], size[0]), interpolation=interpolation).astype(np.uint8)
        rows = ((np.arange(size[0]) + 0.5) * h / size[0]).astype(np.int64)
        columns = ((np.arange(size[1]) + 0.5) * w / size[1]).astype(np.int64)
        depth_m = depth_m[rows[:, None], columns[None]]
    farthest = options.max_depth_m or 65535 * DEPTH_UNIT_M
    reading = np.isfinite(depth_m) & (depth_m > 0) & (depth_m <= farthest)
    units = np.zeros(depth_m.shape, np.uint16)
    units[reading] = np.clip(np.rint(depth_m[reading] / DEPTH_UNIT_M), 1, 65535)
    return rgb, units
