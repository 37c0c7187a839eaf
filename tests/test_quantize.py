"""Quantizing: the rounding against its definition, the gate, every architecture, every wrong input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from int8_oracle import Int8Model, integer, plain, run
from memory_source import MemorySource, corrupt, make_frame
from tiny_model import tiny_document
from torch.nn import functional

import edgevae
from edgevae import (
    Frame,
    _core,
    info,
    model_file,
    quantize,
    quantize_layers,
    quantize_rounding,
    torch_model,
)
from edgevae.bench.random_model import write_random_model
from edgevae.cli import main
from edgevae.errors import EdgevaeError, FrameError, ModelFileError, QuantizeError
from edgevae.model import Model
from edgevae.preprocess import DepthEncoding, InputSpec
from edgevae.quantize import quantize_file, spread, vary
from edgevae.quantize_layers import phases, quantize_chain, quantize_input
from edgevae.quantize_rounding import level_before, moments, rotate_between, rounded, windows


def scenes(count: int = 16, **options: bool) -> list[Frame]:
    """Frames that differ, with structure: a random small picture, enlarged."""
    frames = []
    for index in range(count):
        frame = make_frame(index, **options)
        rgb = frame.rgb[:4, :4].repeat(8, 0).repeat(8, 1)
        depth = (
            None
            if frame.depth is None
            else np.ascontiguousarray(frame.depth[8:12, :4].repeat(8, 0).repeat(8, 1))
        )
        frames.append(Frame(rgb, depth, index=index))
    return frames


# --- the rounding ------------------------------------------------------------------------------


def test_phases_are_upsampling_and_a_convolution(rng: np.random.Generator) -> None:
    x = rng.integers(-5, 6, (2, 3, 4, 5))
    weight = rng.integers(-9, 10, (6, 3, 3, 3)).astype(np.float32)
    for mode in ("zeros", "replicate"):
        t = functional.interpolate(torch.tensor(x, dtype=torch.float64), scale_factor=2)
        t = functional.pad(t, [1] * 4, "constant" if mode == "zeros" else mode)
        wanted = functional.conv2d(t, torch.tensor(weight, dtype=torch.float64))
        layer = {
            "op": "upsample_conv2d",
            "weight": "w",
            "weight_scale": "s",
            "bias": None,
            "padding_mode": mode,
        }
        layer |= {"input_scale": "i", "input_zero": 100}
        named = {"w": phases(weight), "s": np.ones((4, 6), np.float32), "i": np.ones(3, np.float32)}
        np.testing.assert_array_equal(integer(layer, named, x.astype(np.float32)), wanted.numpy())


def test_inputs_are_rounded_as_the_specification_says() -> None:
    x = np.array([[0.5, 1.5, -0.5, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.0]], np.float32).T
    q = quantize_input(x, np.ones(1, np.float32), 7)
    assert q.dtype == np.uint8
    assert q.ravel().tolist() == [7, 9, 7, 255, 0, 255, 0, 7, 7]
    scales = np.array([0.5, 2.0], np.float32)
    assert quantize_input(np.full((1, 2, 1, 1), 4, np.float32), scales, 0).ravel().tolist() == [8, 2]


LAYERS: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "conv2d": ({"stride": 2, "padding": 1, "padding_mode": "zeros"}, (7, 6, 4, 4), (6, 9, 10)),
    "conv2d, replicate": ({"stride": 1, "padding": 2, "padding_mode": "replicate"}, (5, 3, 5, 3), (3, 6, 7)),
    "upsample_conv2d": ({"padding_mode": "replicate"}, (4, 6, 3, 3), (6, 5, 4)),
    "upsample_conv2d, zeros": ({"padding_mode": "zeros"}, (3, 5, 3, 3), (5, 1, 1)),
    "conv_transpose2d": ({"stride": 3, "padding": 1, "output_padding": 1}, (6, 5, 4, 3), (6, 4, 5)),
    "linear": ({}, (9, 30), (30,)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_stays_near_the_float_one(name: str, bias: bool, rng: np.random.Generator) -> None:
    fields, shape, size = LAYERS[name]
    layer = {"op": name.split(",")[0], "weight": "w", "bias": "b" if bias else None, **fields}
    outputs = shape[1 if layer["op"] == "conv_transpose2d" else 0]
    tensors = {"w": rng.standard_normal(shape).astype(np.float32)}
    if bias:
        tensors["b"] = rng.standard_normal(outputs).astype(np.float32)
    x = rng.uniform(-0.2, 1, (9, *size)).astype(np.float32)
    activation = {"op": "activation", "kind": "leaky_relu", "slope": 0.2}
    done: list[None] = []
    layers, kept, _ = quantize_chain(
        "decoder", [layer, activation], tensors, x, _core.Pool(1), lambda: done.append(None)
    )
    assert len(done) == quantize_layers.steps([layer, activation]) == 1
    assert layers[1] == activation
    assert ("input_scale" in layers[0]) == (layer["op"] != "linear")
    assert kept[layers[0]["weight"]].dtype == np.int8
    assert np.abs(kept[layers[0]["weight"]]).max() == 127

    got, wanted = run(layers[:1], kept, x), plain(layer, tensors, x)
    assert np.linalg.norm(got - wanted) < 0.01 * np.linalg.norm(wanted)
    # The bias took up the mean error of each channel.
    axes = (0, *range(2, wanted.ndim))
    np.testing.assert_allclose(got.mean(axes), wanted.mean(axes), atol=1e-4)
    # What calibration computes with the float engine is what the oracle computes.
    step = quantize_layers._Rounded(layer, tensors["w"], tensors.get("b"))
    if layer["op"] != "linear":
        step.choose_range([layer], x, wanted, _core.Pool(1))
    stored, named = step.stored()
    named = {
        "w": named["weight"],
        "b": named["bias"],
        "ws": named["weight_scale"],
        "is": named.get("input_scale"),
    }
    stored |= {"weight": "w", "bias": "b", "weight_scale": "ws"} | (
        {"input_scale": "is"} if "input_zero" in stored else {}
    )
    np.testing.assert_allclose(
        step.run([layer], x, _core.Pool(1)), run([stored], named, x), rtol=1e-5, atol=1e-4
    )


def test_odd_inputs_still_give_a_valid_layer(rng: np.random.Generator) -> None:
    """Nothing but zeros, one sign, far from zero, tiny: each scale is a positive number."""
    layer = {"op": "conv2d", "weight": "w", "bias": None, "stride": 1, "padding": 0, "padding_mode": "zeros"}
    weight = rng.standard_normal((4, 2, 1, 1)).astype(np.float32)
    weight[1] = 0
    weight[2] = 1e-44
    noise = rng.uniform(0.5, 1, (8, 2, 3, 3)).astype(np.float32)
    for x in (noise * 0, noise, -noise, noise + 1e6, noise * 1e-42, noise * 1e30):
        layers, kept, _ = quantize_chain("decoder", [layer], {"w": weight}, x, _core.Pool(1), lambda: None)
        for key in ("weight_scale", "input_scale"):
            assert (kept[layers[0][key]] >= np.finfo(np.float32).tiny).all()
        got, wanted = run(layers, kept, x), plain(layer, {"w": weight}, x)
        assert np.abs(got - wanted).max() <= 0.02 * np.abs(wanted).max() + 1e-30


def test_errors_of_inputs_that_go_together_cancel(rng: np.random.Generator) -> None:
    """Eight lines in 32 inputs: what the weights of one are off by, those of the others take up."""
    x = rng.standard_normal((500, 8)) @ rng.standard_normal((8, 32))
    x = (x + 0.01 * rng.standard_normal(x.shape)).astype(np.float32)
    weight = rng.uniform(-100, 100, (6, 32)).astype(np.float32)
    scale = np.abs(weight).max(1) / 127

    def error(whole: np.ndarray) -> float:
        return float(np.linalg.norm(x @ (whole * scale[:, None] - weight).T))

    nearest = np.rint(weight / scale[:, None])
    h = moments([x[:100], x[100:]])
    assert h is not None
    np.testing.assert_allclose(h, x.T @ x / len(x), rtol=1e-4, atol=1e-4)
    assert error(rounded(weight, scale, h)) < 0.4 * error(nearest)
    np.testing.assert_array_equal(rounded(weight, scale, np.eye(32)), nearest)
    # Where that asks for weights out of reach, the nearest may be better.
    for part in (0.3, 0.5, 0.7, 0.9):
        nearest = np.rint(weight / (part * scale[:, None])).clip(-127, 127)
        off = [
            np.linalg.norm(x @ (whole * part * scale[:, None] - weight).T, axis=0)
            for whole in (rounded(weight, (part * scale).astype(np.float32), h), nearest)
        ]
        assert (off[0] <= off[1] * 1.001).all()
    assert moments([np.zeros((2, quantize_rounding.MOST_TERMS + 1), np.float32)]) is None
    assert moments([np.full((2, 3), 1e30, np.float32)]) is None


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_windows_are_what_a_convolution_multiplies(mode: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 3, 8, 6)).astype(np.float32)
    got = np.concatenate(list(windows(x, (4, 3), 2, ((1, 0), (0, 2)), mode)))
    padded = functional.pad(torch.tensor(x), (0, 2, 1, 0), "constant" if mode == "zeros" else mode)
    wanted = functional.unfold(padded, (4, 3), stride=2).transpose(1, 2).reshape(-1, 36)
    np.testing.assert_array_equal(got, wanted.numpy())  # few enough that none is left out


def test_windows_are_spread_over_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_rounding, "ROWS", 100)
    x = np.arange(20, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 16, 16), np.float32)
    taken = np.concatenate(list(windows(x, (1, 1), 1, ((0, 0), (0, 0)), "zeros")))
    assert 100 <= len(taken) <= 200
    assert set(taken.ravel()) == set(range(20))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_what_lies_between_linear_layers_is_rotated(bias: bool, rng: np.random.Generator) -> None:
    """The second hands on what the first makes, as in a linear start: a large weight and many small ones."""
    names = [f"{kind}{i}" for i in range(3) for kind in "wb"]
    layers = [{"op": "linear", "weight": w, "bias": b} for w, b in zip(names[::2], names[1::2], strict=True)]
    layers[0]["bias"] = "b0" if bias else None
    layers.insert(2, {"op": "activation", "kind": "relu"})
    tensors = {
        name: rng.standard_normal((64, 64) if name[0] == "w" else 64).astype(np.float32) for name in names
    }
    tensors["w1"] = (np.eye(64) + 0.01 * tensors["w1"]).astype(np.float32)
    turned = rotate_between(layers, tensors)
    x = rng.standard_normal((40, 64)).astype(np.float32)
    wanted = run(layers, tensors, x)
    np.testing.assert_allclose(run(layers, turned, x), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(turned["w1"]).max() < 0.7
    assert {name for name in names if turned[name] is tensors[name]} == {"b1", "w2", "b2"} | (
        set() if bias else {"b0"}
    )
    again = rotate_between([*layers, {"op": "linear", "weight": "w1", "bias": "b1"}], tensors)
    assert all(again[name] is tensors[name] for name in names)

    kept, named, _ = quantize_chain("encoder", layers[:2], tensors, x, _core.Pool(1), lambda: None)
    got, wanted = run(kept, named, x), run(layers[:2], tensors, x)
    assert np.linalg.norm(got - wanted) < 0.006 * np.linalg.norm(wanted)  # 0.015 without


def test_weights_are_level_over_what_they_are_multiplied_with(rng: np.random.Generator) -> None:
    """Loud and quiet channels behind LeakyReLU, the weights on quiet ones large."""
    loudness = np.array([100, 10, 1], np.float32)
    layers = [
        {"op": "conv2d", "weight": "w0", "bias": "b0", "stride": 1, "padding": 1, "padding_mode": "zeros"},
        {"op": "activation", "kind": "leaky_relu", "slope": 0.2},
        {"op": "conv2d", "weight": "w1", "bias": None, "stride": 1, "padding": 1, "padding_mode": "zeros"},
        {"op": "activation", "kind": "relu"},
        {"op": "reshape", "shape": [3 * 16]},
        {"op": "linear", "weight": "w2", "bias": None},
    ]
    tensors = {
        "w0": rng.standard_normal((3, 2, 3, 3)) * loudness[:, None, None, None],
        "b0": rng.standard_normal(3) * loudness,
        "w1": rng.standard_normal((3, 3, 3, 3)) / loudness[:, None, None] * loudness[:, None, None, None],
        "w2": rng.standard_normal((9, 48)) / loudness.repeat(16),
    }
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    x = rng.standard_normal((40, 2, 4, 4)).astype(np.float32)
    wanted = run(layers, tensors, x)
    level = level_before(layers, tensors, [2, 5])
    np.testing.assert_allclose(run(layers, level, x), wanted, rtol=1e-4, atol=1e-4)
    for name in ("w1", "w2"):
        of_row = np.abs(level[name].reshape(len(level[name]), 3, -1)).max(2)
        largest = (of_row / of_row.max(1, keepdims=True)).max(0)
        np.testing.assert_allclose(largest, 1, rtol=1e-5)
    for shared in ([*layers, layers[0]], layers[1:]):  # a tensor of another layer, nothing before
        again = level_before(shared, tensors, [shared.index(layers[2])])
        assert all(again[name] is tensors[name] for name in tensors)

    off = {}
    for name, function in (("level", level_before), ("not", lambda layers, tensors, which: tensors)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantize_layers, "level_before", function)
            kept, named, turns = quantize_chain(
                "decoder", layers, tensors, x, _core.Pool(1), lambda: None, float_inputs=[0, 2]
            )
        assert not turns
        assert not any("input_scale" in layer for layer in kept)
        off[name] = np.linalg.norm(run(kept, named, x) - wanted)
    assert off["level"] < 0.5 * off["not"]
    assert off["level"] < 0.02 * np.linalg.norm(wanted)


def test_what_a_layer_loses_is_measured_at_the_end(rng: np.random.Generator) -> None:
    """The second convolution's inputs lie far from 0, so that eight bits hardly tell them apart."""
    conv = {"op": "conv2d", "stride": 1, "padding": 0, "padding_mode": "zeros"}
    layers = [
        {**conv, "weight": "w0", "bias": "b0"},
        {**conv, "weight": "w1", "bias": "b1"},
        {**conv, "weight": "w2", "bias": None},
    ]
    tensors = {f"w{i}": rng.standard_normal((4, 4, 1, 1)).astype(np.float32) for i in range(3)}
    tensors["b0"] = np.full(4, 300, np.float32)
    tensors["b1"] = -tensors["w1"][:, :, 0, 0] @ tensors["b0"]
    x = rng.standard_normal((30, 4, 3, 3)).astype(np.float32)
    found = quantize_chain("decoder", layers, tensors, x, _core.Pool(1), lambda: None)
    assert max(found.turns, key=lambda index: found.turns[index]) == 1
    assert found.turns[1] > 100 * max(found.turns[0], found.turns[2])
    again = quantize_chain("decoder", layers, tensors, x, _core.Pool(1), lambda: None, float_inputs=[1])
    assert sorted(again.turns) == [0, 2]
    assert ["input_scale" in layer for layer in again.layers] == [True, False, True]


