"""``tum:DIR``: a sequence in the layout of the TUM RGB-D benchmark (Sturm et al. 2012)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import SourceError
from ..frame import Frame, Intrinsics
from ..trajectory import Trajectory, nanoseconds, read_table
from .base import Source
from .image_files import check_pair, fitting, read_camera, read_color, read_depth

ASSOCIATION_REACH_NS = 20_000_000  # colour and depth of one frame are at most this far apart
DEPTH_UNITS_PER_M = 5000.0

# Published intrinsics of the colour cameras: fx, fy, cx, cy; k1, k2, p1, p2, k3 (TUM RGB-D benchmark).
_FREIBURG = {
    "1": Intrinsics(517.3, 516.5, 318.6, 255.3, 640, 480, (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": Intrinsics(520.9, 521.0, 325.1, 249.7, 640, 480, (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": Intrinsics(535.4, 539.2, 320.1, 247.6, 640, 480),
}


class TumSource(Source):
    """Frames of a TUM RGB-D folder, each with the pose of its colour stamp where ground truth reaches.

    Reads ``associations.txt`` where there is one, else pairs ``rgb.txt`` and ``depth.txt`` by the nearest
    stamp within 20 ms; colour without depth is left out, as the benchmark's own tool does. Depth stays
    uint16 with its scale (5000 units = 1 m). ``groundtruth.txt`` is interpolated (slerp). Intrinsics and
    depth scale come from ``camera.json``, else from the folder's name (freiburg1, fr2, ...), else unknown.

    Args:
        folder: holds rgb.txt.
        with_depth: False gives every colour picture, without depth.

    Raises:
        SourceError: the folder is missing or a list in it cannot be understood.
    """

    def __init__(self, folder: str | Path, *, with_depth: bool = True) -> None:
        root = Path(folder)
        self.name = f"tum:{folder}"
        if not root.is_dir():
            raise SourceError(f"no folder {root}. Give the folder that holds rgb.txt and depth.txt.")
        self._root = root
        self._rows = _pairs(root, with_depth)
        if not self._rows:
            raise SourceError(
                f"{root} has no frame: no colour in its lists, or no depth within 20 ms of any. "
                "Check the stamps of rgb.txt and depth.txt, or use --depth none."
            )
        self.length = len(self._rows)
        stamps = np.array([row[0] for row in self._rows], dtype=np.int64)
        if len(stamps) > 1:
            step = float(np.median(np.diff(stamps)))
            self.fps = 1e9 / step if step > 0.0 else None
        truth = root / "groundtruth.txt"
        self._trajectory = Trajectory(truth) if truth.is_file() else None
        self._depth_scale = 1.0 / DEPTH_UNITS_PER_M
        self._camera: Intrinsics | None = None
        self._default_camera: Intrinsics | None = None
        if (root / "camera.json").is_file():
            self._camera, scale = read_camera(root / "camera.json")
            self._depth_scale = scale or self._depth_scale
        elif match := re.search(r"(?:freiburg|fr)([123])", root.resolve().name):
            self._default_camera = _FREIBURG[match[1]]
        self._next = 0

    def read(self, timeout_s: float = 5.0) -> Frame | None:
        """The next frame.

        Raises:
            FrameError: a picture of it is missing or unreadable; names the file, and the next call goes on
                behind it.
            SourceError: its kind of depth or its calibration cannot be used.
        """
        index = self._next
        if index >= len(self._rows):
            return None
        self._next += 1
        stamp, rgb_name, depth_name = self._rows[index]
        rgb_path = self._root / rgb_name
        rgb = read_color(rgb_path)
        depth = None
        if depth_name is not None:
            depth = read_depth(self._root / depth_name)
            check_pair(rgb_path, rgb, self._root / depth_name, depth)
        camera = fitting(self._camera, rgb_path, rgb)
        if camera is None and self._default_camera is not None and rgb.shape[:2] == (480, 640):
            camera = self._default_camera
        return Frame(
            rgb=rgb,
            depth=depth,
            depth_scale=self._depth_scale,
            timestamp_ns=stamp,
            clock="file",
            index=index,
            intrinsics=camera,
            pose=self._trajectory.at(stamp) if self._trajectory is not None else None,
        )


Row = tuple[int, str, str | None]


def _pairs(root: Path, with_depth: bool) -> list[Row]:
    """(colour stamp, colour file, depth file) of each frame, by time."""
    associations, colors, depths = (root / f"{name}.txt" for name in ("associations", "rgb", "depth"))
    if associations.is_file() and (with_depth or not colors.is_file()):
        rows: list[Row] = []
        for row in read_table(associations, 4, "stamp rgb/FILE stamp depth/FILE"):
            if row[1].startswith("depth"):  # the benchmark's tool writes its first argument first
                row = row[2:] + row[:2]
            stamp, color, _, depth = row
            rows.append((nanoseconds(stamp, associations), color, depth if with_depth else None))
        return sorted(rows, key=lambda row: row[0])
    if not colors.is_file():
        raise SourceError(f"{root} has neither associations.txt nor rgb.txt; wanted a TUM RGB-D folder.")
    color_list = sorted((nanoseconds(s, colors), f) for s, f in read_table(colors, 2, "stamp rgb/FILE"))
    if not with_depth or not depths.is_file():
        return [(stamp, name, None) for stamp, name in color_list]
    depth_list = sorted((nanoseconds(s, depths), f) for s, f in read_table(depths, 2, "stamp depth/FILE"))
    return _associate(color_list, depth_list)


def _associate(colors: list[tuple[int, str]], depths: list[tuple[int, str]]) -> list[Row]:
    """Pair each colour with the depth nearest in time; a depth serves the nearest of its colours only."""
    if not depths:
        return []
    depth_ns = np.array([stamp for stamp, _ in depths], dtype=np.int64)
    best: dict[int, tuple[int, int]] = {}  # depth -> (distance, colour)
    for c, (stamp, _) in enumerate(colors):
        right = int(np.searchsorted(depth_ns, stamp))
        nearby = [d for d in (right - 1, right) if 0 <= d < len(depths)]
        distance, d = min((abs(int(depth_ns[d]) - stamp), d) for d in nearby)
        if distance <= ASSOCIATION_REACH_NS and (d not in best or distance < best[d][0]):
            best[d] = (distance, c)
    chosen = sorted((c, d) for d, (_, c) in best.items())
    return [(colors[c][0], colors[c][1], depths[d][1]) for c, d in chosen]
