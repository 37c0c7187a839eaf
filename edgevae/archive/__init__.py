"""Many sources into one record: ``edgevae embed``, with resume, on this machine's cores or on Ray.

A plan (plan.py) names the sources in their order. An engine (local.py, ray_engine.py) reads and encodes
several at a time (encode.py) and gives finished frames back in the plan's order. ``embed`` (embed.py) writes
them to one archive (hdf5.py, jsonl.py, parquet.py), whose last row says where to go on.
"""

from __future__ import annotations

from .embed import EmbedStats, Engine, Tally, embed
from .local import LocalEngine
from .plan import Plan, read_list

__all__ = ["EmbedStats", "Engine", "LocalEngine", "Plan", "Tally", "embed", "read_list"]
