"""The model file: what is written is read back, and every lie is refused with one sentence."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from edgevae import model_file
from edgevae.errors import ModelFileError

LATENT = 3


def small_model() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A valid model that uses every op but concat_condition, 4x8x8 -> 3 -> 4x8x8."""
    generator = np.random.default_rng(0)

    def tensor(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    tensors = {
        "e0.w": tensor(5, 4, 4, 4),
        "e0.b": tensor(5),
        "e4.w": tensor(2 * LATENT, 20),
        "e4.b": tensor(2 * LATENT),
        "d0.w": tensor(12, LATENT),
        "d2.w": tensor(4, 3, 3, 3),
        "d2.b": tensor(4),
        "d4.w": tensor(4, 4, 2, 2),
        "d4.b": tensor(4),
    }
    document = {
        "format_version": 1,
        "name": "small",
        "input": {"channels": 4, "height": 8, "width": 8},
        "latent_dim": LATENT,
        "condition_dim": 0,
        "posterior": {"scale": "softplus", "epsilon": 1e-5},
        "color": {"encoding": "fixed"},
        "depth": {"encoding": "log", "min_m": 0.25, "max_m": 80.0, "no_reading": -1.0},
        "precision": "fp32",
        "encoder": [
            {
                "op": "conv2d",
                "weight": "e0.w",
                "bias": "e0.b",
                "stride": 2,
                "padding": 1,
                "padding_mode": "zeros",
            },
            {"op": "activation", "kind": "leaky_relu", "slope": 0.2},
            {"op": "max_pool2d", "kernel": 2, "stride": 2},
            {"op": "reshape", "shape": [20]},
            {"op": "linear", "weight": "e4.w", "bias": "e4.b"},
        ],
        "decoder": [
            {"op": "linear", "weight": "d0.w", "bias": None},
            {"op": "reshape", "shape": [3, 2, 2]},
            {"op": "upsample_conv2d", "weight": "d2.w", "bias": "d2.b", "padding_mode": "replicate"},
            {"op": "activation", "kind": "relu"},
            {
                "op": "conv_transpose2d",
                "weight": "d4.w",
                "bias": "d4.b",
                "stride": 2,
                "padding": 0,
                "output_padding": 0,
            },
            {"op": "activation", "kind": "tanh"},
        ],
        "provenance": {"data": [{"name": "made up"}], "metrics": {"loss": 1.0}, "seed": 0},
    }
    return document, tensors


def conditional_model() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A valid grey model without depth or posterior whose decoder takes a condition of two numbers."""
    document, _ = small_model()
    document.update(
        input={"channels": 1, "height": 2, "width": 2},
        condition_dim=2,
        posterior=None,
        depth=None,
        encoder=[{"op": "reshape", "shape": [4]}, {"op": "linear", "weight": "w", "bias": "b"}],
        decoder=[
            {"op": "concat_condition", "size": 2},
            {"op": "linear", "weight": "v", "bias": None},
            {"op": "reshape", "shape": [1, 2, 2]},
        ],
    )
    tensors = {
        "w": np.ones((LATENT, 4), np.float32),
        "b": np.zeros(LATENT, np.float32),
        "v": np.ones((4, LATENT + 2), np.float32),
    }
    return document, tensors


def int8_model() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """``small_model`` with every kind of quantized layer; the head stays float."""
    document, tensors = small_model()
    document["precision"] = "int8"
    generator = np.random.default_rng(1)
    quantized = {
        "e0": (document["encoder"][0], (5, 4, 4, 4), (5,), 4),
        "d0": (document["decoder"][0], (12, LATENT), (12,), None),
        "d2": (document["decoder"][2], (4, 4, 3, 2, 2), (4, 4), 3),
        "d4": (document["decoder"][4], (4, 4, 2, 2), (4,), 4),
    }
    for name, (layer, shape, scales, inputs) in quantized.items():
        tensors[f"{name}.w"] = generator.integers(-127, 128, shape, np.int8)
        tensors[f"{name}.s"] = generator.uniform(1e-3, 1e-2, scales).astype(np.float32)
        layer["weight_scale"] = f"{name}.s"
        if inputs is not None:
            tensors[f"{name}.i"] = generator.uniform(1e-3, 1e-2, inputs).astype(np.float32)
            layer |= {"input_scale": f"{name}.i", "input_zero": 128}
    return document, tensors


def write_raw(
    path: Path, document: object, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> Path:
    """Write a safetensors file without any check, to make files that lie."""
    text = document if isinstance(document, str) else json.dumps(document)
    safetensors.numpy.save_file(tensors, path, {"edgevae": text} if metadata is None else metadata)
    return path


def assert_sentence(error: pytest.ExceptionInfo[ModelFileError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 700
    for part in parts:
        assert part in message


# --- what is written is read back --------------------------------------------------------------


@pytest.mark.parametrize("make", [small_model, conditional_model, int8_model])
def test_round_trip(make: Any, tmp_path: Path) -> None:
    document, tensors = make()
    path = tmp_path / "m.safetensors"
    model_file.write(path, document, tensors)
    read_document, read_tensors, digest = model_file.read(path)
    assert read_document == document
    assert read_tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read_tensors[name].dtype == tensor.dtype
        assert read_tensors[name].flags.c_contiguous
        np.testing.assert_array_equal(read_tensors[name], tensor)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_round_trip_fp16_rounds_once_and_halves_the_file(tmp_path: Path) -> None:
    document, tensors = small_model()
    tensors["e4.w"] = np.asfortranarray(tensors["e4.w"])
    model_file.write(tmp_path / "32", document, tensors)
    document["precision"] = "fp16"
    model_file.write(tmp_path / "16", document, tensors)
    _, read_tensors, _ = model_file.read(str(tmp_path / "16"))
    for name, tensor in tensors.items():
        assert read_tensors[name].dtype == np.float32
        np.testing.assert_array_equal(read_tensors[name], tensor.astype(np.float16).astype(np.float32))
    numbers = sum(tensor.size for tensor in tensors.values())
    saved = (tmp_path / "32").stat().st_size - (tmp_path / "16").stat().st_size
    assert abs(saved - 2 * numbers) <= 64  # the header differs by a few bytes


def test_same_model_same_bytes(tmp_path: Path) -> None:
    document, tensors = small_model()
    model_file.write(tmp_path / "a", document, tensors)
    model_file.write(tmp_path / "b", document, dict(reversed(tensors.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_relative_depth_has_no_range(tmp_path: Path) -> None:
    document, tensors = small_model()
    document["depth"] = {"encoding": "minmax", "min_m": 0.0, "max_m": 0, "no_reading": -1.0}
    model_file.write(tmp_path / "m", document, tensors)
    assert model_file.read(tmp_path / "m")[0]["depth"] == document["depth"]


def test_write_replaces_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    model_file.write(path, *small_model())
    assert model_file.read(path)[0]["name"] == "small"


# --- writing refuses too, and leaves nothing behind --------------------------------------------


def test_write_refuses_and_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    document, tensors = small_model()
    tensors["e0.w"][0, 0, 0, 0] = np.nan
    with pytest.raises(ModelFileError) as error:
        model_file.write(path, document, tensors)
    assert_sentence(error, str(path), "e0.w", "NaN")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_write_refuses_numbers_too_large_for_fp16(tmp_path: Path) -> None:
    document, tensors = small_model()
    document["precision"] = "fp16"
    tensors["d2.b"][0] = 1e5
    with pytest.raises(ModelFileError) as error:
        model_file.write(tmp_path / "m", document, tensors)
    assert_sentence(error, "d2.b", "100000", "65504", "fp32")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), object(), np.float32(1)], ids=["nan", "object", "numpy"])
def test_write_refuses_provenance_that_is_not_json(value: object, tmp_path: Path) -> None:
    document, tensors = small_model()
    document["provenance"]["metrics"]["loss"] = value
    with pytest.raises(ModelFileError) as error:
        model_file.write(tmp_path / "m", document, tensors)
    assert_sentence(error, "not JSON")
    assert os.listdir(tmp_path) == []


def test_write_into_a_missing_folder_or_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as error:
        model_file.write(tmp_path / "absent" / "m", *small_model())
    assert_sentence(error, "cannot be written", "existing, writable folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelFileError) as error:
        model_file.write(tmp_path / "folder", *small_model())
    assert_sentence(error, "cannot be written")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_failing_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError) as error:
        model_file.write(tmp_path / "m", *small_model())
    assert_sentence(error, "No space left on device")
    assert os.listdir(tmp_path) == []


# --- files that are not model files ------------------------------------------------------------


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as error:
        model_file.read(tmp_path / "absent.safetensors")
    assert_sentence(error, "absent.safetensors", "does not exist", "edgevae export")
    with pytest.raises(ModelFileError) as error:
        model_file.read(tmp_path)
    assert_sentence(error, "is a folder")
    with pytest.raises(ModelFileError) as error:
        model_file.read("/dev/zero")
    assert_sentence(error, "device")
    with pytest.raises(ModelFileError) as error:
        model_file.read("a\0b")
    assert_sentence(error, "not a file name")
    with pytest.raises(ModelFileError) as error:
        model_file.read(tmp_path / ("x" * 300))
    assert_sentence(error, "cannot be read")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\0", "not a safetensors file"),
        (b"\0" * 100, "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a safetensors file"),
        (b"PK\x03\x04" + b"\0" * 100, "edgevae export"),
        (struct.pack("<Q", 1 << 60) + b'{"a": 1}', "damaged"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
    ],
    ids=["empty", "one", "zeros", "lfs", "zip", "length", "list"],
)
def test_foreign_bytes(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as error:
        model_file.read(path)
    assert_sentence(error, str(path), says, "wanted")


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model_file.write(path, *small_model())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError) as error:
        model_file.read(path)
    assert_sentence(error, "truncated", "copy or export it again")


def test_metadata_without_the_document(tmp_path: Path) -> None:
    _, tensors = small_model()
    for metadata in ({}, {"format": "pt"}):
        path = write_raw(tmp_path / "m", None, tensors, metadata)
        with pytest.raises(ModelFileError) as error:
            model_file.read(path)
        assert_sentence(error, "without the metadata key 'edgevae'")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ('{"format_version": 1', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "wanted an object"),
        ("1", "wanted an object"),
        ('{"format_version": 1, "format_version": 1}', "stands twice"),
        ('{"format_version": NaN}', "NaN"),
        ('{"format_version": ' + "9" * 5000 + "}", "m: "),
    ],
    ids=["empty", "cut", "deep", "list", "number", "twice", "nan", "huge"],
)
def test_broken_document(text: str, says: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", text, small_model()[1])
    with pytest.raises(ModelFileError) as error:
        model_file.read(path)
    assert_sentence(error, says)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int8, np.float16, np.float32])
def test_stored_type_contradicts_precision(precision: str, dtype: type, tmp_path: Path) -> None:
    document, tensors = small_model()
    document["precision"] = precision
    right = {"fp32": np.float32, "fp16": np.float16}[precision]
    stored = {name: tensor.astype(right) for name, tensor in tensors.items()}
    stored["d2.b"] = tensors["d2.b"].astype(dtype)
    path = write_raw(tmp_path / "m", document, stored)
    if dtype is right:
        model_file.read(path)
        return
    with pytest.raises(ModelFileError) as error:
        model_file.read(path)
    assert_sentence(error, "d2.b", "stored as", precision)


def test_a_quantized_layer_in_a_float_file(tmp_path: Path) -> None:
    document, tensors = int8_model()
    for precision, says in (("fp32", "wanted F32 (fp32)"), ("fp16", "wanted F16 (fp16)")):
        document["precision"] = precision
        with pytest.raises(ModelFileError) as error:
            model_file.read(write_raw(tmp_path / "m", document, tensors))
        assert_sentence(error, says)
        with pytest.raises(ModelFileError) as error:
            model_file.write(tmp_path / "n", document, tensors)
        assert_sentence(error, "unknown key 'weight_scale'")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int32])
def test_stored_type_of_a_quantized_weight(dtype: type, tmp_path: Path) -> None:
    document, tensors = int8_model()
    tensors["d0.w"] = tensors["d0.w"].astype(dtype)
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "d0.w", "wanted int8" if dtype is np.float32 else "wanted F32 or I8")


@pytest.mark.parametrize("name", ["d0.s", "e0.i", "e0.b", "e4.w"])
def test_int8_where_float_belongs(name: str, tmp_path: Path) -> None:
    document, tensors = int8_model()
    tensors[name] = np.ones(tensors[name].shape, np.int8)
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, name, "is int8, wanted float32")


@pytest.mark.parametrize("name", ["d2.s", "d2.i"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e-40, np.nan, np.inf])
def test_scales_are_positive_numbers(name: str, value: float, tmp_path: Path) -> None:
    document, tensors = int8_model()
    tensors[name].flat[-1] = value
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "finite" if value == np.inf else "wanted positive numbers")


def test_int8_weights_are_symmetric(tmp_path: Path) -> None:
    document, tensors = int8_model()
    tensors["e0.w"][0, 0, 0, 0] = -128
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "encoder[0].weight holds -128", "-127 to 127")


@pytest.mark.parametrize(
    "shape", [(3, 4, 3, 2, 2), (4, 4, 3, 3, 3), (4, 4, 3, 2), (4, 3, 3, 3), (4, 4, 2, 2, 2)]
)
def test_phases_of_another_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    document, tensors = int8_model()
    tensors["d2.w"] = np.ones(shape, np.int8)
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "decoder[2]")


@pytest.mark.parametrize(
    ("terms", "sound"), [(model_file.MAX_TERMS, True), (model_file.MAX_TERMS + 1, False)]
)
def test_sums_that_an_int32_holds(terms: int, sound: bool, tmp_path: Path) -> None:
    assert model_file.MAX_TERMS * 255 * 127 < 1 << 31 <= (model_file.MAX_TERMS + 1) * 255 * 127
    document, tensors = conditional_model()
    document["precision"] = "int8"
    tensors |= {
        "wide": np.ones((terms, 4), np.float32),
        "w": np.ones((LATENT, terms), np.int8),
        "s": np.ones(LATENT, np.float32),
        "i": np.ones(terms, np.float32),
    }
    document["encoder"][1:1] = [{"op": "linear", "weight": "wide", "bias": None}]
    document["encoder"][2] |= {"weight_scale": "s", "input_scale": "i", "input_zero": 0}
    if sound:
        model_file.validate(document, tensors)
        return
    with pytest.raises(ModelFileError) as error:
        model_file.validate(document, tensors)
    assert_sentence(error, "encoder[2] sums 66312 products", "at most 66311")


def test_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    document, tensors = small_model()
    document["format_version"] = 2
    document["a_key_of_the_future"] = True
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "format_version is 2", "pip install --upgrade edgevae")


# --- documents that lie ------------------------------------------------------------------------

ABSENT = object()

# (path of keys, value or ABSENT, words of the sentence)
LIES: list[tuple[str, object, tuple[str, ...]]] = [
    ("format_version", 0, ("format_version is 0",)),
    ("format_version", True, ("format_version is True",)),
    ("format_version", 1.0, ("format_version is 1.0",)),
    ("name", "", ("name",)),
    ("name", "\x1b[2J", ("name", "printable")),
    ("name", 3, ("name is 3",)),
    ("input", [4, 8, 8], ("input",)),
    ("input.channels", 2, ("input.channels is 2", "1 (grey)")),
    ("input.channels", True, ("input.channels is True",)),
    ("input.channels", 3, ("depth", "null for 3 channels")),
    ("input.height", 0, ("input.height is 0", "from 1 to 4096")),
    ("input.height", 8.0, ("input.height is 8.0",)),
    ("input.height", 16, ("encoder",)),
    ("input.width", 1 << 40, ("input.width",)),
    ("input.width", "8", ("input.width",)),
    ("input.depth", 1, ("unknown key 'depth'",)),
    ("latent_dim", 0, ("latent_dim is 0",)),
    ("latent_dim", LATENT + 1, ("encoder", "2 * latent_dim")),
    ("latent_dim", None, ("latent_dim is null",)),
    ("condition_dim", -1, ("condition_dim is -1",)),
    ("condition_dim", 2, ("condition_dim is 2", "concat_condition")),
    ("posterior", None, ("encoder ends in 6", "wanted 3")),
    ("posterior", "softplus", ("posterior",)),
    ("posterior.scale", "exp", ("posterior.scale", "softplus, logvar")),
    ("posterior.epsilon", -1e-5, ("posterior.epsilon",)),
    ("posterior.epsilon", False, ("posterior.epsilon is False",)),
    ("color", None, ("color is null",)),
    ("color.encoding", "linear", ("color.encoding", "fixed, minmax")),
    ("depth", None, ("depth is null", "4 channels")),
    ("depth.encoding", "metric", ("depth.encoding",)),
    ("depth.min_m", 0, ("depth.min_m is 0", "1e-06")),
    ("depth.min_m", 79.9999999999, ("less than depth.max_m",)),
    ("depth.min_m", -1, ("depth.min_m is -1",)),
    ("depth.min_m", 80.0, ("depth.min_m is 80.0", "less than depth.max_m")),
    ("depth.max_m", 1e300, ("depth.max_m",)),
    (
        "depth",
        {"encoding": "minmax", "min_m": 0, "max_m": 1, "no_reading": -1},
        ("depth.max_m is 1, wanted 0",),
    ),
    ("depth", {"encoding": "log", "no_reading": -1}, ("no key 'min_m'",)),
    ("depth.no_reading", 2.5, ("depth.no_reading is 2.5",)),
    ("depth.no_reading", ABSENT, ("no key 'no_reading'",)),
    ("depth.fill", 1, ("depth.fill is 1, wanted true or false",)),
    ("depth.fill", True, ("depth.fill is True", "no_reading below -1")),
    ("precision", "int4", ("precision is 'int4'", "fp32, fp16, int8")),
    ("encoder.0.weight_scale", "e0.b", ("unknown key 'weight_scale'",)),
    ("provenance", None, ("provenance is null",)),
    ("provenance.data", {}, ("provenance.data",)),
    ("provenance.metrics", [], ("provenance.metrics",)),
    ("provenance.command", 1, ("provenance.command",)),
    ("encoder", [], ("encoder is a list of 0",)),
    ("encoder", {}, ("encoder is {}",)),
    ("encoder", [{"op": "activation", "kind": "relu"}] * 1025, ("list of 1025",)),
    ("encoder.0", "conv2d", ("encoder[0]",)),
    ("encoder.0.op", "conv3d", ("encoder[0].op is 'conv3d'", "upsample_conv2d")),
    ("encoder.0.op", ["conv2d"], ("encoder[0].op",)),
    ("encoder.0.op", ABSENT, ("encoder[0].op is null",)),
    ("encoder.0.weight", None, ("encoder[0].weight is null",)),
    ("encoder.0.weight", 1, ("encoder[0].weight is 1",)),
    ("encoder.0.weight", "e9.w", ("encoder[0].weight names the tensor 'e9.w'", "not in the file")),
    ("encoder.0.weight", "e0.w\0", (r"'e0.w\x00'", "printable")),
    ("encoder.0.weight", "e4.w", ("e4.w", "(6, 20)", "4 dimensions")),
    ("encoder.0.bias", "e0.w", ("e0.w", "1 dimension")),
    ("encoder.0.bias", None, ("'e0.b'", "used by no layer")),
    ("encoder.0.bias", "e4.b", ("encoder",)),
    ("encoder.0.bias", ABSENT, ("no key 'bias'",)),
    ("encoder.0.stride", 0, ("encoder[0].stride is 0",)),
    ("encoder.0.stride", [2, 2], ("encoder[0].stride is [2, 2]",)),
    ("encoder.0.stride", True, ("encoder[0].stride is True",)),
    ("encoder.0.stride", 9, ("encoder",)),
    ("encoder.0.padding", -1, ("encoder[0].padding is -1",)),
    ("encoder.0.padding", 1 << 31, ("encoder[0].padding",)),
    ("encoder.0.padding_mode", "reflect", ("encoder[0].padding_mode", "zeros, replicate")),
    ("encoder.0.dilation", 2, ("unknown key 'dilation'",)),
    ("encoder.1.slope", "steep", ("encoder[1].slope",)),
    ("encoder.1.slope", ABSENT, ("no key 'slope'",)),
    ("encoder.1.kind", "gelu", ("encoder[1].kind", "softplus")),
    ("encoder.1.kind", "relu", ("unknown key 'slope'",)),
    ("encoder.2.kernel", 0, ("encoder[2].kernel is 0",)),
    ("encoder.2.kernel", 5, ("encoder",)),
    ("encoder.3.shape", [], ("encoder[3].shape is []",)),
    ("encoder.3.shape", [5, 4], ("encoder[3].shape",)),
    ("encoder.3.shape", [-1], ("encoder[3].shape[0] is -1",)),
    ("encoder.3.shape", [21], ("encoder",)),
    ("encoder.3.shape", [1 << 40], ("encoder[3].shape[0]",)),
    ("encoder.3.shape", 20, ("encoder[3].shape is 20",)),
    ("decoder.2.weight", "d4.w", ("kernel 2x2", "wanted 3x3")),
    ("decoder.2.stride", 1, ("unknown key 'stride'",)),
    ("decoder.4.output_padding", 2, ("decoder[4].output_padding is 2", "less than the stride 2")),
    ("decoder.4.padding", 1, ("decoder ends in 4x6x6", "wanted 4x8x8")),
    ("decoder.4.padding", 9, ("decoder",)),
    ("decoder.5", {"op": "concat_condition", "size": 2}, ("decoder[5].size is 2", "condition_dim")),
    *[
        (key, ABSENT, (f"no key '{key}'",))
        for key in small_model()[0]
        if key not in ("format_version", "precision")
    ],
    ("surprise", 1, ("unknown key 'surprise'",)),
]


INT8_LIES: list[tuple[str, object, tuple[str, ...]]] = [
    ("encoder.0.weight_scale", None, ("encoder[0].weight_scale is null",)),
    ("encoder.0.weight_scale", "nowhere", ("'nowhere'", "not in the file")),
    ("encoder.0.weight_scale", "e0.w", ("e0.w", "is int8, wanted float32")),
    ("encoder.0.weight_scale", "d0.s", ("encoder[0].weight_scale has the shape (12,), wanted (5,)",)),
    ("encoder.0.weight_scale", ABSENT, ("encoder[0] has the unknown key 'input_scale'",)),
    ("encoder.0.input_scale", "e0.s", ("encoder[0].input_scale has the shape (5,), wanted (4,)",)),
    ("encoder.0.input_scale", ABSENT, ("encoder[0] has no key 'input_scale'",)),
    ("encoder.0.input_zero", ABSENT, ("encoder[0] has no key 'input_zero'",)),
    ("encoder.0.input_zero", 256, ("encoder[0].input_zero is 256", "from 0 to 255")),
    ("encoder.0.input_zero", -1, ("encoder[0].input_zero is -1",)),
    ("encoder.0.input_zero", 128.0, ("encoder[0].input_zero is 128.0",)),
    ("encoder.0.input_zero", True, ("encoder[0].input_zero is True",)),
    ("encoder.0.output_zero", 0, ("unknown key 'output_zero'",)),
    ("encoder.0.weight", "e4.w", ("e4.w", "is float32, wanted int8")),
    ("encoder.1.weight_scale", "e0.s", ("unknown key 'weight_scale'",)),
    ("encoder.4.weight_scale", "e4.b", ("e4.w", "is float32, wanted int8")),
    ("encoder.4.weight", "d0.w", ("d0.w", "is int8, wanted float32")),
    ("decoder.0.input_zero", 0, ("decoder[0] has no key 'input_scale'",)),
    ("decoder.2.weight_scale", "e0.s", ("e0.s", "2 dimensions")),
    ("decoder.2.weight", "d4.w", ("d4.w", "5 dimensions")),
    ("decoder.4.padding", 1, ("decoder ends in 4x6x6",)),
]


@pytest.mark.parametrize("op", ["upsample_conv2d", "conv_transpose2d"])
def test_int8_weights_alone_are_for_plain_layers(op: str, tmp_path: Path) -> None:
    document, tensors = int8_model()
    place = {"upsample_conv2d": 2, "conv_transpose2d": 4}[op]
    for key in ("input_scale", "input_zero"):
        del document["decoder"][place][key]
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, f"decoder[{place}] has no input_scale", "conv2d and linear")


@pytest.mark.parametrize(
    ("make", "where", "value", "parts"),
    [(small_model, *lie) for lie in LIES] + [(int8_model, *lie) for lie in INT8_LIES],
    ids=[
        f"{where}={'absent' if value is ABSENT else str(value)[:20]!r}"
        for where, value, _ in LIES + INT8_LIES
    ],
)
def test_lying_document(make: Any, where: str, value: object, parts: tuple[str, ...], tmp_path: Path) -> None:
    document, tensors = make()
    *parents, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    target: Any = document
    for key in parents:
        target = target[key]
    if value is ABSENT:
        del target[last]
    else:
        target[last] = value

    path = write_raw(tmp_path / "lie", document, tensors)
    with pytest.raises(ModelFileError) as error:
        model_file.read(path)
    assert_sentence(error, f"{path}: ", *parts)

    with pytest.raises(ModelFileError):
        model_file.write(tmp_path / "written", document, tensors)
    assert os.listdir(tmp_path) == ["lie"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensor_that_is_not_finite(value: float, tmp_path: Path) -> None:
    document, tensors = small_model()
    tensors["e4.b"][-1] = value
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "'e4.b'", "finite")


def test_tensor_that_nothing_uses(tmp_path: Path) -> None:
    document, tensors = small_model()
    tensors["spare\n"] = np.zeros(1, np.float32)
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, r"'spare\n'", "used by no layer")


@pytest.mark.parametrize("shape", [(0, 4, 4, 4), (5, 4, 0, 4), ()])
def test_tensor_without_numbers(shape: tuple[int, ...], tmp_path: Path) -> None:
    document, tensors = small_model()
    tensors["e0.w"] = np.zeros(shape, np.float32)
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "'e0.w'")


def test_validate_wants_float32_arrays() -> None:
    document, tensors = small_model()
    for wrong in (tensors["e4.b"].astype(np.float64), tensors["e4.b"].tolist()):
        with pytest.raises(ModelFileError) as error:
            model_file.validate(document, {**tensors, "e4.b": wrong})  # type: ignore[dict-item]
        assert_sentence(error, "e4.b", "float32")


def test_layers_that_grow_without_end(tmp_path: Path) -> None:
    document, tensors = small_model()
    tensors["grow"] = np.zeros((3, 3, 3, 3), np.float32)
    grow = {"op": "upsample_conv2d", "weight": "grow", "bias": None, "padding_mode": "zeros"}
    document["decoder"][2:2] = [grow] * 40
    with pytest.raises(ModelFileError) as error:
        model_file.read(write_raw(tmp_path / "m", document, tensors))
    assert_sentence(error, "decoder")


# --- fuzzing -----------------------------------------------------------------------------------


def read_or_refuse(path: Path) -> bool:
    """Whether the file was read; anything but a ModelFileError fails the test."""
    message = ""
    try:
        model_file.read(path)
    except ModelFileError as error:
        message = str(error)
    assert "\n" not in message
    return not message


def test_fuzz_truncation(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model_file.write(path, *small_model())
    data = path.read_bytes()
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        assert not read_or_refuse(path), f"cut to {length} bytes and read all the same"


@pytest.mark.parametrize("make", [small_model, int8_model])
@pytest.mark.parametrize("seed", range(3))
def test_fuzz_flipped_bytes(seed: int, make: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model_file.write(path, *make())
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    generator = random.Random(seed)
    refused = 0
    for _ in range(500):
        broken = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 8))):
            # most flips in the header, where the structure is
            place = (
                generator.randrange(header) if generator.random() < 0.9 else generator.randrange(len(data))
            )
            broken[place] = generator.choice(
                (broken[place] ^ (1 << generator.randrange(8)), 0x22, 0x30, 0x39, 0xFF)
            )
        path.write_bytes(broken)
        refused += not read_or_refuse(path)
    assert refused > 300


@pytest.mark.parametrize("make", [small_model, int8_model])
@pytest.mark.parametrize("seed", range(3))
def test_fuzz_values_of_the_document(seed: int, make: Any, tmp_path: Path) -> None:
    """Put odd values at random places of the document: the JSON stays sound, the meaning does not."""
    odd = [None, True, -1, 0, 1, 7, 1 << 70, 0.5, 1e308, "", "x", "e0.w", [], {}, [1], [[]], {"op": "linear"}]
    path = tmp_path / "m"
    generator = random.Random(seed)
    original, tensors = make()
    for _ in range(300):
        document = copy.deepcopy(original)
        target: Any = document
        while True:
            key = generator.choice(list(target) if isinstance(target, dict) else range(len(target)))
            if isinstance(target[key], (dict, list)) and target[key] and generator.random() < 0.8:
                target = target[key]
                continue
            target[key] = generator.choice(odd)
            break
        read_or_refuse(write_raw(path, document, tensors))
