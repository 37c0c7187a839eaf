"""The rendered street: it stands in for a camera, so it should keep a camera's pace on one core."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevae.sources.synthetic import FPS, SyntheticSource


def test_synthetic(benchmark: Any) -> None:
    source = SyntheticSource(1)
    first = source.read()
    assert first.rgb.dtype == np.uint8
    benchmark.group = "one frame of a source"
    frame = benchmark(source.read)
    assert frame.index > first.index
    benchmark.extra_info["a camera's pace, s"] = 1 / FPS
