"""A map of the scene as a sink: what the latents decode to is fused as it comes, and written at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EdgevaeError, FrameError, RecordError
from ..files import ready_folder
from .base import Row, RunInfo, Sink

if TYPE_CHECKING:
    from ..mapping.builder import MapBuilder, MapSettings
    from ..mapping.map_error import MapError


class MapSink(Sink):
    """Writes one ``.ply`` when the run ends, by whatever ends it; never half of one.

    Poses come from the source. Where it gives none, odometry follows the camera's own frames, or what they
    decode to if the camera has no depth; should poses come later, the map begins anew with them.

    The map stays in memory over ``close`` and ``open``, so a failure costs nothing of it. ``rows`` counts
    what was taken, also frames that could not be fused; ``report`` says which and why.

    Args:
        path: ends in .ply.
        settings: of the map; with ``reference``, the camera's own frames are fused beside, and compared.

    Attributes:
        report: once written, what ``MapBuilder.write`` says.
        error: how far the map is from the one of the camera's own frames, if that was asked for.
        warnings: what there is to know about the map.
    """

    needs_pictures = True
    _run: RunInfo

    def __init__(self, path: Path, settings: MapSettings, *, overwrite: bool = False) -> None:
        self.path = path
        self.settings = settings
        self.overwrite = overwrite
        self.report: dict[str, Any] | None = None
        self.error: MapError | None = None
        self.warnings: list[str] = []
        self._builder: MapBuilder | None = None
        self._tracks_camera = False
        self._is_written = False

    def open(self, run: RunInfo) -> None:
        from ..mapping.builder import check_decodes_metres
        from ..mapping.tsdf import open3d
        from ..reconstruct import check_map_path

        check_map_path(self.path, overwrite=self.overwrite or self.report is not None)
        ready_folder(self.path.parent)
        try:
            check_decodes_metres(run.spec)
            open3d()  # its absence must show before the first frame, and loading it takes a second
        except EdgevaeError as error:
            raise RecordError(f"cannot map {run.source}: {error}") from error
        self._run = run

    def write(self, row: Row) -> None:
        from ..mapping.views import camera_view, decoded_view

        assert row.frame is not None
        assert row.decoded is not None
        depth, max_m = self._run.spec.input.depth, self.settings.max_depth_m
        assert depth is not None
        if row.intrinsics is None:
            raise RecordError(
                f"cannot map {self._run.source}: it does not say which camera it is (no intrinsics); record "
                "it with --record and run 'edgevae reconstruct' with --intrinsics camera.json."
            )
        try:
            builder = self._ready(row)
            track = None
            if builder.poses == "odometry":
                track = (
                    camera_view(row.frame, max_m, with_edges=True)
                    if self._tracks_camera
                    else decoded_view(row.decoded, row.intrinsics, depth, max_m, with_edges=True)
                )
            reference = camera_view(row.frame, max_m) if self.settings.reference else None
            view = decoded_view(row.decoded, row.intrinsics, depth, max_m)
        except FrameError as error:
            raise RecordError(f"cannot map frame {row.index}: {error}") from error
        builder.add(view, row.pose, track=track, reference=reference)
        self.rows += 1
        self._is_written = False

    def close(self) -> None:
        from ..reconstruct import check_map_path

        builder = self._builder
        if builder is None or builder.map.frames == 0 or self._is_written:
            return
        check_map_path(self.path, overwrite=self.overwrite or self.report is not None)
        self.report = builder.write(self.path, self._run.source)
        self.error, self.warnings = builder.error, builder.warnings()
        self._is_written = True

    def wrote(self) -> str:
        if self._builder is None or self.report is None:
            return f"nothing to {self.path}"
        return f"{self.path}: {self._builder.summary(self.report)}"

    def _ready(self, row: Row) -> MapBuilder:
        """The map this row goes into."""
        from ..mapping.builder import MapBuilder

        odometry = self._builder is not None and self._builder.poses == "odometry"
        if self._builder is None or (odometry and row.pose is not None):
            try:
                self._builder = MapBuilder(self.settings, odometry=row.pose is None)
            except RecordError:
                raise
            except EdgevaeError as error:  # no OpenCV 5 for odometry
                raise RecordError(f"cannot map {self._run.source}: {error}") from error
            self._tracks_camera = row.frame is not None and row.frame.depth is not None
        return self._builder
