"""From a record of latents back to a map of the scene they were taken in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from .errors import FrameError, RecordError, SourceError
from .files import ready_folder, refuse_existing
from .mapping.builder import MapBuilder, MapSettings, check_decodes_metres
from .mapping.views import View, camera_view, decoded_view
from .trajectory import Trajectory

if TYPE_CHECKING:
    from .frame import Frame, Intrinsics
    from .latents import Latents
    from .model import Model
    from .sources.base import Source

Pose = npt.NDArray[np.float64]


def reconstruct(
    latents: Latents,
    model: Model,
    path: Path,
    settings: MapSettings,
    *,
    camera: Intrinsics | None = None,
    trajectory: Path | None = None,
    reference: Source | None = None,
    every: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
) -> tuple[dict[str, Any], MapBuilder]:
    """Decode every ``every``-th latent, fuse what it shows, and write ``path`` (.ply).

    Poses come from ``trajectory`` where it is given, else from the record, else from odometry on the decoded
    frames.

    Args:
        camera: intrinsics; None for the record's own.
        trajectory: a file of poses on the record's clock, see ``Trajectory``.
        reference: the source the latents were made from: its frames are fused into a second map, with the
            same poses, and the two are compared. It is closed at the end.

    Returns:
        The report (see ``MapBuilder.write``) and the builder, which has warnings.

    Raises:
        RecordError: there are several sources or no intrinsics, nothing could be fused, or the file cannot be
            written, or exists and ``overwrite`` is false.
        SourceError: the trajectory cannot be read, or the reference has no frame of the record.
        LatentError: the model does not decode to metres.
        EdgevaeError: Open3D, or for odometry OpenCV 5, is not installed.
    """
    check_map_path(path, overwrite=overwrite)
    ready_folder(path.parent)
    check_decodes_metres(model.spec)
    if len(latents.sources) > 1:
        raise RecordError(
            f"the record holds {len(latents.sources)} sources, {latents.sources[0]} among them; a map is of "
            "one scene seen by one camera: 'edgevae embed' one source into a record of its own."
        )
    camera = camera or latents.intrinsics
    if camera is None:
        raise RecordError(
            "the record does not say which camera it was (no intrinsics); give them with --intrinsics "
            "camera.json."
        )
    pose_at = _poses(latents, trajectory)
    settings = replace(settings, reference=reference is not None)
    builder = MapBuilder(settings, odometry=pose_at is None)
    rows = range(0, len(latents), every)
    silent = quiet or not sys.stdout.isatty()
    depth, max_m = model.spec.input.depth, settings.max_depth_m
    assert depth is not None
    with _Reference(reference, camera) as frames:
        for row in track(rows, description="fusing", console=Console(), transient=True, disable=silent):
            decoded = model.decode(np.ascontiguousarray(latents.latent[row]))
            builder.add(
                decoded_view(decoded, camera, depth, max_m),
                None if pose_at is None else pose_at(row),
                track=decoded_view(decoded, camera, depth, max_m, with_edges=True)
                if pose_at is None
                else None,
                reference=frames.view(int(latents.timestamp_ns[row]), max_m),
            )
        if builder.map.frames == 0:
            raise RecordError(_nothing_fused(builder, latents, trajectory))
        if reference is not None and frames.found == 0:
            raise SourceError(
                f"{reference.name} has no frame with depth at a time of the record; give the source the "
                "record was made from."
            )
    check_map_path(path, overwrite=overwrite)
    return builder.write(path, str(latents.attrs.get("source", "a record"))), builder


def check_map_path(path: Path, *, overwrite: bool) -> None:
    """Raise RecordError when ``path`` is no name for a map, or there and not to be replaced."""
    if path.suffix.lower() != ".ply":
        raise RecordError(f"cannot write a map to {path}: its suffix is '{path.suffix}', wanted .ply.")
    refuse_existing(path, overwrite=overwrite)


def _poses(latents: Latents, trajectory: Path | None) -> Callable[[int], Pose | None] | None:
    """Where the pose of a row comes from; None if from odometry."""
    if trajectory is not None:
        path = Trajectory(trajectory)
        if len(path) == 0:
            raise SourceError(f"{trajectory} holds no pose; wanted lines 'stamp tx ty tz qx qy qz qw'.")
        return lambda row: path.at(int(latents.timestamp_ns[row]))
    poses = latents.pose
    if poses is not None:
        return lambda row: poses[row]
    return None


def _nothing_fused(builder: MapBuilder, latents: Latents, trajectory: Path | None) -> str:
    if len(latents) == 0:
        return "the record holds no latent; there is nothing to fuse."
    if builder.without_pose and trajectory is not None:
        first, last = (float(stamp) / 1e9 for stamp in latents.timestamp_ns[[0, -1]])
        begin, end = Trajectory(trajectory).span_s
        return (
            f"{trajectory} has no pose at any time of the record: its stamps are {begin:.3f} to {end:.3f} s, "
            f"the record's {first:.3f} to {last:.3f} s; both must be on one clock."
        )
    return (
        f"none of the latents could be fused: {builder.without_pose} had no pose, odometry lost "
        f"{builder.lost}, and {builder.without_depth} had no depth to trust within "
        f"{builder.settings.max_depth_m:g} m (--max-depth)."
    )


class _Reference:
    """The camera's own frames, found by their time while both go forward; ``found`` of them had depth."""

    def __init__(self, source: Source | None, camera: Intrinsics) -> None:
        self._source = source
        self._camera = camera
        self._next: Frame | None = None
        self._ended = source is None
        self.found = 0

    def __enter__(self) -> _Reference:
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.close()

    def view(self, stamp_ns: int, max_depth_m: float) -> View | None:
        """What the camera saw at exactly this time; None where the source has no such frame."""
        while not self._ended and (self._next is None or self._next.timestamp_ns < stamp_ns):
            assert self._source is not None
            try:
                self._next = self._source.read()
            except FrameError:
                continue  # one frame less to compare with
            self._ended = self._next is None
        frame = self._next
        if frame is None or frame.timestamp_ns != stamp_ns:
            return None
        if frame.intrinsics is None:
            frame.intrinsics = self._camera
        view = camera_view(frame, max_depth_m)
        self.found += view is not None
        return view
