"""Models on a CUDA device beside the processor's engine: on a GPU where build and machine have one, and on
the emulated build (CONTRIBUTING.md), which alone can be told to fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_chain
from tiny_model import tiny_document

import edgevae
from edgevae import _core, doctor, model_file
from edgevae.engines import NO_CUDA, cuda_devices
from edgevae.errors import DeviceError, EdgevaeError, FrameError, LatentError, ModelFileError

# Of cudaError_t.
OUT_OF_MEMORY, OLD_DRIVER, NO_DEVICE, OUT_OF_RESOURCES, LAUNCH_FAILURE = 2, 35, 100, 701, 719

# Largest difference from the processor's float32, over the largest number. Half-precision numbers have 11
# bits and TF32 as many, a few of which the layers' sums eat; float32 differs by the order of its sums.
CLOSE = {"fp16": 2e-2, "tf32": 1e-2, "fp32": 1e-5}


def _missing() -> str:
    try:
        cuda_devices()
    except DeviceError as error:
        return str(error)
    return ""


MISSING = _missing()
EMULATED = _core.cuda_build == "emulated"
on_device = pytest.mark.skipif(bool(MISSING), reason=MISSING)
emulated = pytest.mark.skipif(not EMULATED, reason="wants the emulated build, see CONTRIBUTING.md")


@pytest.fixture(autouse=True)
def _healed() -> Iterator[None]:
    yield
    if EMULATED:
        _core.heal_cuda_calls()


def both(path: Path | None, precision: str = "fp16") -> tuple[edgevae.Model, edgevae.Model]:
    """The model on the processor and on the device."""
    return (
        edgevae.load(path, device="cpu", threads=1, precision="fp32"),
        edgevae.load(path, device="cuda", precision=precision),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def error_of(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def attempt(call: Callable[[Any], Any], x: Any) -> str:
    """What a device's error says, or nothing."""
    try:
        y = call(x)
        if isinstance(y, _core.CudaArray):
            y.numpy()
    except DeviceError as error:
        return str(error)
    return ""


def images(rng: np.random.Generator, model: edgevae.Model, count: int) -> np.ndarray:
    size = model.spec.input
    return rng.uniform(-1, 1, (count, size.channels, size.height, size.width)).astype(np.float32)


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
def test_the_shipped_model(rng: np.random.Generator) -> None:
    cpu, cuda = both(None)
    assert cuda.device == "cuda:0"
    assert repr(cuda).endswith("fp16>")
    assert (cuda.spec.macs_encode, cuda.spec.macs_decode) == (cpu.spec.macs_encode, cpu.spec.macs_decode)
    rgb = rng.integers(0, 256, (96, 160, 3), dtype=np.uint8)
    depth = rng.uniform(0.5, 60, (96, 160)).astype(np.float32)
    z, wanted = cuda.encode(rgb, depth), cpu.encode(rgb, depth)
    assert cosine(z, wanted) > 0.9999
    out, other = cuda.decode(wanted), cpu.decode(wanted)
    assert np.abs(out.rgb.astype(int) - other.rgb).max() <= 2
    assert out.depth is not None
    assert cosine(out.depth, other.depth) > 0.9999


@on_device
@pytest.mark.parametrize("precision", CLOSE)
def test_every_way_through_a_model(precision: str, tiny_model_path: Path, rng: np.random.Generator) -> None:
    cpu, cuda = both(tiny_model_path, precision)
    close = CLOSE[precision]
    for count in (3, 1, 2):
        x = images(rng, cpu, count)
        z = cpu.encode_tensor(x)
        first = cuda.encode_tensor(x)
        assert error_of(first, z) < close
        np.testing.assert_array_equal(cuda.encode_tensor(x), first)  # by a graph, from now on
        assert error_of(cuda.encode_heads(x), cpu.encode_heads(x)) < close
        y = cuda.decode_tensor(z)
        assert error_of(y, cpu.decode_tensor(z)) < close
        np.testing.assert_array_equal(cuda.decode_tensor(z), y)
        other = images(rng, cpu, count)
        assert error_of(cuda.encode_tensor(other), cpu.encode_tensor(other)) < close
    assert cuda.encode_tensor(images(rng, cpu, 0)).shape == (0, 8)
    rgb = rng.integers(0, 256, (2, 45, 31, 3), dtype=np.uint8)
    depth = rng.integers(0, 9000, (2, 45, 31)).astype(np.uint16)
    mean, std = cuda.posterior(rgb, depth)
    wanted_mean, wanted_std = cpu.posterior(rgb, depth)
    assert error_of(mean, wanted_mean) < close
    assert error_of(std, wanted_std) < close
    out, wanted = cuda.decode(wanted_mean), cpu.decode(wanted_mean)
    assert np.abs(out.rgb.astype(int) - wanted.rgb).max() <= 1 + close * 255
    assert error_of(out.depth, wanted.depth) < 5 * close  # an exponential of the network's number


@on_device
def test_frames_as_cameras_give_them(tiny_model_path: Path, rng: np.random.Generator) -> None:
    cpu, cuda = both(tiny_model_path, "fp32")
    wide = rng.integers(0, 256, (37, 80, 4), dtype=np.uint8)  # four bytes a pixel, some columns left out
    depth = rng.integers(0, 9000, (37, 160)).astype(np.uint16)[:, ::2]
    depth[::3] = 0
    frames = [
        (wide[..., :3], depth, 0.001),
        (wide[::-1, 5:70, :3], depth[::-1, 5:70], 0.01),
        (np.ascontiguousarray(wide[..., :3]), depth.astype(np.float32) * 1e-3, 0.001),
        (wide[..., :3], None, 0.001),
        (wide[:1, :1, :3], None, 0.001),
    ]
    for rgb, metres, scale in frames * 2:
        wanted = cpu.encode(rgb, metres, depth_scale=scale)
        assert error_of(cuda.encode(rgb, metres, depth_scale=scale), wanted) < 1e-4
    encoded = cuda.encode_frame(edgevae.Frame(wide[..., :3], depth, 0.001))
    assert encoded.preprocess_ms > 0
    assert encoded.encode_ms > 0


