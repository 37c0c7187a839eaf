"""The public API: load, encode, decode, and what happens to those who misuse it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_document

import edgevae
from edgevae import _core, model_file
from edgevae.errors import EdgevaeError
from edgevae.frame import Frame


@pytest.fixture
def model(tiny_model_path: Path) -> edgevae.Model:
    return edgevae.load(tiny_model_path, threads=2)


@pytest.fixture
def frame(rng: np.random.Generator) -> Frame:
    rgb = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Frame(rgb, rng.integers(0, 9000, (60, 80)).astype(np.uint16), 0.001)


def test_one_frame_there_and_back(model: edgevae.Model, frame: Frame) -> None:
    z = model.encode(frame.rgb, frame.depth)
    assert z.shape == (8,)
    assert z.dtype == np.float32
    out = model.decode(z)
    assert out.rgb.shape == (32, 32, 3)
    assert out.rgb.dtype == np.uint8
    assert out.depth is not None
    assert out.depth.shape == (32, 32)
    assert out.depth.min() >= 0.25 * 0.999
    assert out.depth.max() <= 80 * 1.001


def test_every_path_gives_the_same_numbers(model: edgevae.Model, frame: Frame) -> None:
    z = model.encode(frame.rgb, frame.depth)
    np.testing.assert_array_equal(model.encode_frame(frame).latent, z)
    np.testing.assert_allclose(model.encode(frame.rgb, frame.depth_m()), z, rtol=1e-5, atol=1e-6)
    packed = model.pack(frame.rgb, frame.depth)
    np.testing.assert_allclose(model.encode_tensor(packed[None])[0], z, rtol=1e-5, atol=1e-6)
    mean, std = model.posterior(frame.rgb, frame.depth)
    np.testing.assert_allclose(mean, z, rtol=1e-6, atol=1e-7)
    assert (std > 0).all()
    images = model.decode_tensor(z)
    out = model.decode(z)
    np.testing.assert_array_equal(
        out.rgb, np.rint((images[0, :3].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    )
    assert model.spec.input.depth is not None
    np.testing.assert_allclose(out.depth, model.spec.input.depth.to_metres(images[0, 3]), rtol=1e-5)


def test_posterior_std_is_softplus_of_the_raw_scales(model: edgevae.Model, frame: Frame) -> None:
    raw = model.encode_heads(model.pack(frame.rgb, frame.depth)[None])[0, 8:]
    _, std = model.posterior(frame.rgb, frame.depth)
    np.testing.assert_allclose(std, np.log1p(np.exp(raw.astype(np.float64))) + 1e-5, rtol=1e-5)


def test_batches(model: edgevae.Model, rng: np.random.Generator) -> None:
    rgb = rng.integers(0, 256, (5, 40, 50, 3), dtype=np.uint8)
    depth = rng.uniform(0, 9, (5, 40, 50)).astype(np.float32)
    z = model.encode(rgb, depth)
    assert z.shape == (5, 8)
    for i in range(5):
        np.testing.assert_allclose(z[i], model.encode(rgb[i], depth[i]), rtol=1e-5, atol=1e-6)
    out = model.decode(z)
    assert out.rgb.shape == (5, 32, 32, 3)
    np.testing.assert_array_equal(out.rgb[3], model.decode(z[3]).rgb)
    mean, std = model.posterior(rgb)
    assert mean.shape == std.shape == (5, 8)
    assert model.encode(rgb[:0]).shape == (0, 8)


def test_missing_depth_is_the_same_as_depth_without_readings(model: edgevae.Model, frame: Frame) -> None:
    without = model.encode(frame.rgb)
    assert frame.depth is not None
    np.testing.assert_array_equal(without, model.encode(frame.rgb, np.zeros_like(frame.depth)))
    nan = np.full(frame.depth.shape, np.nan, np.float32)
    np.testing.assert_array_equal(without, model.encode(frame.rgb, nan))
    assert not np.array_equal(without, model.encode(frame.rgb, frame.depth))


def test_depth_scale_matters(model: edgevae.Model, frame: Frame) -> None:
    assert frame.depth is not None
    a = model.encode(frame.rgb, frame.depth, depth_scale=1 / 5000)
    b = model.encode(frame.rgb, frame.depth.astype(np.float32) / 5000)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not np.allclose(a, model.encode(frame.rgb, frame.depth))


@pytest.mark.parametrize("isa", _core.available_isas())
def test_every_instruction_set_agrees(tiny_model_path: Path, frame: Frame, isa: str) -> None:
    wanted = edgevae.load(tiny_model_path, isa="reference")
    model = edgevae.load(tiny_model_path, isa=isa)
    assert model.isa == isa
    z, exact = model.encode(frame.rgb, frame.depth), wanted.encode(frame.rgb, frame.depth)
    assert np.linalg.norm(z - exact) <= 1e-5 * np.linalg.norm(exact)
    np.testing.assert_allclose(model.decode_tensor(exact), wanted.decode_tensor(exact), atol=1e-5)


def test_threads_share_one_model(model: edgevae.Model, rng: np.random.Generator) -> None:
    frames = [rng.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(4)]
    wanted = [model.encode(f) for f in frames]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(200):
            if not np.array_equal(model.encode(frames[i]), wanted[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong


def as_given(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers as one meets them in memory."""
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "reversed": x[..., ::-1].copy()[..., ::-1],
        "every second": np.repeat(x, 2, -1)[..., ::2],
        "Fortran order": np.asfortranarray(x),
        "transposed": x.T.copy().T,
        "read only": read_only,
        "other byte order": x.astype(x.dtype.newbyteorder()),
        "float64": x.astype(np.float64),
        "list": x.tolist(),
    }


