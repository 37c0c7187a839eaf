"""Readers: one class for each way RGB-D pairs lie on disk, all with the same five members.

A reader decodes one pair at a time and never changes it; cropping, masking and resizing belong to the cache.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from edgevae.errors import SourceError
from edgevae.sources.nyu import NyuFile

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]
COLOR_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


class Reader(Protocol):
    """Colour and depth pairs of one origin.

    Attributes:
        scenes: for each pair, the scene or sequence that it belongs to; whole scenes are held out.
        licences: for each pair, the licence it was published under.
        inputs: the files that the pairs come from; the cache is made again when one of them changes.
    """

    scenes: list[str]
    licences: list[str]
    inputs: list[Path]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair:
        """uint8 (H, W, 3) in R, G, B order and float32 (H, W) metres, 0 = no reading."""


def read_color(path: Path) -> npt.NDArray[np.uint8]:
    """A colour image in R, G, B order."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(
            f"{path} cannot be read as a colour image; restore the file or take it out of the set."
        )
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def read_depth(path: Path, depth_scale: float) -> npt.NDArray[np.float32]:
    """A depth image of one 8-bit or 16-bit channel, in metres."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise SourceError(
            f"{path} cannot be read as a depth image; restore the file or take it out of the set."
        )
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise SourceError(
            f"{path} is {image.dtype} {image.shape}, wanted a depth image of one 8-bit or 16-bit channel; "
            "are colour and depth exchanged?"
        )
    return image.astype(np.float32) * np.float32(depth_scale)


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
        rows = _manifest_rows(manifest, licence) if manifest.is_file() else _folder_rows(root, licence)
        if not rows:
            raise SourceError(
                f"{root} holds no pairs; wanted manifest.csv, or color/NAME.jpg with depth/NAME.png."
            )
        self.color, self.depth, self.scenes, self.licences = (
            list(column) for column in zip(*rows, strict=True)
        )
        self.inputs = self.color + self.depth

    def __len__(self) -> int:
        return len(self.color)

    def __getitem__(self, index: int) -> Pair:
        return read_color(self.color[index]), read_depth(self.depth[index], self.depth_scale)


def _manifest_rows(manifest: Path, licence: str) -> list[tuple[Path, Path, str, str]]:
    with manifest.open(newline="") as file:
        table = csv.DictReader(file)
        columns = set(table.fieldnames or ())
        depth = "depth_mm" if "depth_mm" in columns else "depth"
        if not {"color", depth} <= columns:
            raise SourceError(
                f"{manifest} has columns {sorted(columns)}, wanted color and depth (or depth_mm)."
            )
        root = manifest.parent
        return [
            (
                root / row["color"],
                root / row[depth],
                row.get("source") or root.name,
                row.get("licence") or licence,
            )
            for row in table
        ]


def _folder_rows(root: Path, licence: str) -> list[tuple[Path, Path, str, str]]:
    rows = []
    for depth_dir in sorted([root / "depth", *root.glob("*/depth")]):
        color_dir = next((d for n in ("color", "rgb") if (d := depth_dir.parent / n).is_dir()), None)
        if color_dir is None:
            continue
        colors = {p.stem: p for p in sorted(color_dir.iterdir()) if p.suffix.lower() in COLOR_SUFFIXES}
        for depth in sorted(depth_dir.glob("*.png")):
            if depth.stem in colors:
                rows.append((colors[depth.stem], depth, depth_dir.parent.name, licence))
    return rows


class Tum:
    """A sequence of the TUM RGB-D benchmark: ``rgb.txt`` and ``depth.txt`` list "timestamp filename".

    Each colour image takes the depth image nearest in time, if it is within ``max_difference_s``.
    """

    def __init__(
        self, root: Path, licence: str, depth_scale: float = 1 / 5000, max_difference_s: float = 0.02
    ) -> None:
        self.depth_scale = depth_scale
        color_s, color = _tum_list(root / "rgb.txt")
        depth_s, depth = _tum_list(root / "depth.txt")
        nearest = np.abs(color_s[:, None] - depth_s[None]).argmin(1)
        near = np.abs(color_s - depth_s[nearest]) <= max_difference_s
        if not near.any():
            raise SourceError(
                f"no colour image of {root} has a depth image within {max_difference_s} s; "
                "are rgb.txt and depth.txt of the same sequence?"
            )
        self.color = [root / color[i] for i in np.flatnonzero(near)]
        self.depth = [root / depth[i] for i in nearest[near]]
        self.scenes = [root.name] * len(self.color)
        self.licences = [licence] * len(self.color)
        self.inputs = self.color + self.depth

    def __len__(self) -> int:
        return len(self.color)

    def __getitem__(self, index: int) -> Pair:
        return read_color(self.color[index]), read_depth(self.depth[index], self.depth_scale)


def _tum_list(path: Path) -> tuple[npt.NDArray[np.float64], list[str]]:
    if not path.is_file():
        raise SourceError(f"{path} is missing; wanted a TUM sequence with rgb.txt and depth.txt.")
    rows = [line.split() for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
    try:
        times, names = np.array([float(row[0]) for row in rows]), [row[1] for row in rows]
    except (ValueError, IndexError) as error:
        raise SourceError(f"{path} has a line that is not 'timestamp filename' ({error}).") from error
    if not rows:
        raise SourceError(f"{path} lists no images; wanted lines 'timestamp filename'.")
    return times, names


class NyuMat:
    """``nyu_depth_v2_labeled.mat`` (MATLAB v7.3): images (N, 3, W, H) and depths (N, W, H) in metres.

    With a split file (``splits.mat`` of the data set: 1-based ``trainNdxs`` and ``testNdxs``) the scenes are
    named "train" and "test", otherwise all are "nyu".
    """

    def __init__(self, path: Path, licence: str, split_file: Path | None = None) -> None:
        self.path, self.inputs = path, [path]
        self._pairs = NyuFile(path)
        scenes = np.full(len(self._pairs), "nyu", dtype=object)
        if split_file is not None:
            scenes[:] = ""
            for scene, key in (("train", "trainNdxs"), ("test", "testNdxs")):
                indices = _split_indices(split_file, key)
                if indices.min(initial=1) < 1 or indices.max(initial=1) > len(scenes):
                    raise SourceError(
                        f"{split_file}: {key} goes from {indices.min()} to {indices.max()}, "
                        f"wanted 1 to {len(scenes)}, the frames of {path.name}."
                    )
                scenes[indices - 1] = scene
            self.inputs.append(split_file)
        self.index = np.flatnonzero(scenes != "")
        self.scenes = [str(scene) for scene in scenes[self.index]]
        self.licences = [licence] * len(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs.pair(int(self.index[index]))


def _split_indices(path: Path, key: str) -> npt.NDArray[np.int64]:
    """1-based frame numbers; MATLAB v5 files go through SciPy, v7.3 files through h5py."""
    import h5py
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return np.asarray(file[key]).reshape(-1).astype(np.int64)
        return np.asarray(loadmat(path)[key]).reshape(-1).astype(np.int64)
    except (OSError, KeyError, ValueError, MatReadError) as error:
        raise SourceError(f"{path} cannot be read as a split file with {key} ({error}).") from error


class Synthetic:
    """Drives rendered by ``edgevae.open_source("synthetic:SEED")``; each seed is a scene, "seed-SEED".

    Args:
        seeds: one drive for each.
        frames: frames taken of each drive.
        stride: every how many-th frame is taken, since neighbours look alike.
    """

    def __init__(self, seeds: list[int], frames: int, stride: int) -> None:
        self.order = [(seed, i * stride) for seed in seeds for i in range(frames)]
        self.scenes = [f"seed-{seed}" for seed, _ in self.order]
        self.licences = ["none (rendered)"] * len(self.order)
        self.inputs: list[Path] = []
        self._seed, self._source = -1, cast(Any, None)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Pair:
        import edgevae

        seed, number = self.order[index]
        if self._seed != seed:
            self._seed, self._source = seed, edgevae.open_source(f"synthetic:{seed}")
        frame = self._source.frame(number)
        depth_m = frame.depth_m()
        if depth_m is None:
            raise SourceError(f"synthetic:{seed} gave a frame without depth; wanted colour and depth.")
        return frame.rgb, depth_m
