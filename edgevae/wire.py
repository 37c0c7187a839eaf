"""One latent as a message between machines; docs/zenoh.md specifies it. Needs no network library."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RecordError
from .frame import Intrinsics
from .sinks.base import Row, RunInfo

VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """A latent and what is known of its frame.

    Attributes:
        latent: float32 (D,).
        frame: the frame's number in its source; gaps are frames dropped, skipped or lost on the way.
        timestamp_ns: time of exposure on ``clock``, see Frame.
        depth_valid: fraction of the depth pixels with a reading; NaN without a depth image.
        depth_scale: metres per unit of the source's own depth; decoded depth is in metres anyway.
        pose: float64 (4, 4) camera-to-world; None where unknown.
    """

    latent: npt.NDArray[np.float32]
    frame: int
    timestamp_ns: int
    clock: str
    source: str
    model: str
    model_sha256: str
    depth_valid: float
    depth_scale: float
    intrinsics: Intrinsics | None
    pose: npt.NDArray[np.float64] | None


def pack(row: Row, run: RunInfo) -> tuple[bytes, bytes]:
    """Payload and attachment of ``row``."""
    about = {
        "version": VERSION,
        "dimension": len(row.latent),
        "frame": row.index,
        "timestamp_ns": row.timestamp_ns,
        "clock": row.clock,
        "source": run.source,
        "model": run.spec.name,
        "model_sha256": run.spec.sha256,
        "depth_valid": None if math.isnan(row.depth_valid) else row.depth_valid,
        "depth_scale": row.depth_scale,
        "intrinsics": None if row.intrinsics is None else asdict(row.intrinsics),
        "pose": None if row.pose is None else row.pose.tolist(),
    }
    return row.latent.astype("<f4").tobytes(), json.dumps(about, separators=(",", ":")).encode()


def unpack(payload: bytes, attachment: bytes | None) -> Message:
    """The message that ``pack`` made.

    Raises:
        RecordError: it is of another version, cut short, or no such message at all.
    """
    try:
        about = json.loads(attachment or b"")
        if not isinstance(about, dict):
            raise TypeError(f"it is a {type(about).__name__}, wanted an object")
        if about["version"] != VERSION:
            raise ValueError(f"its version is {about['version']!r}, this edgevae reads {VERSION}")
        if len(payload) != 4 * int(about["dimension"]) or not payload:
            raise ValueError(f"the payload has {len(payload)} bytes for {about['dimension']} numbers")
        return Message(
            latent=np.frombuffer(payload, "<f4").astype(np.float32),
            frame=int(about["frame"]),
            timestamp_ns=int(about["timestamp_ns"]),
            clock=str(about["clock"]),
            source=str(about["source"]),
            model=str(about["model"]),
            model_sha256=str(about["model_sha256"]),
            depth_valid=math.nan if about["depth_valid"] is None else float(about["depth_valid"]),
            depth_scale=float(about["depth_scale"]),
            intrinsics=_intrinsics(about["intrinsics"]),
            pose=_pose(about["pose"]),
        )
    except KeyError as error:
        raise RecordError(f"this is no latent of edgevae: it has no {error}; see docs/zenoh.md.") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f"this is no latent of edgevae: {error}; see docs/zenoh.md.") from error


def _intrinsics(fields: Any) -> Intrinsics | None:
    if fields is None:
        return None
    return Intrinsics(
        fx=float(fields["fx"]),
        fy=float(fields["fy"]),
        cx=float(fields["cx"]),
        cy=float(fields["cy"]),
        width=int(fields["width"]),
        height=int(fields["height"]),
        distortion=tuple(float(value) for value in fields["distortion"]),
    )


def _pose(rows: Any) -> npt.NDArray[np.float64] | None:
    if rows is None:
        return None
    pose = np.asarray(rows, np.float64)
    if pose.shape != (4, 4):
        raise ValueError(f"its pose has shape {pose.shape}, wanted (4, 4)")
    return pose
