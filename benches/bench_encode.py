"""Encode: network input (N, C, h, w) to the posterior mean, the engine against PyTorch and TorchScript."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevae.export import LIMITS


def test_encode(timed: Any, calls: Any, truth: Any, engine: str, batch: int, threads: int) -> None:
    x, wanted = truth("encode", batch)

    def relative(mean: np.ndarray) -> float:
        return float(np.max(np.linalg.norm(mean - wanted, axis=1) / np.linalg.norm(wanted, axis=1)))

    group = f"encode, batch {batch}, threads {threads}"
    timed(group, calls["encode"], x, error=relative, limit=LIMITS["fp32"].latent)
