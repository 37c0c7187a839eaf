"""Encode: network input (N, C, h, w) to the posterior mean, the engine against all that are installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevae.export import LIMITS, relative_error


def test_encode(timed: Any, calls: Any, truth: Any, engine: str, batch: int, threads: int) -> None:
    x, wanted = truth("encode", batch)

    def relative(mean: np.ndarray) -> float:
        return relative_error(mean, wanted)

    group = f"encode, batch {batch}, threads {threads}"
    timed(group, calls["encode"], x, error=relative, limit=LIMITS["fp32"].latent)
