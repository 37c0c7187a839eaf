"""Decode: latents to (N, C, h, w) in [-1, 1], the engine against all that are installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevae.export import LIMITS


def test_decode(timed: Any, calls: Any, truth: Any, engine: str, batch: int, threads: int) -> None:
    z, wanted = truth("decode", batch)

    def absolute(image: np.ndarray) -> float:
        return float(np.abs(image - wanted).max())

    group = f"decode, batch {batch}, threads {threads}"
    timed(group, calls["decode"], z, error=absolute, limit=LIMITS["fp32"].decoded)
