"""edgevae.fuse against the module it is given: eager PyTorch, the RGB-D VAE at width 64, batch 1, one thread.

pytest benches/bench_fuse.py --benchmark-columns=median,iqr,rounds
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

import edgevae

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

# Float32 through six layers, against float64, of numbers around 1; a wrong layer is off by 1e-1.
LIMIT = 1e-4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def halves() -> dict[str, tuple[Any, Any]]:
    """Encoder and decoder, and what they take."""
    from training import models

    torch.manual_seed(0)
    net = models.build("rgbd-vae").eval()
    return {
        "encoder": (net.encoder, torch.rand(1, 4, 128, 128) * 2 - 1),
        "decoder": (net.decoder, torch.randn(1, 400)),
    }


@pytest.mark.parametrize("how", ["unfused", "unfused channels last", "fused"])
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_fuse(timed: Any, halves: dict[str, tuple[Any, Any]], half: str, how: str) -> None:
    module, x = halves[half]
    with torch.inference_mode():
        wanted = copy.deepcopy(module).double()(x.double())
        if how == "fused":
            module = edgevae.fuse(module)
        elif how == "unfused channels last":
            module = copy.deepcopy(module).to(memory_format=torch.channels_last)
        timed(half, module, x, error=lambda y: float((y - wanted).abs().max()), limit=LIMIT)
