"""A CUDA device that is not there, is full, fails, or gets what it cannot take.

The emulated build (CONTRIBUTING.md) alone can be told to fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_models import EMULATED, Interface, attempt, both, emulated, error_of, images, on_device
from tiny_model import tiny_document

import edgevae
from edgevae import _core, doctor, model_file
from edgevae.engines import NO_CUDA
from edgevae.errors import DeviceError, EdgevaeError, FrameError, LatentError, ModelFileError

# Of cudaError_t.
OUT_OF_MEMORY, OLD_DRIVER, NO_DEVICE, OUT_OF_RESOURCES, LAUNCH_FAILURE = 2, 35, 100, 701, 719


@pytest.fixture(autouse=True)
def _healed() -> Iterator[None]:
    yield
    if EMULATED:
        _core.heal_cuda_calls()


@pytest.mark.skipif(bool(_core.cuda_build), reason="this build has CUDA")
def test_a_build_without_cuda_says_so() -> None:
    with pytest.raises(DeviceError, match="nvcc") as caught:
        edgevae.load(device="cuda")
    assert str(caught.value) == NO_CUDA
    assert edgevae.load(device="auto", threads=1).device == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", 0, None])
def test_devices_have_names(device: Any) -> None:
    with pytest.raises(EdgevaeError, match="wanted 'auto', 'cpu', 'cuda' or 'cuda:1'"):
        edgevae.load(device=device)


@on_device
def test_tensors_that_do_not_fit(tiny_model_path: Path, rng: np.random.Generator) -> None:
    cpu, cuda = both(tiny_model_path, "fp32")
    x = images(rng, cpu, 2)
    there = cuda.to_device(x)
    with pytest.raises(FrameError, match=r"on cuda:0, this model runs on the processor.*\.cpu\(\)"):
        cpu.encode_tensor(there)
    with pytest.raises(LatentError, match="this model runs on the processor"):
        cpu.decode_tensor(cuda.encode_tensor(there))
    with pytest.raises(EdgevaeError, match="device='cuda'"):
        cpu.to_device(x)
    with pytest.raises(
        FrameError, match=r"input is float32 \(2, 4, 16, 32\), wanted float32 \(N, 4, 32, 32\)"
    ):
        cuda.encode_tensor(cuda.to_device(x[:, :, :16]))
    with pytest.raises(LatentError, match="wanted float32 \\(N, 8\\)"):
        cuda.decode_tensor(there)
    with pytest.raises(FrameError, match="input is float16"):
        cuda.encode_tensor(Interface(there, typestr="<f2"))
    with pytest.raises(FrameError, match=r"dense: \.contiguous\(\)"):
        cuda.encode_tensor(Interface(there, strides=(16384, 4, 512, 16)))
    with pytest.raises(FrameError, match="not on a CUDA device"):
        cuda.encode_tensor(Interface(there, data=(x.ctypes.data, False)))
    with pytest.raises(LatentError, match=r"latent is on cuda:0.*decode_tensor"):
        cuda.decode(cuda.encode_tensor(there))
    with pytest.raises(FrameError, match="stream is 'mine'"):
        cuda.encode_tensor(there, stream="mine")
    with pytest.raises(EdgevaeError, match="uint8"):
        cuda.encode(there)
    assert cuda.encode_tensor(x).shape == (2, 8)


@emulated
def test_a_tensor_on_another_device(tiny_model_path: Path, rng: np.random.Generator) -> None:
    first, second = (
        edgevae.load(tiny_model_path, device="cuda"),
        edgevae.load(tiny_model_path, device="cuda:1"),
    )
    assert second.device == "cuda:1"
    x = second.to_device(images(rng, first, 1))
    with pytest.raises(FrameError, match="input is on cuda:1, this model on cuda:0"):
        first.encode_tensor(x)
    assert second.encode_tensor(x).device == "cuda:1"
    with pytest.raises(DeviceError, match="no cuda:7, the last device is cuda:1"):
        edgevae.load(tiny_model_path, device="cuda:7")


@on_device
def test_what_a_device_cannot_multiply(tmp_path: Path) -> None:
    document, tensors = tiny_document()
    tensors["encoder.0.weight"][0, 0, 0, 0] = 70_000
    path = tmp_path / "large.safetensors"
    model_file.write(path, document, tensors)
    with pytest.raises(ModelFileError, match=r"layer 0 \(conv2d\) has weights beyond the range of fp16"):
        edgevae.load(path, device="cuda")
    assert edgevae.load(path, device="cuda", precision="fp32").device == "cuda:0"
    with pytest.raises(EdgevaeError, match="wanted None, 'fp16', 'tf32' or 'fp32'"):
        edgevae.load(path, device="cuda", precision="int8")
    with pytest.raises(EdgevaeError, match="'fp16' on the processor"):
        edgevae.load(path, device="cpu", precision="tf32")


@emulated
@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc"])
def test_a_device_without_memory_left(call: str, tiny_model_path: Path, rng: np.random.Generator) -> None:
    cpu, cuda = both(tiny_model_path, "fp32")
    x = images(rng, cpu, 3)
    one, three = cuda.encode_tensor(x[:1]), cpu.encode_tensor(x)
    failed = 0
    for nth in range(1, 20):  # the n-th allocation of a larger batch, until none is left to fail
        _core.fail_cuda_call(call, nth, OUT_OF_MEMORY)
        sentence = attempt(cuda.encode_tensor, x)
        if not sentence:
            break
        failed += 1
        assert "no memory left for a batch of 3" in sentence
        assert "take a smaller batch" in sentence
        _core.heal_cuda_calls()
        np.testing.assert_array_equal(cuda.encode_tensor(x[:1]), one)
    assert failed >= 2
    assert error_of(cuda.encode_tensor(x), three) < 1e-5
    _core.heal_cuda_calls()
    _core.fail_cuda_call("cudaMallocFromPoolAsync", 1, OUT_OF_MEMORY)
    with pytest.raises(DeviceError, match="no memory left"):
        cuda.encode_tensor(cuda.to_device(x))
    _core.fail_cuda_call("cudaMalloc", 3, OUT_OF_MEMORY)
    with pytest.raises(DeviceError, match="no memory left for the model's weights"):
        edgevae.load(tiny_model_path, device="cuda")


@emulated
@pytest.mark.parametrize(
    "call", ["LaunchKernel", "GraphLaunch", "GraphInstantiateWithFlags", "MemcpyAsync", "EventRecord"]
)
def test_a_call_that_fails_leaves_the_model_usable(
    call: str, tiny_model_path: Path, rng: np.random.Generator
) -> None:
    cpu = edgevae.load(tiny_model_path, device="cpu", threads=1)
    x = images(rng, cpu, 2)
    wanted = cpu.encode_tensor(x)
    cuda = edgevae.load(tiny_model_path, device="cuda", precision="fp32")
    failed = [True]
    # The n-th time from here on; every other time on a model whose graphs are there already.
    for nth in range(1, 60):
        if nth % 2:
            cuda = edgevae.load(tiny_model_path, device="cuda", precision="fp32")
        there = cuda.to_device(x)
        _core.fail_cuda_call(f"cuda{call}", nth // 2 + 1, OUT_OF_RESOURCES)
        sentences = [attempt(cuda.encode_tensor, x), attempt(cuda.encode_tensor, there)]
        _core.heal_cuda_calls()
        for sentence in filter(None, sentences):
            assert "too many resources requested for launch" in sentence
        assert error_of(cuda.encode_tensor(x), wanted) < 1e-5
        assert error_of(cuda.encode_tensor(there).numpy(), wanted) < 1e-5
        failed = [*failed[-1:], any(sentences)]
        if not any(failed) and nth > 1:
            break
    assert nth > 2


@emulated
def test_a_kernel_that_takes_the_device_with_it(tiny_model_path: Path, rng: np.random.Generator) -> None:
    cpu, cuda = both(tiny_model_path)
    x = images(rng, cpu, 1)
    z = cuda.encode_tensor(x)
    _core.fail_cuda_call("cudaStreamSynchronize", 1, LAUNCH_FAILURE)
    for _ in range(2):
        with pytest.raises(DeviceError, match="start the process again, or go on with device='cpu'"):
            cuda.encode_tensor(x)
    assert error_of(cpu.encode_tensor(x), z) < 1e-2


@emulated
@pytest.mark.parametrize(
    ("code", "sentence"),
    [(OLD_DRIVER, "no NVIDIA driver that this build can work with"), (NO_DEVICE, "no CUDA device was found")],
)
def test_no_driver_and_no_device(code: int, sentence: str, tiny_model_path: Path) -> None:
    _core.fail_cuda_call("cudaGetDeviceCount", 1, code, True)
    with pytest.raises(DeviceError, match=f"{sentence}.*nvidia-smi.*device='cpu'"):
        edgevae.load(tiny_model_path, device="cuda")
    finding = next(f for f in doctor.examine(tiny_model_path) if f.subject == "CUDA engine")
    assert finding.state == "none"
    assert sentence in finding.text
    model = edgevae.load(tiny_model_path)
    assert model.device == "cpu"


@on_device
def test_auto_takes_what_is_faster(
    tiny_model_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgevae import model as module

    monkeypatch.setattr(module, "_FASTER", {})
    model = edgevae.load(tiny_model_path)
    assert model.device in ("cpu", "cuda:0")
    assert model.chosen_because is not None
    assert "comparing took" in model.chosen_because
    if EMULATED:
        assert model.device == "cpu"
    # The comparison is not made twice, and what won is taken.
    (key,) = module._FASTER
    monkeypatch.setitem(module._FASTER, key, ("cuda:0", "made up"))
    model = edgevae.load(tiny_model_path)
    assert (model.device, model.chosen_because) == ("cuda:0", "made up")
    assert edgevae.load(tiny_model_path, threads=1).device == "cpu"
    if EMULATED:  # a device that does not work is none
        monkeypatch.setattr(module, "_FASTER", {})
        _core.fail_cuda_call("cudaLaunchKernel", 1, OUT_OF_RESOURCES, True)
        model = edgevae.load(tiny_model_path)
        assert model.device == "cpu"
        assert "too many resources" in str(model.chosen_because)
