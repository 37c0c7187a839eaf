"""The thread pool under a camera program's habits: several models, several threads, pools that come and go.

.ci/sanitizers runs this file under ThreadSanitizer as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgevae
from edgevae import _core

CONV = {"op": "conv2d", "weight": "w", "bias": None, "stride": 1, "padding": 1, "padding_mode": "zeros"}


def together(*jobs: Callable[[], None]) -> None:
    """Runs the jobs at once, one thread each, and raises the first exception of any."""
    start, failed = threading.Barrier(len(jobs)), []

    def run(job: Callable[[], None]) -> None:
        try:
            start.wait(60)
            job()
        except BaseException as error:  # handed to the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if failed:
        raise failed[0]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_models_of_their_own_side_by_side(
    tiny_model_path: Path, threads: int, rng: np.random.Generator
) -> None:
    """One model a thread, each with its pool: no answer is another's."""
    frames = rng.integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    wanted = [edgevae.load(tiny_model_path, threads=1).encode(frame) for frame in frames]

    def job(i: int) -> Callable[[], None]:
        def run() -> None:
            model = edgevae.load(tiny_model_path, threads=threads)
            for _ in range(40):
                np.testing.assert_allclose(model.encode(frames[i]), wanted[i], rtol=1e-5, atol=1e-6)

        return run

    together(*(job(i) for i in range(3)))


def test_encoder_and_decoder_of_one_model_at_once(tiny_model_path: Path, rng: np.random.Generator) -> None:
    """They share a pool, which takes one job at a time."""
    model = edgevae.load(tiny_model_path, threads=2)
    frame = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    z = model.encode(frame)
    picture = model.decode(z).rgb

    def encode() -> None:
        for _ in range(100):
            np.testing.assert_array_equal(model.encode(frame), z)

    def decode() -> None:
        for _ in range(100):
            np.testing.assert_array_equal(model.decode(z).rgb, picture)

    def pack() -> None:  # takes no pool of the model
        wanted = model.pack(frame)
        for _ in range(100):
            np.testing.assert_array_equal(model.pack(frame), wanted)

    together(encode, decode, pack)


def test_pools_come_and_go(rng: np.random.Generator) -> None:
    """Pools made, used and dropped in several threads at once, between workers that spin and that sleep."""
    x = rng.standard_normal((1, 3, 9, 9)).astype(np.float32)
    weight = rng.standard_normal((20, 3, 3, 3)).astype(np.float32)
    wanted = _core.Network([CONV], {"w": weight}, x.shape[1:], 0, _core.Pool(1)).run(x)

    def run() -> None:
        for round_ in range(30):
            pool = _core.Pool(1 + round_ % 4)
            if round_ % 3 == 0:
                continue  # a pool that never had a job
            network = _core.Network([CONV], {"w": weight}, x.shape[1:], 0, pool)
            del pool  # the network keeps it
            for _ in range(1 + round_ % 2):
                np.testing.assert_allclose(network.run(x), wanted, rtol=1e-5, atol=1e-5)

    together(run, run, run)


def test_jobs_of_every_size(rng: np.random.Generator) -> None:
    """Fewer tasks than threads, as many, and far more, one after the other on one pool."""
    pool = _core.Pool(3)
    weight = rng.standard_normal((7, 2, 3, 3)).astype(np.float32)
    for size in (1, 2, 3, 5, 17, 64, 3, 1):
        x = rng.standard_normal((2, 2, size, size)).astype(np.float32)
        network = _core.Network([CONV], {"w": weight}, x.shape[1:], 0, pool)
        wanted = _core.Network([CONV], {"w": weight}, x.shape[1:], 0, _core.Pool(1)).run(x)
        for _ in range(20):
            np.testing.assert_allclose(network.run(x), wanted, rtol=1e-5, atol=1e-5)