def test_tensors_in_any_layout(model: edgevae.Model, rng: np.random.Generator) -> None:
    x, z = rng.standard_normal((2, 4, 32, 32), np.float32), rng.standard_normal((2, 8), np.float32)
    for call, plain in ((model.encode_tensor, x), (model.decode_tensor, z)):
        wanted = call(plain)
        for name, array in as_given(plain).items():
            np.testing.assert_array_equal(call(array), wanted, err_msg=name)
        one = np.broadcast_to(plain[:1], (3, *plain.shape[1:]))  # three times the same memory
        np.testing.assert_array_equal(call(one), call(one.copy()))
        assert call(plain[:0]).shape[0] == 0


@pytest.mark.parametrize(
    "x",
    [
        None,
        "image",
        object(),
        np.full((1, 4, 32, 32), "1"),
        np.zeros((1, 4, 32, 32), complex),
        np.zeros((1, 4, 32, 32), "M8[s]"),
        np.zeros((1, 4, 32, 32), object),
        np.zeros((1, 4, 32, 32), [("a", "f4")]),
        np.zeros((4, 32, 32), np.float32),
        np.zeros((1, 4, 32, 0), np.float32),
        np.zeros((1, 1, 4, 32, 32), np.float32),
    ],
)
def test_what_is_no_tensor_is_refused(model: edgevae.Model, x: object) -> None:
    with pytest.raises(edgevae.FrameError, match=r"wanted float32 \(N, 4, 32, 32\)"):
        model.encode_tensor(x)  # type: ignore[arg-type]


def test_a_ragged_list_is_refused(model: edgevae.Model) -> None:
    with pytest.raises(edgevae.FrameError, match="inhomogeneous"):
        model.encode_tensor([[1], [1, 2]])  # type: ignore[arg-type]


def test_wrong_latents_are_refused(model: edgevae.Model) -> None:
    for wrong in (
        np.zeros(9, np.float32),
        np.zeros((2, 2, 8), np.float32),
        np.zeros(8, complex),
        "latent",
        None,
    ):
        with pytest.raises(edgevae.LatentError, match=r"wanted float32 \(8,\) or \(N, 8\)"):
            model.decode(wrong)  # type: ignore[arg-type]
    with pytest.raises(edgevae.LatentError, match="NaN or infinity"):
        model.decode(np.full(8, np.nan, np.float32))
    for call in (model.decode, model.decode_tensor):
        with pytest.raises(edgevae.LatentError, match="too large; split it"):
            call(np.broadcast_to(np.zeros(8, np.float32), (2**21, 8)))
    assert model.decode(np.zeros((0, 8), np.float32)).rgb.shape == (0, 32, 32, 3)


