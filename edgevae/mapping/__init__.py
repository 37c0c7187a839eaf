"""A map of a scene from RGB-D frames: fusion, poses, odometry, and how far one map is from another.

``views`` makes a frame ready (no distortion, no depth that cannot be trusted), ``tsdf`` fuses, ``odometry``
finds poses where there are none, ``ply`` writes, ``map_error`` compares; ``builder`` puts them in a row.
docs/reconstruction.md has the conventions and the figures.
"""

from __future__ import annotations

VOXEL_M = 0.04
MAX_DEPTH_M = 5.0
MAX_MB = 500.0