@on_device
def test_a_condition(tmp_path: Path, rng: np.random.Generator) -> None:
    document, tensors = tiny_document(size=(16, 24), condition=3)
    path = tmp_path / "conditional.safetensors"
    model_file.write(path, document, tensors)
    cpu, cuda = both(path, "fp32")
    x, c = images(rng, cpu, 2), rng.standard_normal((2, 3)).astype(np.float32)
    z = cpu.encode_tensor(x, c)
    assert error_of(cuda.encode_tensor(x, c), z) < 1e-5
    assert error_of(cuda.decode_tensor(z, c), cpu.decode_tensor(z, c)) < 1e-5
    there = cuda.encode_tensor(cuda.to_device(x), cuda.to_device(c))
    assert error_of(there.numpy(), z) < 1e-5
    with pytest.raises(EdgevaeError, match="wants a condition of 3"):
        cuda.encode_tensor(cuda.to_device(x))
    with pytest.raises(EdgevaeError, match="condition is in host memory"):
        cuda.encode_tensor(cuda.to_device(x), c)
    with pytest.raises(EdgevaeError, match="condition is on cuda:0"):
        cuda.encode_tensor(x, cuda.to_device(c))
    with pytest.raises(FrameError, match="condition has 1 rows, the input 2"):
        cuda.encode_tensor(cuda.to_device(x), cuda.to_device(c[:1]))


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
@pytest.mark.parametrize("name", ["rgbd-vae", "fc-vae", "conditional-vae", "vgg-vae", "transition-vae"])
def test_models_that_training_makes(name: str, tmp_path: Path) -> None:
    _trained_agrees(name, tmp_path)


@on_device
@pytest.mark.parametrize("name", ["conv-autoencoder", "conv-vae", "frey-vae", "beta-vae"])
def test_more_models_that_training_makes(name: str, tmp_path: Path) -> None:
    _trained_agrees(name, tmp_path)


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


class Interface:
    """A tensor that has __cuda_array_interface__ and nothing else."""

    def __init__(self, array: Any, **changed: Any) -> None:
        self.owner = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changed}


@on_device
def test_tensors_stay_on_the_device(tiny_model_path: Path, rng: np.random.Generator) -> None:
    cpu, cuda = both(tiny_model_path, "fp32")
    x = images(rng, cpu, 2)
    wanted = cpu.encode_tensor(x)
    there = cuda.to_device(x)
    assert (there.shape, there.dtype, there.device) == (x.shape, np.float32, "cuda:0")
    np.testing.assert_array_equal(there.numpy(), x)
    for stream in (None, 1, 2):
        z = cuda.encode_tensor(there, stream=stream)
        y = cuda.decode_tensor(z)  # in whatever stream z names: nobody has waited yet
        assert error_of(z.numpy(), wanted) < 1e-5
        assert error_of(y.numpy(), cpu.decode_tensor(wanted)) < 1e-5
        assert error_of(cuda.encode_tensor(x), wanted) < 1e-5  # the host's way, between them
    z = cuda.encode_tensor(Interface(there), stream=2)
    assert z.__cuda_array_interface__["stream"] == 2
    assert error_of(z.numpy(), wanted) < 1e-5
    assert z.__dlpack_device__() == (2, 0)
    for _ in range(3):  # capsules that nobody takes, and one that is taken twice
        z.__dlpack__(stream=1)
    capsule = z.__dlpack__(stream=1)
    view = _core.CudaView.from_dlpack(capsule)
    assert (view.shape, view.device) == ([2, 8], 0)
    with pytest.raises(ValueError, match="taken already"):
        _core.CudaView.from_dlpack(capsule)
    with pytest.raises(BufferError):
        z.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        z.__dlpack__(dl_device=(1, 0))


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
        if not any(sentences) and nth % 2:
            break
    assert nth > 1


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


@on_device
def test_commands_take_a_device(tiny_model_path: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgevae", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    model = ["--model", str(tiny_model_path)]
    record = tmp_path / "z.jsonl"
    where = ["--device", "cuda", "--record", str(record)]
    done = run("stream", "--camera", "synthetic?size=64x48", "--frames", "3", "--quiet", *model, *where)
    assert done.returncode == 0, done.stderr
    assert len(record.read_text().splitlines()) >= 3
    done = run("bench", "--layers", *model, "--device", "cuda", "--precision", "tf32", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "sm_" in done.stdout
    done = run("stream", "--camera", "synthetic", *model, "--device", "gpu")
    assert done.returncode == 2
    assert "wanted 'auto', 'cpu', 'cuda' or 'cuda:1'" in done.stderr


def _trained_agrees(name: str, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from small_models import SMALL, batch

    import training
    from edgevae import export

    torch.manual_seed(0)
    net = training.models.build(name, **SMALL[name]).eval()
    path = folder / "m.safetensors"
    export.to_native(net, path, frames=batch(net, 3)[0].numpy())
    x, condition = batch(net, 2)
    conditions = () if condition is None else (condition.numpy(),)
    for precision, close in CLOSE.items():
        cpu, cuda = both(path, precision)
        z = cpu.encode_tensor(x.numpy(), *conditions)
        assert error_of(cuda.encode_tensor(x.numpy(), *conditions), z) < close
        assert error_of(cuda.decode_tensor(z, *conditions), cpu.decode_tensor(z, *conditions)) < close
