"""What a run looks like in Rerun: entities, time lines, and the arrangement of the views.

    world                   axes: which way is up
      camera, decoded       pose of the camera
        colour, depth       pictures; with intrinsics they stand in space, depth as a cloud of points
    latent                  its numbers as bars
    timing/...              milliseconds since the frame arrived, and between frames by the sensor's clock
    quality/...             decoded against camera: colour in dB, depth in metres
    source                  the source was lost, or came back

Pictures are reduced to what a screen shows: colour to 640 pixels across as JPEG, depth to every n-th pixel.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import rerun as rr
import rerun.blueprint as rrb

from ..frame import Intrinsics
from ..pictures import DepthScale
from .sheets import depth_error, psnr_db

if TYPE_CHECKING:
    from .base import Row, RunInfo

COLOUR_WIDTH = 640
DEPTH_WIDTH = 320
_JPEG_QUALITY = 80
_STEP_M = 0.002  # of depth that comes in metres: uint16 then reaches 131 m
_EPOCH_NS = 10**18  # sensor times beyond are dates (2001 and later), below they are durations
_FRUSTUM_M = 0.5


class Scene:
    """Logs rows to ``recording``; all calls from one thread."""

    def __init__(self, recording: rr.RecordingStream, run: RunInfo) -> None:
        self._recording = recording
        self._run = run
        self._metric = run.spec.input.depth is not None and run.spec.input.depth.metric
        self._cameras: dict[str, Intrinsics] = {}
        self._has_axes = False
        self._scale: DepthScale | None = None
        self._last_ns: int | None = None
        self._had_depth = False

    def blueprint(self) -> rrb.Blueprint:
        """Camera and decoded side by side; beside them, in space; below, bars and curves."""
        spec = self._run.spec
        pictures: list[Any] = [
            rrb.Spatial2DView(origin="world/camera/colour", name="camera"),
            rrb.Spatial2DView(origin="world/decoded/colour", name=f"decoded from {spec.latent_dim} numbers"),
        ]
        left: Any = rrb.Grid(*pictures, grid_columns=2)
        if spec.input.depth is not None:
            pictures += [
                rrb.Spatial2DView(origin="world/camera/depth", name="camera, depth"),
                rrb.Spatial2DView(origin="world/decoded/depth", name="decoded, depth"),
            ]
            left = rrb.Grid(*pictures, grid_columns=2)
        if self._metric:
            left = rrb.Horizontal(left, self._space(), column_shares=[3, 2])
        curves = rrb.Horizontal(
            rrb.BarChartView(origin="latent", name="latent"),
            rrb.TimeSeriesView(origin="timing", name="milliseconds"),
            rrb.TimeSeriesView(origin="quality", name="decoded against camera"),
            rrb.TextLogView(origin="source", name="source"),
            column_shares=[3, 2, 2, 1],
        )
        return rrb.Blueprint(
            rrb.Vertical(left, curves, row_shares=[3, 1]),
            rrb.BlueprintPanel(state="collapsed"),
            rrb.SelectionPanel(state="collapsed"),
            rrb.TimePanel(state="collapsed", timeline="frame"),
        )

    @staticmethod
    def _space() -> Any:
        return rrb.Tabs(
            rrb.Spatial3DView(origin="world", contents=["world/camera/depth"], name="camera, in space"),
            rrb.Spatial3DView(origin="world", contents=["world/decoded/depth"], name="decoded, in space"),
        )

    def log(self, row: Row) -> None:
        """Show one row, which must carry its pictures."""
        frame, decoded = row.frame, row.decoded
        assert frame is not None
        assert decoded is not None
        age_ms = (time.monotonic_ns() - row.arrival_ns) / 1e6
        self._set_times(row)
        self._pose(row.pose)
        colour = reduced(frame.rgb, COLOUR_WIDTH)
        self._picture("world/camera/colour", _jpeg(colour), row.intrinsics, colour.shape)
        decoded_camera = None
        if row.intrinsics is not None:
            height, width = decoded.rgb.shape[:2]
            decoded_camera = row.intrinsics.scaled(width, height)
        self._picture("world/decoded/colour", rr.Image(decoded.rgb), decoded_camera, decoded.rgb.shape)
        quality = {"colour_db": psnr_db(frame.rgb, decoded.rgb)}
        if decoded.depth is not None:
            measured = frame.depth_m()
            shown = [] if measured is None else [measured[::4, ::4]]
            if self._metric:
                shown.append(decoded.depth)
            self._scale = DepthScale.covering(*shown, start=self._scale)
            self._camera_depth(row, measured)
            if self._metric:
                picture = self._depth_image(decoded.depth, _STEP_M)
                self._picture("world/decoded/depth", picture, decoded_camera, decoded.depth.shape)
                error_m = None if measured is None else depth_error(measured, decoded.depth)
                if error_m is not None:
                    quality["depth_median_error_m"] = error_m
            else:  # it has no place in space
                image = rr.DepthImage(decoded.depth, depth_range=(0.0, 1.0), colormap="turbo")
                self._recording.log("world/decoded/depth", image)
        self._recording.log("latent", rr.BarChart(row.latent))
        self._scalars("timing", age_ms=age_ms, interval_ms=self._interval_ms(row.timestamp_ns))
        self._scalars("quality", **quality)

    def source_changed(self, lost: str) -> None:
        """Write down that the source was lost, and why, or that it is back."""
        text, level = (lost, "WARN") if lost else ("the source is back", "INFO")
        self._recording.log("source", rr.TextLog(text, level=level))

    def _set_times(self, row: Row) -> None:
        self._recording.set_time("frame", sequence=row.index)
        if row.timestamp_ns >= _EPOCH_NS:
            self._recording.set_time("sensor_time", timestamp=np.datetime64(row.timestamp_ns, "ns"))
        else:
            self._recording.set_time("sensor_time", duration=np.timedelta64(row.timestamp_ns, "ns"))

    def _pose(self, pose: npt.NDArray[np.float64] | None) -> None:
        if not self._has_axes:
            self._recording.log("world", _axes(pose), static=True)
            self._has_axes = True
        if pose is not None:
            transform = rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3])
            self._recording.log("world/camera", transform)
            self._recording.log("world/decoded", transform)

    def _camera_depth(self, row: Row, measured: npt.NDArray[np.float32] | None) -> None:
        frame = row.frame
        assert frame is not None
        if measured is None or frame.depth is None:
            if self._had_depth:
                self._recording.log("world/camera/depth", rr.Clear(recursive=False))
            self._had_depth = False
            return
        step = math.ceil(frame.width / DEPTH_WIDTH)
        first = step // 2
        few = frame.depth[first::step, first::step]
        if few.dtype == np.uint16 and frame.depth_scale > 0:
            picture = self._depth_image(few, frame.depth_scale)
        else:
            picture = self._depth_image(measured[first::step, first::step], _STEP_M)
        camera = None if row.intrinsics is None else _strided(row.intrinsics, step, few.shape)
        self._picture("world/camera/depth", picture, camera, few.shape)
        self._had_depth = True

    def _depth_image(self, depth: npt.NDArray[Any], unit_m: float) -> rr.DepthImage:
        """Depth, in units (uint16) or metres (float32), as an image of units."""
        assert self._scale is not None
        if depth.dtype != np.uint16:
            with np.errstate(invalid="ignore"):
                units = np.rint(depth * np.float32(1 / unit_m))
                known = np.isfinite(depth) & (depth > 0) & (units <= np.iinfo(np.uint16).max)
                depth = np.where(known, units, 0).astype(np.uint16)
        return rr.DepthImage(
            np.ascontiguousarray(depth),
            meter=1 / unit_m,
            depth_range=(self._scale.near / unit_m, self._scale.far / unit_m),
            colormap="turbo",
        )

    def _picture(self, entity: str, picture: Any, camera: Intrinsics | None, shape: tuple[int, ...]) -> None:
        """A picture with its camera. Cameras are static: a server that forgets old frames keeps those."""
        if camera is not None:
            if (camera.height, camera.width) != shape[:2]:
                camera = camera.scaled(shape[1], shape[0])
            if self._cameras.get(entity) != camera:
                self._cameras[entity] = camera
                pinhole = rr.Pinhole(
                    focal_length=(camera.fx, camera.fy),
                    principal_point=(camera.cx, camera.cy),
                    width=camera.width,
                    height=camera.height,
                    image_plane_distance=_FRUSTUM_M,
                )
                self._recording.log(entity, pinhole, static=True)
        self._recording.log(entity, picture)

    def _scalars(self, entity: str, **values: float | None) -> None:
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._recording.log(f"{entity}/{name}", rr.Scalars(value))

    def _interval_ms(self, timestamp_ns: int) -> float | None:
        last_ns, self._last_ns = self._last_ns, timestamp_ns
        return None if last_ns is None else (timestamp_ns - last_ns) / 1e6


def reduced(rgb: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """``rgb`` averaged down to ``width`` pixels across; itself if it is no wider."""
    if rgb.shape[1] <= width:
        return rgb
    height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(rgb: npt.NDArray[np.uint8]) -> rr.EncodedImage:
    done, content = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    assert done
    return rr.EncodedImage(contents=content.tobytes(), media_type="image/jpeg")


def _strided(camera: Intrinsics, step: int, shape: tuple[int, ...]) -> Intrinsics:
    """The camera of every ``step``-th pixel, from pixel ``step // 2`` on."""
    first = step // 2
    return Intrinsics(
        camera.fx / step,
        camera.fy / step,
        (camera.cx - first) / step,
        (camera.cy - first) / step,
        shape[1],
        shape[0],
        camera.distortion,
    )


def _axes(pose: npt.NDArray[np.float64] | None) -> Any:
    """Which way is up in the world, as the first pose has it: a camera is rarely held on its head or side."""
    up = -pose[:3, 1] if pose is not None else np.array([0.0, -1.0, 0.0])
    if up[2] > 0.7:
        return rr.ViewCoordinates.RIGHT_HAND_Z_UP
    return rr.ViewCoordinates.RIGHT_HAND_Y_UP if up[1] > 0.7 else rr.ViewCoordinates.RDF
