"""A model on a CUDA device beside the same one on the processor.

On a GPU where build and machine have one, and on the emulated build (CONTRIBUTING.md).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_models import CLOSE, Interface, both, cosine, error_of, images, on_device
from tiny_model import tiny_document

import edgevae
from edgevae import _core, model_file
from edgevae.errors import EdgevaeError, FrameError


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
