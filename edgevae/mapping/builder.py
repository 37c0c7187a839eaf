"""From frames to a finished map: poses found where there are none, frames counted, the file written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EdgevaeError, LatentError, RecordError
from ..model import ModelSpec
from ..words import counted
from . import MAX_DEPTH_M, MAX_MB, VOXEL_M
from .map_error import MapError, map_error
from .odometry import Odometry
from .ply import Cloud, write_ply
from .tsdf import SceneMap, check_sizes
from .views import View

# Decoded depth is off by a tenth, measured depth by a hundredth: the same wall must meet itself again.
_DECODED_TRUNCATION = 8.0
_MEASURED_TRUNCATION = 4.0
_WITHIN_M = 0.05


@dataclass(frozen=True, slots=True)
class MapSettings:
    """What a map is to be like.

    Attributes:
        voxel_m: side of a voxel, metres.
        max_depth_m: depth beyond is not fused.
        truncation_m: see ``SceneMap``; None for eight voxels (four in the map of measured depth).
        mesh: write triangles instead of points.
        max_mb: memory of the voxels; at this limit a map stops growing.
        reference: fuse the camera's own frames as well, and say how far the map is from theirs.
    """

    voxel_m: float = VOXEL_M
    max_depth_m: float = MAX_DEPTH_M
    truncation_m: float | None = None
    mesh: bool = False
    max_mb: float = MAX_MB
    reference: bool = False

    def __post_init__(self) -> None:
        for name in ("max_depth_m", "max_mb"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise EdgevaeError(f"{name} of the map is {value:g}, wanted a positive number.")
        check_sizes(self.voxel_m, self.decoded_truncation_m)

    @property
    def decoded_truncation_m(self) -> float:
        """Truncation in the map of decoded frames."""
        return _DECODED_TRUNCATION * self.voxel_m if self.truncation_m is None else self.truncation_m

    @property
    def measured_truncation_m(self) -> float:
        """Truncation in the map of measured depth."""
        return _MEASURED_TRUNCATION * self.voxel_m if self.truncation_m is None else self.truncation_m


class MapBuilder:
    """A map that grows frame by frame.

    Attributes:
        poses: "given" or "odometry": where the poses come from.
        without_pose: frames that had none.
        without_depth: frames whose depth could not be trusted anywhere.
        beyond_limit: frames that saw nothing but places for which the map has no memory left.
        error: once written, how far the map is from the one of reference; None without one.

    Raises:
        EdgevaeError: Open3D is not installed, or for odometry OpenCV 5; or a size makes no sense.
    """

    def __init__(self, settings: MapSettings, *, odometry: bool) -> None:
        voxel_m = settings.voxel_m
        self.settings = settings
        self.map = SceneMap(voxel_m, truncation_m=settings.decoded_truncation_m, max_mb=settings.max_mb)
        self.reference: SceneMap | None = None
        if settings.reference:
            self.reference = SceneMap(
                voxel_m, truncation_m=settings.measured_truncation_m, max_mb=settings.max_mb
            )
        self._odometry = Odometry(settings.max_depth_m) if odometry else None
        self.without_pose = 0
        self.without_depth = 0
        self.beyond_limit = 0
        self.error: MapError | None = None

    @property
    def poses(self) -> str:
        return "given" if self._odometry is None else "odometry"

    @property
    def lost(self) -> int:
        """Frames that odometry lost."""
        return 0 if self._odometry is None else self._odometry.lost

    def add(
        self,
        view: View,
        pose: npt.NDArray[np.float64] | None,
        *,
        track: View | None = None,
        reference: View | None = None,
    ) -> bool:
        """Fuse one frame.

        Args:
            view: what its latent decoded to.
            pose: camera-to-world; not looked at where odometry finds poses.
            track: what odometry follows, wanted there.
            reference: what the camera saw, for the map of reference.

        Returns:
            Whether it was fused; if not, a counter says why.
        """
        if self._odometry is not None:
            pose = None if track is None else self._odometry.follow(track)
            if pose is None:
                return False
        elif pose is None or not np.isfinite(pose).all():
            self.without_pose += 1
            return False
        if self.reference is not None and reference is not None:
            self.reference.fuse(reference, pose)
        if view.readings == 0:
            self.without_depth += 1
            return False
        fused = self.map.fuse(view, pose)
        self.beyond_limit += not fused
        return fused

    def write(self, path: Path, source: str) -> dict[str, Any]:
        """Write the map as PLY, in one step.

        Returns:
            What a report says of it: frames, sizes, and ``error`` where there is a map of reference.

        Raises:
            RecordError: the file cannot be written, or there is no surface to write.
        """
        cloud = self.map.mesh() if self.settings.mesh else self.map.points()
        if len(cloud) == 0:
            raise RecordError(
                f"cannot write {path}: no surface was found in {self.map.frames} fused frames; larger voxels "
                "or a larger depth may help."
            )
        comment = (
            f"edgevae: {self.map.frames} frames of {source}, poses {self.poses}, voxels of "
            f"{self.settings.voxel_m:g} m, in metres"
        )
        write_ply(path, cloud, (comment,))
        self.error = self.compare(cloud)
        return self._report(cloud)

    def compare(self, cloud: Cloud) -> MapError | None:
        """How far ``cloud`` is from the map of reference; None without one, or where either is empty."""
        if self.reference is None:
            return None
        return map_error(cloud, self.reference.points(), max(_WITHIN_M, self.settings.voxel_m))

    def _report(self, cloud: Cloud) -> dict[str, Any]:
        return {
            "poses": self.poses,
            "frames": {
                "fused": self.map.frames,
                "without_pose": self.without_pose,
                "without_depth": self.without_depth,
                "lost": self.lost,
                "beyond_limit": self.beyond_limit,
            },
            "voxel_m": self.settings.voxel_m,
            "truncation_m": self.map.truncation_m,
            "max_depth_m": self.settings.max_depth_m,
            "points": len(cloud),
            "faces": None if cloud.faces is None else len(cloud.faces),
            "megabytes": round(self.map.megabytes, 3),
            "blocks_left_out": self.map.blocks_left_out,
            "error": None if self.error is None else self.error.document(),
        }

    def summary(self, report: dict[str, Any]) -> str:
        """The report in one line, two with an error."""
        what = counted(report["points"], "point")
        if report["faces"] is not None:
            what += f", {counted(report['faces'], 'triangle')}"
        frames = counted(report["frames"]["fused"], "frame")
        text = f"{what} from {frames}, voxels of {self.settings.voxel_m:g} m"
        if self.reference is not None:
            text += f"\nagainst the camera's own frames: {self.error or 'nothing to compare'}"
        return text

    def warnings(self) -> list[str]:
        """What the one who looks at the map should know, a sentence each."""
        found = []
        if self._odometry is not None and self.map.frames:
            found.append(
                "poses come from odometry, whose errors add up: the map bends with the way, most of all "
                "where it follows decoded frames"
            )
        if self.lost:
            found.append(f"odometry lost {counted(self.lost, 'frame')}, left out of the map")
        if self.without_pose:
            found.append(f"{counted(self.without_pose, 'frame')} without a pose left out of the map")
        if self.map.blocks_left_out:
            found.append(
                f"the map reached its limit of {self.settings.max_mb:g} MB and stopped growing; places "
                "beyond are left out (take larger voxels, or a larger limit)"
            )
        return found


def check_decodes_metres(spec: ModelSpec) -> None:
    """Raise LatentError unless the model decodes to depth in metres."""
    if spec.input.depth is None or not spec.input.depth.metric:
        what = "no depth" if spec.input.depth is None else "depth without a scale"
        raise LatentError(f"model {spec.name} decodes to {what}; a map wants a model that decodes to metres.")