def test_channels_have_scales_of_their_own(rng: np.random.Generator) -> None:
    """Loud and quiet ones, the quiet ones with large weights: one scale for all would lose these."""
    layer = {"op": "conv2d", "weight": "w", "bias": None, "stride": 1, "padding": 1, "padding_mode": "zeros"}
    loudness = np.array([100, 10, 2, 0.1], np.float32)[:, None, None]
    x = rng.uniform(-0.2, 1, (9, 4, 6, 6)).astype(np.float32) * loudness
    weight = rng.standard_normal((5, 4, 3, 3)).astype(np.float32) / loudness.clip(2)
    layers, kept, _ = quantize_chain("decoder", [layer], {"w": weight}, x, _core.Pool(1), lambda: None)
    got, wanted = run(layers, kept, x), plain(layer, {"w": weight}, x)
    assert np.linalg.norm(got - wanted) < 0.01 * np.linalg.norm(wanted)
    scale = kept[layers[0]["input_scale"]]
    np.testing.assert_allclose(scale[:3] / scale[0], [1, 0.1, 0.02], rtol=0.05)
    assert scale[3] == np.float32(scale[0] * quantize_layers.QUIETEST)


def test_sums_too_long_for_int32_stay_float(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    layer = {"op": "conv2d", "weight": "w", "bias": "b", "stride": 1, "padding": 0, "padding_mode": "zeros"}
    tensors = {"w": rng.standard_normal((2, 3, 2, 2)).astype(np.float32), "b": np.zeros(2, np.float32)}
    x = rng.uniform(0, 1, (8, 3, 4, 4)).astype(np.float32)
    for terms, kind in ((12, np.int8), (11, np.float32)):
        monkeypatch.setattr(quantize_layers, "MAX_TERMS", terms)
        layers, kept, _ = quantize_chain("decoder", [layer], tensors, x, _core.Pool(1), lambda: None)
        assert kept[layers[0]["weight"]].dtype == kind


def test_a_float_model_that_overflows_is_refused(tmp_path: Path) -> None:
    document, tensors = tiny_document()
    tensors["encoder.0.weight"][:] = 1e38
    model_file.write(tmp_path / "m", document, tensors)
    with pytest.raises(QuantizeError, match=r"encoder\[0\] \(conv2d\) gives NaN or infinity"):
        quantize_file(tmp_path / "m", tmp_path / "out", scenes())
    assert os.listdir(tmp_path) == ["m"]


# --- whole models ------------------------------------------------------------------------------


def weights(tensors: dict[str, np.ndarray], name: str, *shape: int, fan_in: int) -> dict[str, str]:
    rng = np.random.default_rng(len(tensors))
    tensors[f"{name}.w"] = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    return {"weight": f"{name}.w", "bias": None}


def grey_autoencoder() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """1x16x16 -> 6 -> 1x16x16: pooling, transposed convolutions, shared weights, no bias, no posterior."""
    document, _ = tiny_document()
    tensors: dict[str, np.ndarray] = {}
    conv = {"op": "conv2d", "stride": 1, "padding": 1, "padding_mode": "replicate"}
    up = {"op": "conv_transpose2d", "stride": 2, "padding": 1, "output_padding": 0}
    relu, pool = {"op": "activation", "kind": "relu"}, {"op": "max_pool2d", "kernel": 2, "stride": 2}
    shared = weights(tensors, "same", 8, 8, 3, 3, fan_in=72)
    document |= {
        "name": "grey",
        "input": {"channels": 1, "height": 16, "width": 16},
        "latent_dim": 6,
        "posterior": None,
        "depth": None,
        "encoder": [
            {**conv, **weights(tensors, "e0", 8, 1, 3, 3, fan_in=9)}, relu, pool,
            {**conv, **shared}, {"op": "activation", "kind": "softplus"}, pool,
            {**conv, **shared}, relu,
            {"op": "reshape", "shape": [128]},
            {"op": "linear", **weights(tensors, "e1", 6, 128, fan_in=128)},
        ],
        "decoder": [
            {"op": "linear", **weights(tensors, "d0", 128, 6, fan_in=6)}, relu,
            {"op": "reshape", "shape": [8, 4, 4]},
            {**up, **weights(tensors, "d1", 8, 8, 4, 4, fan_in=32)}, relu,
            {**up, **weights(tensors, "d2", 8, 1, 4, 4, fan_in=32)},
            {"op": "activation", "kind": "sigmoid"},
        ],
    }  # fmt: skip
    return document, tensors


def vectors() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A fully connected model of small grey pictures."""
    document, _ = grey_autoencoder()
    tensors: dict[str, np.ndarray] = {}
    document |= {
        "name": "vectors",
        "input": {"channels": 1, "height": 8, "width": 8},
        "encoder": [
            {"op": "reshape", "shape": [64]},
            {"op": "linear", **weights(tensors, "e0", 32, 64, fan_in=64)},
            {"op": "activation", "kind": "relu"},
            {"op": "linear", **weights(tensors, "e1", 6, 32, fan_in=32)},
        ],
        "decoder": [
            {"op": "linear", **weights(tensors, "d0", 64, 6, fan_in=6)},
            {"op": "reshape", "shape": [1, 8, 8]},
        ],
    }
    return document, tensors


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("make", [tiny_document, grey_autoencoder, vectors])
def test_models_of_every_kind(make: Any, precision: str, tmp_path: Path) -> None:
    document, tensors = make()
    document["precision"] = precision
    source, target = tmp_path / "m.safetensors", tmp_path / "m.int8.safetensors"
    model_file.write(source, document, tensors)
    target.write_bytes(b"an older file")
    report = quantize_file(source, target, scenes(), calibration="made up")
    assert sorted(os.listdir(tmp_path)) == ["m.int8.safetensors", "m.safetensors"]
    assert report.path == str(target)
    assert (report.calibrated.frames, report.held_out.frames) == (12, 4)
    assert (report.bytes, report.source_bytes) == (target.stat().st_size, source.stat().st_size)
    for loss in (report.calibrated, report.held_out):
        assert 0.999 <= loss.latent_cosine_min <= loss.latent_cosine_mean <= 1 + 1e-12
        assert max(loss.decode_db, loss.round_trip_db) <= 0.1

    written, named, _ = model_file.read(target)
    assert written["precision"] == "int8"
    kinds = [
        "integer" if "input_scale" in layer else "weights" if "weight_scale" in layer else "float"
        for chain in ("encoder", "decoder")
        for layer in written[chain]
        if "weight" in layer
    ]
    assert (
        kinds
        == {
            "tiny": ["float", "integer", "weights", "weights", "integer", "integer"],
            "grey": ["float", "integer", "integer", "weights", "weights", "integer", "integer"],
            "vectors": ["weights"] * 3,
        }[document["name"]]
    )
    assert sum(tensor.dtype == np.int8 for tensor in named.values()) == sum(kind != "float" for kind in kinds)
    for key in document.keys() - {"precision", "encoder", "decoder", "provenance"}:
        assert written[key] == document[key]
    about = written["provenance"]
    assert about["data"] == document["provenance"]["data"]
    assert about["quantized"] == {
        "from_sha256": edgevae.load(source).spec.sha256,
        "calibration": "made up",
        "frames": 12,
        "frames_held_out": 4,
        "float_inputs": [],
    }
    assert about["metrics"]["int8_latent_cosine_min"] == report.held_out.latent_cosine_min
    assert about["metrics"]["int8_round_trip_db"] == report.held_out.round_trip_db


def test_the_same_frames_make_the_same_file(tiny_model_path: Path, tmp_path: Path) -> None:
    for name in "ab":
        quantize_file(tiny_model_path, tmp_path / name, scenes())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_frames_without_depth_will_do(tiny_model_path: Path, tmp_path: Path) -> None:
    report = quantize_file(tiny_model_path, tmp_path / "m", scenes(depth=False))
    assert report.held_out.latent_cosine_min >= 0.999


def test_pictures_too_large_for_the_memory_calibrate_on_fewer(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counting(chain: str, layers: Any, tensors: Any, x: np.ndarray, *rest: Any, **options: Any) -> Any:
        seen.append(len(x))
        return quantize_chain(chain, layers, tensors, x, *rest, **options)

    monkeypatch.setattr(quantize, "quantize_chain", counting)
    monkeypatch.setattr(quantize, "CALIBRATION_BYTES", 7 * 4 * (4 * 32 * 32))  # seven pictures
    quantize_file(tiny_model_path, tmp_path / "m", scenes())
    assert seen == [6, 6]


def test_variations_reach_further(rng: np.random.Generator) -> None:
    spec = InputSpec(4, 6, 5, depth=DepthEncoding("log", 0.25, 80.0))
    x = rng.uniform(-1, 1, (12, 4, 6, 5)).astype(np.float32)
    varied = vary(x, spec)
    assert varied.shape == (24, 4, 6, 5)
    np.testing.assert_array_equal(varied[:12], x)
    new = varied[12:]
    assert np.abs(new).max() <= 1
    np.testing.assert_array_equal(new[0, :3], -x[0, :3])
    np.testing.assert_array_equal(new[1, :3], x[1, [2, 0, 1]])
    assert (new[1, 3] == -1).all()
    np.testing.assert_array_equal(new[2, 3], x[2, 3, ::-1])
    assert new[2, :3].mean() < x[2, :3].mean() < new[5, :3].mean()


# --- the gate ----------------------------------------------------------------------------------


class Spoiled:
    """A model that answers something else."""

    def __init__(self, model: Model, encode_noise: float, decode_noise: float) -> None:
        self.model, self.encode_noise, self.decode_noise = model, encode_noise, decode_noise

    def encode_tensor(self, x: np.ndarray) -> np.ndarray:
        return self.model.encode_tensor(x) + np.float32(self.encode_noise) * np.arange(8, dtype=np.float32)

    def decode_tensor(self, z: np.ndarray) -> np.ndarray:
        return self.model.decode_tensor(z) + np.float32(self.decode_noise)


@pytest.mark.parametrize(
    ("encode_noise", "decode_noise", "says"),
    [
        (1.0, 0.0, "a latent's cosine with the float model's is -0."),
        (0.0, 0.5, "decoded pictures lose "),
        (np.nan, 0.0, "cosine with the float model's is nan"),
        (0.0, np.nan, "round trips lose nan dB"),
    ],
)
def test_what_loses_too_much_is_not_kept(
    encode_noise: float,
    decode_noise: float,
    says: str,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(path: Any, **options: Any) -> Any:
        model = edgevae.load(path, **options)
        return Spoiled(model, encode_noise, decode_noise) if model.spec.precision == "int8" else model

    monkeypatch.setattr(quantize, "load", load)
    monkeypatch.setattr(quantize, "SPACING", 1)
    target = tmp_path / "m.safetensors"
    target.write_bytes(b"an older file")
    arguments = ["quantize", tiny_model_path, "--calibrate", "synthetic", "-o", target, "--frames", 12]
    assert main([*map(str, arguments), "--overwrite"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert says in printed.err
    assert "no file was kept" in printed.err
    assert "--frames" in printed.err
    assert os.listdir(tmp_path) == ["m.safetensors"]
    assert target.read_bytes() == b"an older file"


def test_frames_held_out_are_judged_too(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(Spoiled):
        """Right on the twelve frames of calibration only."""

        calls = 0

        def encode_tensor(self, x: np.ndarray) -> np.ndarray:
            self.calls += 1
            return super().encode_tensor(x) * (1 if self.calls <= 12 else -1)

    def load(path: Any, **options: Any) -> Any:
        model = edgevae.load(path, **options)
        return Forgetful(model, 0.0, 0.0) if model.spec.precision == "int8" else model

    monkeypatch.setattr(quantize, "load", load)
    with pytest.raises(QuantizeError, match="on the 4 frames held out of calibration"):
        quantize_file(tiny_model_path, tmp_path / "m", scenes())
    assert os.listdir(tmp_path) == []


def test_pixels_without_a_reading_do_not_count() -> None:
    image, wanted = np.zeros((4, 2, 2), np.float32), np.zeros((4, 2, 2), np.float32)
    image[3, 0] = 1
    valid = np.ones((4, 2, 2), np.bool_)
    assert quantize._square_error(image, wanted, valid) == pytest.approx(2 / 16)
    valid[3, 0] = False
    assert quantize._square_error(image, wanted, valid) == quantize.SHOWN


def test_latents_of_nothing() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert quantize._cosine(zero, zero) == 1
    assert quantize._cosine(zero, one) == 0
    assert quantize._cosine(one, -one) == pytest.approx(-1)


# --- wrong input -------------------------------------------------------------------------------


def test_too_few_frames(tiny_model_path: Path, tmp_path: Path) -> None:
    for count in (0, 7):
        with pytest.raises(QuantizeError, match=f"my frames: {count} frames, wanted at least 8"):
            quantize_file(tiny_model_path, tmp_path / "m", scenes(count), calibration="my frames")
    assert os.listdir(tmp_path) == []


def test_models_that_cannot_be_quantized(tiny_model_path: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "int8"
    quantize_file(tiny_model_path, int8, scenes())
    with pytest.raises(QuantizeError, match="is an int8 file, wanted the fp32 or fp16 file"):
        quantize_file(int8, tmp_path / "m", scenes())

    document, tensors = tiny_document()
    document["condition_dim"] = 2
    document["decoder"][:1] = [{"op": "concat_condition", "size": 2}, document["decoder"][0]]
    tensors["decoder.input.weight"] = np.pad(tensors["decoder.input.weight"], ((0, 0), (0, 2)))
    model_file.write(tmp_path / "conditional", document, tensors)
    with pytest.raises(QuantizeError, match="takes a condition of 2 numbers"):
        quantize_file(tmp_path / "conditional", tmp_path / "m", scenes())

    document, _ = vectors()
    document |= {"latent_dim": 64, "encoder": document["encoder"][:1], "decoder": document["decoder"][1:]}
    model_file.write(tmp_path / "empty", document, {})
    with pytest.raises(QuantizeError, match="no layer with weights"):
        quantize_file(tmp_path / "empty", tmp_path / "m", scenes())
    assert not (tmp_path / "m").exists()


def test_names_that_cannot_be_written(tiny_model_path: Path, tmp_path: Path) -> None:
    for target, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "m", "not a folder that can be written"),
    ):
        with pytest.raises(ModelFileError, match=says):
            quantize_file(tiny_model_path, target, scenes())
    copy = tmp_path / "m"
    copy.write_bytes(tiny_model_path.read_bytes())
    (tmp_path / "link").symlink_to(copy)
    for target in (copy, tmp_path / "link"):
        with pytest.raises(QuantizeError, match="is the float model itself"):
            quantize_file(copy, target, scenes())
    assert copy.read_bytes() == tiny_model_path.read_bytes()


def test_a_failing_disk_leaves_nothing_behind(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match="No space left on device") as error:
        quantize_file(tiny_model_path, tmp_path / "m", scenes())
    assert ".part" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_frames_are_spread_over_the_source() -> None:
    assert [frame.index for frame in spread(MemorySource(40), 4)] == [0, 10, 20, 30]
    assert [frame.index for frame in spread(MemorySource(3), 8)] == [0, 1, 2]
    source = MemorySource(40, actions=corrupt(0, 5, 6))
    assert len(list(spread(source, 4))) == 4
    endless = MemorySource(1000)
    endless.length = None
    taken = spread(endless, 3)
    endless.length = 1000  # asked when the first frame is
    assert [frame.index for frame in taken] == [0, 333, 666]
    with pytest.raises(FrameError, match="is corrupt"):
        list(spread(MemorySource(200, actions=corrupt(*range(200))), 4))


# --- the command, and who else meets an int8 file ----------------------------------------------


def test_command(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quantize, "SPACING", 1)
    target = tmp_path / "m.safetensors"
    arguments = ["quantize", tiny_model_path, "--calibrate", "synthetic:3", "-o", target, "--frames", 12]
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {target}: 0.0 MB" in printed
    assert "3 frames held out: latent cosine at least 0.999" in printed
    assert model_file.read(target)[0]["provenance"]["quantized"]["calibration"] == "synthetic:3"


def test_several_sources_give_their_share_each(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "SPACING", 1)
    taken: list[tuple[str, int]] = []
    original = quantize.spread

    def spread(source: Any, count: int) -> Any:
        for frame in original(source, count):
            taken.append((source.name, count))
            yield frame

    monkeypatch.setattr(quantize, "spread", spread)
    target = tmp_path / "m.safetensors"
    sources = ["--calibrate", "synthetic:3", "--calibrate", "synthetic:4"]
    assert main(["quantize", str(tiny_model_path), *sources, "-o", str(target), "--frames", "15"]) == 0
    assert len(taken) == 16
    assert len(set(taken)) == 2
    quantized = model_file.read(target)[0]["provenance"]["quantized"]
    assert (quantized["calibration"], quantized["frames"]) == ("synthetic:3, synthetic:4", 12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.safetensors", "--calibrate", "synthetic"], "absent.safetensors does not exist"),
        (["MODEL", "--calibrate", "nowhere"], "'nowhere' does not exist"),
        (["MODEL", "--calibrate", "synthetic", "--frames", "7"], "synthetic: 7 frames, wanted at least 8"),
        (["MODEL", "--calibrate", "synthetic", "--frames", "0"], "--frames"),
        (["MODEL"], "--calibrate"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str],
    says: str,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(quantize, "SPACING", 1)
    arguments = [str(tiny_model_path) if argument == "MODEL" else argument for argument in arguments]
    assert main(["quantize", *arguments, "-o", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert os.listdir(tmp_path) == []


def test_passwords_stay_out_of_the_file(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevae.sources.open_source", lambda *_, **__: MemorySource(16))
    quantize.quantize(tiny_model_path, tmp_path / "m", "rtsp://me:secret@host/cam", quiet=True)
    assert b"secret" not in (tmp_path / "m").read_bytes()
    assert b"rtsp://host/cam" in (tmp_path / "m").read_bytes()


def test_torch_does_not_run_int8(tiny_model_path: Path, tmp_path: Path) -> None:
    quantize_file(tiny_model_path, tmp_path / "m", scenes())
    with pytest.raises(EdgevaeError, match="is an int8 file, which PyTorch does not run"):
        torch_model.load(tmp_path / "m")


@pytest.fixture
def int8_path(tiny_model_path: Path, tmp_path: Path) -> Path:
    """The tiny model, quantized."""
    path = tmp_path / "int8.safetensors"
    quantize_file(tiny_model_path, path, scenes())
    return path


def test_the_engine_computes_what_the_oracle_does(
    int8_path: Path, isa: str, rng: np.random.Generator
) -> None:
    model, oracle = edgevae.load(int8_path, isa=isa, threads=1), Int8Model(int8_path)
    x = rng.uniform(-1, 1, (3, 4, 32, 32)).astype(np.float32)
    z = oracle.encode_tensor(x)
    # Float32 layers and activations round otherwise than float64 ones: with 61 seeds and every set of one
    # AVX-512 machine latents were off by 5.3e-7 of the largest, pictures by 1.8e-7; four times that is
    # allowed. Inputs that fall on other steps of their 255 (scales off by 3e-5) show as 5e-4 and 6e-3.
    np.testing.assert_allclose(model.encode_tensor(x), z, rtol=0, atol=2e-6 * np.abs(z).max())
    np.testing.assert_allclose(model.decode_tensor(z), oracle.decode_tensor(z), rtol=0, atol=7e-7)


def test_info_of_an_int8_file(int8_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = info.describe(int8_path)
    json.dumps(about)
    assert [layer["output"] for layer in about["decoder"]][-1] == [4, 32, 32]
    info.show(about)
    printed = capsys.readouterr().out
    assert "3 layers in integers, 2 with int8 weights and float32 arithmetic, 1 in float32" in " ".join(
        printed.split()
    )
    assert "int8, zero at" in printed


def test_a_network_of_the_published_shape_halves_again(tmp_path: Path, data_dir: Path) -> None:
    source, target = tmp_path / "source.safetensors", tmp_path / "m.safetensors"
    write_random_model(source, 32)
    report = quantize.quantize(
        source, target, f"tum:{data_dir / 'tum_fr1_rpy_100'}", frames=8, threads=1, quiet=True
    )
    assert report.bytes < 0.3 * report.source_bytes  # of float32
    assert report.held_out.latent_cosine_min > 0.9995
    assert report.held_out.round_trip_db < 0.05
    with safetensors.safe_open(target, "np") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"I8", "F32"}  # noqa: SIM118
