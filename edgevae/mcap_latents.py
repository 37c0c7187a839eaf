"""Latents out of an MCAP record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import mcap_layout as layout
from .errors import RecordError
from .mcap_file import MAGIC, McapScan, need_mcap

if TYPE_CHECKING:
    from .latents import Latents

_JSON = ("format_version", "live", "latent_dim", "depth_scale", "created")  # typed, as HDF5 has them


def read_mcap(path: Path) -> Latents:
    """The latents of a record, up to where it is whole.

    Raises:
        RecordError: the file is damaged before its end, or no record of edgevae.
        EdgevaeError: the MCAP libraries are not installed.
    """
    from .latents import Latents, check_intrinsics

    try:
        from google.protobuf.message import DecodeError
        from mcap.records import Message, Metadata

        message_class = layout.latent_class()
    except ImportError as error:
        raise need_mcap(error) from error
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise RecordError(f"{path} is not an MCAP file; wanted one written by edgevae.")
    attrs: dict[str, Any] = {}
    latents, stamps, frames, poses = [], [], [], []
    unknown = np.full((4, 4), np.nan)
    scan = McapScan(path)
    for record in scan:
        if isinstance(record, Metadata) and record.name == layout.METADATA:
            attrs = _attributes(path, record.metadata)
        elif isinstance(record, Message) and scan.schema(record) == layout.LATENT_SCHEMA:
            try:
                row = message_class.FromString(record.data)
            except DecodeError as error:
                raise RecordError(f"{path} holds a latent that cannot be read: {error}.") from error
            latents.append(np.array(row.latent, np.float32))
            stamps.append(row.timestamp_ns)
            frames.append(row.frame)
            poses.append(np.reshape(row.pose, (4, 4)) if len(row.pose) == 16 else unknown)
    if scan.damaged:
        raise RecordError(
            f"{path} is damaged in {scan.damaged} of {scan.chunks + scan.damaged} chunks; "
            f"'edgevae repair {path}' saves the others."
        )
    if not latents:
        topics = ", ".join(sorted({channel.topic for channel in scan.channels.values()})) or "none"
        raise RecordError(f"{path} holds no latents (topics: {topics}); wanted a record written by edgevae.")
    lengths = {len(latent) for latent in latents}
    if len(lengths) > 1:
        raise RecordError(f"{path} mixes latents of lengths {sorted(lengths)}, wanted one model's latents.")
    try:
        intrinsics = check_intrinsics(json.loads(attrs.get("intrinsics", "null")))
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path} has metadata that cannot be read: {error}.") from error
    pose = np.array(poses, np.float64)
    return Latents(
        latent=np.stack(latents),
        timestamp_ns=np.array(stamps, np.int64),
        frame=np.array(frames, np.int64),
        pose=pose if np.isfinite(pose).any() else None,
        attrs=attrs,
        intrinsics=intrinsics,
    )


def _attributes(path: Path, facts: dict[str, str]) -> dict[str, Any]:
    try:
        attrs = {key: json.loads(value) if key in _JSON else value for key, value in facts.items()}
    except ValueError as error:
        raise RecordError(f"{path} has metadata that cannot be read: {error}.") from error
    if attrs.get("format_version") != layout.FORMAT_VERSION:
        raise RecordError(
            f"{path} has the format version {attrs.get('format_version')}, this edgevae reads "
            f"{layout.FORMAT_VERSION}; install a newer one."
        )
    return attrs
