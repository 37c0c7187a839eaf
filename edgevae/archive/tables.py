"""Rows as Arrow tables: the columns of a Parquet archive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from ..latents_parquet import load_pyarrow
from ..sinks.base import Row

if TYPE_CHECKING:
    import pyarrow as pa


def schema(latent_dim: int) -> pa.Schema:
    """``source`` (its URI), ``frame``, ``timestamp_ns``, ``clock``, ``latent`` (float32, fixed size),
    ``depth_valid`` (null without depth), ``pose`` (16 numbers, row by row; null where unknown),
    ``depth_scale`` and ``intrinsics`` (JSON; null where unknown).
    """
    pa = load_pyarrow()
    word = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            pa.field("source", word, nullable=False),
            pa.field("frame", pa.int64(), nullable=False),
            pa.field("timestamp_ns", pa.int64(), nullable=False),
            pa.field("clock", word, nullable=False),
            pa.field(
                "latent", pa.list_(pa.field("item", pa.float32(), nullable=False), latent_dim), nullable=False
            ),
            pa.field("depth_valid", pa.float32()),
            pa.field("pose", pa.list_(pa.field("item", pa.float64(), nullable=False), 16)),
            pa.field("depth_scale", pa.float64(), nullable=False),
            pa.field("intrinsics", word),
        ]
    )


def to_table(names: Sequence[str], rows: Sequence[Row], latent_dim: int) -> pa.Table:
    """``rows`` and the URIs of their sources as a table of ``schema``."""
    pa = load_pyarrow()
    kind = schema(latent_dim)
    poses = [np.zeros((4, 4)) if row.pose is None else row.pose for row in rows]
    intrinsics = [None if row.intrinsics is None else json.dumps(asdict(row.intrinsics)) for row in rows]
    columns = {
        "source": pa.array(names, pa.string()).dictionary_encode(),
        "frame": pa.array([row.index for row in rows], pa.int64()),
        "timestamp_ns": pa.array([row.timestamp_ns for row in rows], pa.int64()),
        "clock": pa.array([row.clock for row in rows], pa.string()).dictionary_encode(),
        "latent": pa.FixedSizeListArray.from_arrays(
            pa.array(np.concatenate([row.latent for row in rows])), type=kind.field("latent").type
        ),
        "depth_valid": pa.array([row.depth_valid for row in rows], pa.float32(), from_pandas=True),
        "pose": pa.FixedSizeListArray.from_arrays(
            pa.array(np.concatenate(poses).ravel()),
            type=kind.field("pose").type,
            mask=pa.array([row.pose is None for row in rows]),
        ),
        "depth_scale": pa.array([row.depth_scale for row in rows], pa.float64()),
        "intrinsics": pa.array(intrinsics, pa.string()).dictionary_encode(),
    }
    return pa.table([columns[name] for name in kind.names], schema=kind)