def test_wrong_frames_are_refused(model: edgevae.Model, frame: Frame) -> None:
    with pytest.raises(edgevae.FrameError, match="wanted the same size"):
        model.encode(frame.rgb, np.zeros((3, 3), np.uint16))
    with pytest.raises(edgevae.FrameError, match="colour is float64"):
        model.encode(frame.rgb / 255.0)  # type: ignore[arg-type]
    with pytest.raises(edgevae.FrameError, match="wanted as many"):
        model.encode(np.stack([frame.rgb] * 2), np.stack([frame.depth] * 3))
    with pytest.raises(edgevae.FrameError, match=r"wanted float32 \(N, 4, 32, 32\)"):
        model.encode_tensor(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(edgevae.FrameError, match="pose"):
        Frame(frame.rgb, pose=np.eye(3))


@pytest.fixture
def conditional(tmp_path: Path) -> edgevae.Model:
    path = tmp_path / "conditional.safetensors"
    model_file.write(path, *tiny_document(condition=3))
    return edgevae.load(path, threads=1)


def test_a_condition_goes_to_encoder_and_decoder(conditional: edgevae.Model, frame: Frame) -> None:
    cat, dog = np.eye(3, dtype=np.float32)[:2]
    rgb, depth = frame.rgb, frame.depth
    z = conditional.encode(rgb, depth, condition=cat)
    assert z.shape == (8,)
    x = conditional.pack(rgb, depth)[None]
    np.testing.assert_allclose(conditional.encode_tensor(x, cat[None])[0], z, rtol=1e-5, atol=1e-6)
    assert np.abs(conditional.encode(rgb, depth, condition=dog) - z).max() > 1e-3
    mean, std = conditional.posterior(rgb, depth, condition=cat)
    np.testing.assert_allclose(mean, z, rtol=1e-6, atol=1e-7)
    assert (std > 0).all()
    # A label may come as a list, as whole numbers or as truth values
    np.testing.assert_array_equal(conditional.encode(rgb, depth, condition=[True, False, False]), z)

    out = conditional.decode(z, condition=cat)
    assert out.rgb.shape == (32, 32, 3)
    image = conditional.decode_tensor(z, cat)[0, :3].transpose(1, 2, 0)
    np.testing.assert_array_equal(out.rgb, np.rint((image + 1) * 127.5).astype(np.uint8))
    assert (conditional.decode(z, condition=dog).rgb != out.rgb).any()


def test_conditions_of_a_batch(conditional: edgevae.Model, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    each = np.eye(3, dtype=np.float32)
    z = conditional.encode(frames, condition=each)
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(conditional.encode(frame, condition=each[i]), z[i], rtol=1e-5, atol=1e-6)
    same = conditional.encode(frames, condition=each[1])
    np.testing.assert_allclose(same[1], z[1], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(same, conditional.encode(frames, condition=each[[1, 1, 1]]))
    pictures = conditional.decode(z, condition=each).rgb
    for i in range(3):
        np.testing.assert_array_equal(conditional.decode(z[i], condition=each[i]).rgb, pictures[i])
    assert conditional.encode(frames[:0], condition=each[:0]).shape == (0, 8)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (None, "wants a condition of 3 numbers"),
        (np.zeros(2), r"float64 \(2,\), wanted float32 \(3,\) or \(2, 3\)"),
        (np.zeros((3, 3)), r"\(3, 3\), wanted"),
        (np.zeros((1, 3)), r"\(1, 3\), wanted"),
        (1, r"\(\), wanted"),
        ("cat", "wanted float32"),
        ([[1, 0, 0], [1, 0]], "rows of different lengths"),
        ([np.nan, 0, 0], "NaN"),
    ],
)
def test_wrong_conditions_are_refused(conditional: edgevae.Model, condition: object, words: str) -> None:
    frames, z = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8), np.float32)
    x = np.zeros((2, 4, 32, 32), np.float32)
    for call in (conditional.encode, conditional.posterior):
        with pytest.raises(EdgevaeError, match=words):
            call(frames, condition=condition)  # type: ignore[operator]
    for call, array in (
        (conditional.decode, z),
        (conditional.encode_tensor, x),
        (conditional.decode_tensor, z),
    ):
        with pytest.raises(EdgevaeError, match=words):
            call(array, condition=condition)  # type: ignore[operator]


def test_a_frame_carries_no_condition(conditional: edgevae.Model, model: edgevae.Model, frame: Frame) -> None:
    with pytest.raises(EdgevaeError, match="wants a condition of 3 numbers"):
        conditional.encode_frame(frame)
    with pytest.raises(EdgevaeError, match="takes no condition"):
        model.encode(frame.rgb, frame.depth, condition=np.zeros(3))
    with pytest.raises(EdgevaeError, match="takes no condition"):
        model.decode(np.zeros(8, np.float32), condition=np.zeros(3))


def test_wrong_arguments_of_load(tiny_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(edgevae.ModelFileError, match=r"nowhere\.safetensors"):
        edgevae.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(edgevae.EdgevaeError, match="device"):
        edgevae.load(tiny_model_path, device="tpu")
    with pytest.raises(edgevae.EdgevaeError, match="precision"):
        edgevae.load(tiny_model_path, precision="fp8")
    for threads in (0, -3, 257, 10**9, 2.0, "2", "two", True):
        with pytest.raises(edgevae.EdgevaeError, match="threads"):
            edgevae.load(tiny_model_path, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(edgevae.EdgevaeError, match="isa=mmx cannot be had"):
        edgevae.load(tiny_model_path, isa="mmx")


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )


def test_the_environment_chooses_the_instruction_set(tiny_model_path: Path) -> None:
    code = f"import edgevae; print(edgevae.load({str(tiny_model_path)!r}).isa)"
    for isa in _core.available_isas():
        assert run_python(code, EDGEVAE_ISA=isa).stdout.strip() == isa
    failed = run_python(code, EDGEVAE_ISA="sse9")
    assert failed.returncode != 0
    assert "EDGEVAE_ISA=sse9 cannot be had on this machine; it runs" in failed.stderr


def test_importing_brings_neither_torch_nor_opencv(tiny_model_path: Path) -> None:
    code = (
        "import sys, edgevae, numpy as np\n"
        f"m = edgevae.load({str(tiny_model_path)!r})\n"
        "m.decode(m.encode(np.zeros((9, 9, 3), np.uint8)))\n"
        "print([n for n in ('torch', 'cv2', 'h5py', 'typer', 'rich') if n in sys.modules])"
    )
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_forked_child_can_use_the_model(tiny_model_path: Path) -> None:
    code = (
        "import os, edgevae, numpy as np, warnings\n"
        "warnings.simplefilter('ignore')\n"
        f"m = edgevae.load({str(tiny_model_path)!r}, threads=2)\n"
        "x = np.zeros((9, 9, 3), np.uint8); z = m.encode(x)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if np.array_equal(m.encode(x), z) else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert run_python(code).stdout.strip() == "0"
