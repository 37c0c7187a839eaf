"""Networks of every kind on a CUDA device: random ones, those that training makes, int8 files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import random_chain
from cuda_models import CLOSE, both, cosine, error_of, on_device

import edgevae
from edgevae import _core

# Of training.models.REGISTRY; named here for machines without torch.
NAMES = [
    "rgbd-vae",
    "fc-vae",
    "conditional-vae",
    "vgg-vae",
    "transition-vae",
    "conv-autoencoder",
    "conv-vae",
    "frey-vae",
    "beta-vae",
]


@on_device
@pytest.mark.parametrize("seed", range(24))
def test_random_chains(seed: int) -> None:
    chain = random_chain.chain(seed)
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((chain.batch, *chain.shape)).astype(np.float32)]
    if chain.condition:
        arrays.append(rng.standard_normal((chain.batch, chain.condition)).astype(np.float32))
    wanted = chain.run("reference", *arrays)
    bound = chain.run("reference", *arrays, absolute=True)  # of what was added up on the way
    session = _core.CudaSession(0)
    for precision, epsilon in (("fp32", 2.0**-20), ("fp16", 2.0**-8)):
        network = _core.CudaNetwork(
            chain.layers, chain.tensors, chain.shape, chain.condition, session, precision
        )
        for _ in range(2):
            got = network.run(*arrays)
            assert got.shape == wanted.shape
            assert (np.abs(got - wanted) <= epsilon * (bound + 1)).all(), f"seed {seed} {precision}"
    steps = network.profile(*arrays)
    assert all(step["seconds"] >= 0 for step in steps)


@on_device
@pytest.mark.parametrize("name", NAMES)
def test_models_that_training_makes(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from small_models import SMALL, batch

    import training
    from edgevae import export

    assert set(NAMES) == set(training.models.REGISTRY)
    torch.manual_seed(0)
    net = training.models.build(name, **SMALL[name]).eval()
    path = tmp_path / "m.safetensors"
    export.to_native(net, path, frames=batch(net, 3)[0].numpy())
    x, condition = batch(net, 2)
    conditions = () if condition is None else (condition.numpy(),)
    for precision, close in CLOSE.items():
        cpu, cuda = both(path, precision)
        z = cpu.encode_tensor(x.numpy(), *conditions)
        assert error_of(cuda.encode_tensor(x.numpy(), *conditions), z) < close
        assert error_of(cuda.decode_tensor(z, *conditions), cpu.decode_tensor(z, *conditions)) < close


@on_device
def test_int8_files_run_in_the_models_arithmetic(tiny_model_path: Path, tmp_path: Path) -> None:
    from edgevae.quantize import quantize_file
    from edgevae.sources import open_source

    path = tmp_path / "int8.safetensors"
    with open_source("synthetic:3?size=64x48&frames=24") as source:
        quantize_file(tiny_model_path, path, list(source))
    with open_source("synthetic:3?size=64x48&frames=1") as source:
        frame = next(iter(source))
    exact = edgevae.load(tiny_model_path, device="cpu", threads=1)
    for precision in ("fp16", "fp32"):
        cuda = edgevae.load(path, device="cuda", precision=precision)
        assert cosine(cuda.encode_frame(frame).latent, exact.encode_frame(frame).latent) > 0.999
        z = exact.encode_frame(frame).latent
        assert cosine(cuda.decode_tensor(z), exact.decode_tensor(z)) > 0.999
