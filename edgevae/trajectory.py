"""Trajectories as the TUM RGB-D benchmark writes them, one pose a line: ``stamp tx ty tz qx qy qz qw``.

Stamps are seconds, positions metres, poses camera-to-world. SLAM systems and evaluation tools use this form.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import SourceError

POSE_REACH_NS = 100_000_000  # poses are interpolated over gaps up to this
END_REACH_NS = 1_000_000  # and hold this long before the first and after the last: stamps get rounded


class Trajectory:
    """Camera-to-world poses over time.

    Raises:
        SourceError: the file cannot be read, or a line of it is not a pose.
    """

    def __init__(self, path: Path) -> None:
        form = "stamp tx ty tz qx qy qz qw"
        rows = read_table(path, 8, form)
        self._stamps = np.array([nanoseconds(row[0], path) for row in rows], dtype=np.int64)
        try:
            values = np.array([[float(x) for x in row[1:]] for row in rows], dtype=np.float64).reshape(-1, 7)
        except ValueError as error:
            raise SourceError(f"{path} says {error}; wanted numbers '{form}'.") from error
        norms = np.linalg.norm(values[:, 3:], axis=1)
        if not np.isfinite(values).all() or (norms < 0.5).any():
            raise SourceError(f"{path} holds a pose that is not finite or has no rotation, wanted '{form}'.")
        order = np.argsort(self._stamps, kind="stable")
        self._stamps = self._stamps[order]
        self._position = values[order, :3]
        self._quaternion = (values[:, 3:] / norms[:, None])[order]

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def span_s(self) -> tuple[float, float]:
        """The first and the last stamp, seconds; there must be one."""
        return float(self._stamps[0]) / 1e9, float(self._stamps[-1]) / 1e9

    def at(self, stamp_ns: int) -> npt.NDArray[np.float64] | None:
        """Pose (4, 4) between the two poses around ``stamp_ns``, None where they are out of reach."""
        right = int(np.searchsorted(self._stamps, stamp_ns, side="left"))
        if right < len(self._stamps) and self._stamps[right] == stamp_ns:
            return pose_matrix(self._position[right], self._quaternion[right])
        if right == 0 or right == len(self._stamps):
            end = min(right, len(self._stamps) - 1)
            if end < 0 or abs(int(self._stamps[end]) - stamp_ns) > END_REACH_NS:
                return None
            return pose_matrix(self._position[end], self._quaternion[end])
        before, after = int(self._stamps[right - 1]), int(self._stamps[right])
        if after - before > POSE_REACH_NS:
            return None
        t = (stamp_ns - before) / (after - before)
        position = (1.0 - t) * self._position[right - 1] + t * self._position[right]
        return pose_matrix(position, slerp(self._quaternion[right - 1], self._quaternion[right], t))


def slerp(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], t: float) -> npt.NDArray[np.float64]:
    """Rotation at ``t`` in [0, 1] from unit quaternion a to b on the shorter arc (Shoemake 1985)."""
    cosine = float(a @ b)
    if cosine < 0.0:
        b, cosine = -b, -cosine
    if cosine > 0.9995:  # the arc is straight to 1e-7, and sin(angle) too small to divide by
        mixed = (1.0 - t) * a + t * b
    else:
        angle = np.arccos(cosine)
        mixed = (np.sin((1.0 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.asarray(mixed / np.linalg.norm(mixed))


def pose_matrix(
    position: npt.NDArray[np.float64], quaternion: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Pose (4, 4) of a position and a unit quaternion x, y, z, w."""
    x, y, z, w = (float(q) for q in quaternion)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = position
    return pose


def read_table(path: Path, columns: int, form: str) -> list[list[str]]:
    """Rows of a TUM list; lines that begin with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {path}: {error}; wanted lines '{form}'.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        fields = line.replace(",", " ").split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != columns:
            raise SourceError(f"{path} line {number} is '{line.strip()[:60]}', wanted '{form}'.")
        rows.append(fields)
    return rows


def nanoseconds(stamp: str, path: Path) -> int:
    """A stamp in decimal seconds, exactly (a float would lose the last 100 ns)."""
    try:
        stamp_ns = round(Decimal(stamp) * 1_000_000_000)
        if abs(stamp_ns) >= 2**63:
            raise OverflowError
        return stamp_ns
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise SourceError(f"{path} has the time stamp '{stamp[:40]}', wanted decimal seconds.") from error
