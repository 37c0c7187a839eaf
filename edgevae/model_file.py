"""The model file: read, write, validate. ``docs/model-file.md`` is its specification.

Reading parses JSON and copies numbers; nothing in the file is executed. Whatever passes ``validate``
is safe to hand to the native engine; whatever does not is refused with one sentence.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from . import _core
from .errors import ModelFileError
from .files import replacing

FORMAT_VERSION = 1
METADATA_KEY = "edgevae"

MAX_SIZE = 4096  # pixels a side of the input
MAX_VECTOR = 65536  # latent and condition numbers
MAX_WINDOW = 64  # kernel, stride, padding
MAX_LAYERS = 1024  # per chain
MAX_ACTIVATION = 1 << 28  # numbers in one layer's output: 1 GiB of float32
MAX_FILE_BYTES = 4 << 30
MAX_NO_READING = 2.0  # outside [-1, 1], where readings lie, but no larger a number than a weight expects
MAX_TERMS = ((1 << 31) - 1) // (255 * 127)  # products that an integer sum may have: int32 holds any such sum

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
}
# How tensors are stored; in an int8 file each layer says which of its tensors are int8.
_STORED: dict[str, tuple[str, ...]] = {"fp32": ("F32",), "fp16": ("F16",), "int8": ("F32", "I8")}
_WRITTEN_BY = "wanted a model file written by 'edgevae export CKPT -o FILE'"

Tensors = dict[str, npt.NDArray[Any]]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Tensors, str]:
    """Read and validate a model file.

    Returns:
        The document (see ``docs/model-file.md``), the tensors as float32 (fp16 storage is widened) or, the
        weights of quantized layers, int8, and the SHA-256 of the file's bytes in hexadecimal.

    Raises:
        ModelFileError: the file is missing, truncated, foreign, or contradicts itself.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        stored = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except Exception as error:  # the library raises its own type; anything else from it means the same here
        raise ModelFileError(_describe_foreign(path, data, error)) from None
    try:
        document = _parse_document(data)
        tensors = _widen(document, stored)
        validate(document, tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    return document, tensors, hashlib.sha256(data).hexdigest()


def write(
    path: str | os.PathLike[str], document: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Validate and write a model file; it appears under its name only when complete.

    Args:
        path: the file; one that exists is replaced.
        document: everything ``docs/model-file.md`` asks for.
        tensors: float32 arrays by name, stored as float16 where ``document["precision"]`` is "fp16"; the
            weights of quantized layers int8.

    Raises:
        ModelFileError: the document or a tensor is not valid, or the file cannot be written.
    """
    path = Path(path)
    try:
        validate(document, tensors)
        data = _serialize(document, tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{path} was not written: {error}") from None
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be written ({error.strerror}), wanted a name in an existing, writable folder."
        ) from None


def validate(document: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check every key, type and bound of the document, every tensor, and that the layers chain.

    Args:
        document: the parsed JSON document.
        tensors: arrays by name, float32, and int8 for the weights of quantized layers.

    Raises:
        ModelFileError: with one sentence that names what was got and what was wanted.
    """
    if not isinstance(document, dict):
        _refuse("the document", document, "an object")
    _check_version(document)
    _keys(document, "the document", _DOCUMENT, _OPTIONAL)
    name = document["name"]
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        _refuse("name", name, "1 to 200 printable characters")
    size = check_input(document)
    latent_dim = _integer(document["latent_dim"], "latent_dim", 1, MAX_VECTOR)
    condition_dim = _integer(document["condition_dim"], "condition_dim", 0, MAX_VECTOR)
    precision = _choice(document["precision"], "precision", tuple(_STORED))
    _check_provenance(document["provenance"])
    head = latent_dim
    if document["posterior"] is not None:
        posterior = _keys(document["posterior"], "posterior", ("scale", "epsilon"))
        _choice(posterior["scale"], "posterior.scale", ("softplus", "logvar"))
        _number(posterior["epsilon"], "posterior.epsilon", 0.0, 1.0)
        head = 2 * latent_dim

    used: set[str] = set()
    conditioned = False
    for chain in ("encoder", "decoder"):
        layers = document[chain]
        if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
            got = f"a list of {len(layers)}" if isinstance(layers, list) else _show(layers)
            raise ModelFileError(f"{chain} is {got}, wanted a list of 1 to {MAX_LAYERS} layers.")
        for index, layer in enumerate(layers):
            used |= _check_layer(layer, f"{chain}[{index}]", tensors, condition_dim, precision == "int8")
            conditioned |= layer["op"] == "concat_condition"
    if condition_dim and not conditioned:
        raise ModelFileError(
            f"condition_dim is {condition_dim} but no layer is concat_condition, wanted condition_dim 0."
        )
    used |= _check_known(document, tensors, size[0])
    for unused in sorted(set(tensors) - used):
        raise ModelFileError(
            f"tensor {_show(unused)} is used by no layer, wanted only tensors that a layer names."
        )
    for tensor in sorted(used):
        if not np.isfinite(tensors[tensor]).all():
            raise ModelFileError(f"tensor {_show(tensor)} holds NaN or infinity, wanted finite numbers.")

    _check_shapes(document, "encoder", tensors, size, (head,))
    _check_shapes(document, "decoder", tensors, (latent_dim,), size)


# --- the bytes ---------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise ModelFileError(f"{path} is a folder, {_WRITTEN_BY}.")
        if not stat.S_ISREG(info.st_mode):
            raise ModelFileError(f"{path} is a device or pipe, {_WRITTEN_BY}.")
        if info.st_size > MAX_FILE_BYTES:
            raise ModelFileError(
                f"{path} has {info.st_size} bytes, wanted a model file of at most {MAX_FILE_BYTES} bytes."
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist, {_WRITTEN_BY}.") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}), {_WRITTEN_BY}.") from None
    except ModelFileError:  # is a ValueError, too
        raise
    except ValueError as error:  # a NUL byte in the name
        raise ModelFileError(f"{str(path)!r} is not a file name ({error}), {_WRITTEN_BY}.") from None
    if not data:
        raise ModelFileError(f"{path} is empty, {_WRITTEN_BY}.")
    return data


def _describe_foreign(path: Path, data: bytes, error: Exception) -> str:
    if data.startswith(b"PK\x03\x04"):
        return (
            f"{path} is a zip archive (a PyTorch checkpoint?), wanted a model file; "
            f"run 'edgevae export {path} -o model.safetensors'."
        )
    if b'"__metadata__"' in data[8:64] or data[8:10] == b'{"':
        wanted = "wanted the whole file: copy or export it again"
        return f"{path} is a truncated or damaged safetensors file ({_one_line(error)}), {wanted}."
    return f"{path} is not a safetensors file ({_one_line(error)}), {_WRITTEN_BY}."


def _parse_document(data: bytes) -> dict[str, Any]:
    """The JSON document of a file that safetensors has accepted."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text = (header.get("__metadata__") or {}).get(METADATA_KEY)
    if text is None:
        raise ModelFileError(f"a safetensors file without the metadata key '{METADATA_KEY}', {_WRITTEN_BY}.")
    try:
        document = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"the metadata key '{METADATA_KEY}' is not JSON ({_one_line(error)}), {_WRITTEN_BY}."
        ) from None
    if not isinstance(document, dict):
        _refuse("the document", document, "an object")
    return document


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ModelFileError(f"the key {_show(twice)} stands twice in one object, wanted it once.")
    return dict(pairs)


def _refuse_constant(constant: str) -> NoReturn:
    raise ModelFileError(f"the document holds {constant}, wanted finite numbers.")


def _widen(document: dict[str, Any], stored: list[tuple[str, dict[str, Any]]]) -> Tensors:
    """The tensors as float32, each stored as ``precision`` promises."""
    _check_version(document)
    precision = _choice(document.get("precision"), "precision", tuple(_STORED))
    wanted = _STORED[precision]
    tensors: Tensors = {}
    for name, view in stored:
        if view["dtype"] not in wanted:
            raise ModelFileError(
                f"tensor {_show(name)} is stored as {view['dtype']}, "
                f"wanted {' or '.join(wanted)} ({precision})."
            )
        if 0 in view["shape"]:
            raise ModelFileError(f"tensor {_show(name)} is empty, wanted at least one number.")
        array = np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"])
        tensors[name] = np.ascontiguousarray(array, np.int8 if view["dtype"] == "I8" else np.float32)
    return tensors


def _serialize(document: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    try:
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"the document is not JSON ({_one_line(error)}), wanted finite numbers and text."
        ) from None
    dtype = _DTYPES[_STORED[document["precision"]][0]]
    limit = float(np.finfo(dtype).max)
    stored = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.int8:
            stored[name] = np.ascontiguousarray(tensor)
            continue
        largest = float(np.abs(tensor).max(initial=0.0))
        if largest > limit:
            raise ModelFileError(
                f"tensor {_show(name)} reaches {largest:.6g}, more than float16 can hold ({limit:.0f}), "
                "wanted precision 'fp32' for this model."
            )
        stored[name] = np.ascontiguousarray(tensor, dtype)
    return safetensors.numpy.save(stored, {METADATA_KEY: text})


# --- the document ------------------------------------------------------------------------------

_DOCUMENT = (
    "format_version",
    "name",
    "input",
    "latent_dim",
    "condition_dim",
    "posterior",
    "color",
    "depth",
    "precision",
    "encoder",
    "decoder",
    "provenance",
)
_OPTIONAL = ("errors", "novelty")
PERCENTILES = 101  # 0 to 100


def known_tensors(document: Mapping[str, Any]) -> list[str]:
    """The tensors of a valid document that belong to no layer: those of ``errors`` and ``novelty``."""
    novelty = document.get("novelty") or {}
    return [name for name in (document.get("errors"), *novelty.values()) if name is not None]


def _check_known(
    document: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], channels: int
) -> set[str]:
    """Check what a model knows of its limits; return the names of its tensors."""
    used = set()
    if "errors" in document:
        used.add(_check_percentiles(document["errors"], "errors", tensors, 3 if channels == 4 else 1))
    if "novelty" in document:
        novelty = _keys(document["novelty"], "novelty", ("latents", "percentiles"))
        latents = _check_tensor(novelty["latents"], "novelty.latents", tensors, 2, np.float32)
        dim = document["latent_dim"]
        if tensors[latents].shape[1] != dim:
            raise ModelFileError(
                f"novelty.latents has the shape {tensors[latents].shape}, wanted (n, {dim}), n latents."
            )
        rows = 2 if channels == 4 else 1
        where = "novelty.percentiles"
        used |= {latents, _check_percentiles(novelty["percentiles"], where, tensors, rows)}
    return used


def _check_percentiles(name: object, where: str, tensors: Mapping[str, npt.NDArray[Any]], rows: int) -> str:
    found = _check_tensor(name, where, tensors, 2, np.float32)
    percentiles = tensors[found]
    if percentiles.shape != (rows, PERCENTILES):
        raise ModelFileError(f"{where} has the shape {percentiles.shape}, wanted {(rows, PERCENTILES)}.")
    if not (percentiles[:, 0] >= 0).all() or not (np.diff(percentiles, axis=1) >= 0).all():
        raise ModelFileError(f"{where} falls or is negative, wanted percentiles from 0 to 100.")
    return found


def _check_version(document: Mapping[str, Any]) -> None:
    version = document.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise ModelFileError(
            f"format_version is {_show(version)}, this edgevae reads {FORMAT_VERSION}; "
            "upgrade edgevae: pip install --upgrade edgevae."
        )
    _integer(version, "format_version", 1, FORMAT_VERSION)


def check_input(document: Mapping[str, Any]) -> tuple[int, int, int]:
    """Check input, color and depth together; return (channels, height, width).

    Raises:
        ModelFileError: with one sentence that names what was got and what was wanted.
    """
    size = _keys(document["input"], "input", ("channels", "height", "width"))
    channels = size["channels"]
    if type(channels) is not int or channels not in (1, 3, 4):
        _refuse("input.channels", channels, "1 (grey), 3 (colour) or 4 (colour and depth)")
    height = _integer(size["height"], "input.height", 1, MAX_SIZE)
    width = _integer(size["width"], "input.width", 1, MAX_SIZE)

    color = _keys(document["color"], "color", ("encoding",))
    _choice(color["encoding"], "color.encoding", ("fixed", "minmax"))

    if (document["depth"] is not None) != (channels == 4):
        wanted = "a depth encoding for 4 channels" if channels == 4 else f"null for {channels} channels"
        _refuse("depth", document["depth"], wanted)
    if document["depth"] is not None:
        wanted_keys = ("encoding", "min_m", "max_m", "no_reading")
        depth = _keys(document["depth"], "depth", wanted_keys, optional=("fill",))
        encoding = _choice(depth["encoding"], "depth.encoding", ("linear", "inverse", "log", "minmax"))
        # "minmax" knows no metres; elsewhere 0 m would mean "no reading", so the range starts above it.
        low, high = (0.0, 0.0) if encoding == "minmax" else (1e-6, 1e6)
        min_m = _number(depth["min_m"], "depth.min_m", low, high)
        max_m = _number(depth["max_m"], "depth.max_m", low, high)
        if encoding != "minmax" and np.float32(min_m) >= np.float32(max_m):
            raise ModelFileError(f"depth.min_m is {min_m}, wanted less than depth.max_m, {max_m}.")
        no_reading = _number(depth["no_reading"], "depth.no_reading", -MAX_NO_READING, MAX_NO_READING)
        fill = depth.get("fill", False)
        if not isinstance(fill, bool):
            _refuse("depth.fill", fill, "true or false")
        if fill and (encoding == "minmax" or no_reading >= -1):
            _refuse("depth.fill", fill, "a metric encoding and a no_reading below -1 with it")
    return channels, height, width


def _check_provenance(provenance: object) -> None:
    """Provenance is free, but the keys that ``edgevae info`` prints have the types of the specification."""
    if not isinstance(provenance, dict):
        _refuse("provenance", provenance, "an object")
    data = provenance.get("data", [])
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        _refuse("provenance.data", data, "a list of objects")
    if not isinstance(provenance.get("metrics", {}), dict):
        _refuse("provenance.metrics", provenance["metrics"], "an object")
    for key in ("command", "created"):
        if not isinstance(provenance.get(key, ""), str):
            _refuse(f"provenance.{key}", provenance[key], "text")


# --- the layers --------------------------------------------------------------------------------


def _window(low: int) -> Callable[[Any, str], Any]:
    return lambda value, where: _integer(value, where, low, MAX_WINDOW)


def _padding_mode(value: object, where: str) -> None:
    _choice(value, where, ("zeros", "replicate"))


def _reshape(value: object, where: str) -> None:
    if not isinstance(value, list) or len(value) not in (1, 3):
        _refuse(where, value, "[n] or [c, h, w]")
    for axis, length in enumerate(value):
        _integer(length, f"{where}[{axis}]", 1, MAX_ACTIVATION)


# What each op holds beside "op": a rank for a tensor, a check for anything else.
_LAYERS: dict[str, dict[str, int | Callable[[Any, str], Any]]] = {
    "conv2d": {
        "weight": 4,
        "bias": 1,
        "stride": _window(1),
        "padding": _window(0),
        "padding_mode": _padding_mode,
    },
    "upsample_conv2d": {"weight": 4, "bias": 1, "padding_mode": _padding_mode},
    "conv_transpose2d": {
        "weight": 4,
        "bias": 1,
        "stride": _window(1),
        "padding": _window(0),
        "output_padding": _window(0),
    },
    "linear": {"weight": 2, "bias": 1},
    "max_pool2d": {"kernel": _window(1), "stride": _window(1)},
    "reshape": {"shape": _reshape},
    "concat_condition": {"size": lambda value, where: _integer(value, where, 1, MAX_VECTOR)},
    "activation": {},
}
QUANTIZED_KEYS = ("weight_scale", "input_scale", "input_zero")  # of a layer with int8 weights
_KINDS = ("relu", "leaky_relu", "tanh", "sigmoid", "softplus")


def _check_layer(
    layer: object, where: str, tensors: Mapping[str, npt.NDArray[Any]], condition_dim: int, int8: bool
) -> set[str]:
    """Check one layer, which may be quantized in an int8 file; return the names of the tensors it uses."""
    if not isinstance(layer, dict):
        _refuse(where, layer, "a layer object")
    op = _choice(layer.get("op"), f"{where}.op", tuple(_LAYERS))
    if op == "activation":
        kind = _choice(layer.get("kind"), f"{where}.kind", _KINDS)
        _keys(layer, where, ("op", "kind", "slope") if kind == "leaky_relu" else ("op", "kind"))
        if kind == "leaky_relu":
            _number(layer["slope"], f"{where}.slope", 0.0, 1.0)
        return set()

    fields = _LAYERS[op]
    quantized = int8 and "weight" in fields and "weight_scale" in layer
    integer = quantized and ("input_scale" in layer or "input_zero" in layer)
    more = ("weight_scale",) * quantized + ("input_scale", "input_zero") * integer
    _keys(layer, where, ("op", *fields, *more))
    used = set()
    for key, check in fields.items():
        if isinstance(check, int):
            if layer[key] is not None or key == "weight":
                int8_weight = quantized and key == "weight"
                rank = check + (int8_weight and op == "upsample_conv2d")
                dtype = np.int8 if int8_weight else np.float32
                used.add(_check_tensor(layer[key], f"{where}.{key}", tensors, rank, dtype))
        else:
            check(layer[key], f"{where}.{key}")
    if op == "conv_transpose2d" and layer["output_padding"] >= layer["stride"]:
        _refuse(f"{where}.output_padding", layer["output_padding"], f"less than the stride {layer['stride']}")
    if op == "concat_condition" and layer["size"] != condition_dim:
        _refuse(f"{where}.size", layer["size"], f"condition_dim, which is {condition_dim}")
    if quantized:
        return used | _check_quantized(layer, where, tensors, integer)
    if "weight" in fields and fields["weight"] == 4:
        kernel = tensors[layer["weight"]].shape[2:]
        if op == "upsample_conv2d" and kernel != (3, 3):
            raise ModelFileError(f"{where}.weight has kernel {_by(kernel)}, wanted 3x3 for upsample_conv2d.")
        if max(kernel) > MAX_WINDOW:
            raise ModelFileError(f"{where}.weight has kernel {_by(kernel)}, wanted at most {MAX_WINDOW}.")
    return used


def _check_quantized(
    layer: Mapping[str, Any], where: str, tensors: Mapping[str, npt.NDArray[Any]], integer: bool
) -> set[str]:
    """Check weights, scales and zero of a quantized layer; return the names of the scales."""
    op, weight = layer["op"], tensors[layer["weight"]]
    if weight.min() < -127:
        raise ModelFileError(f"{where}.weight holds -128, wanted numbers from -127 to 127.")
    kernel = weight.shape[3:] if op == "upsample_conv2d" else weight.shape[2:]
    if op == "upsample_conv2d" and (weight.shape[0], *kernel) != (4, 2, 2):
        raise ModelFileError(
            f"{where}.weight has the shape {weight.shape}, wanted the phases (4, O, I, 2, 2) in int8."
        )
    if max(kernel, default=1) > MAX_WINDOW:
        raise ModelFileError(f"{where}.weight has kernel {_by(kernel)}, wanted at most {MAX_WINDOW}.")
    if not integer and op not in ("conv2d", "linear"):
        raise ModelFileError(
            f"{where} has no input_scale, wanted one: only conv2d and linear may have int8 weights alone."
        )
    first, second = {"upsample_conv2d": (1, 2), "conv_transpose2d": (1, 0)}.get(op, (0, 1))
    outputs, inputs = weight.shape[first], weight.shape[second]
    scales = {"weight_scale": (4, outputs) if op == "upsample_conv2d" else (outputs,)}
    if integer:
        scales["input_scale"] = (inputs,)
        _integer(layer["input_zero"], f"{where}.input_zero", 0, 255)
        terms = inputs * math.prod(kernel)
        if terms > MAX_TERMS:
            raise ModelFileError(
                f"{where} sums {terms} products of 8-bit numbers, wanted at most {MAX_TERMS} for an int32."
            )
    for key, shape in scales.items():
        _check_tensor(layer[key], f"{where}.{key}", tensors, len(shape), np.float32)
        scale = tensors[layer[key]]
        if scale.shape != shape:
            raise ModelFileError(f"{where}.{key} has the shape {scale.shape}, wanted {shape}.")
        # 1 / scale has to be a number, too.
        if not (scale >= np.finfo(np.float32).tiny).all():
            raise ModelFileError(f"{where}.{key} holds {scale.min():g}, wanted positive numbers.")
    return {layer[key] for key in scales}


def _check_tensor(
    name: object, where: str, tensors: Mapping[str, npt.NDArray[Any]], rank: int, dtype: type[Any]
) -> str:
    if not isinstance(name, str) or not name.isprintable():
        _refuse(where, name, "the name of a tensor, printable")
    if name not in tensors:
        raise ModelFileError(f"{where} names the tensor {_show(name)}, which is not in the file.")
    tensor = tensors[name]
    if not isinstance(tensor, np.ndarray) or tensor.dtype != dtype:
        got = tensor.dtype if isinstance(tensor, np.ndarray) else type(tensor).__name__
        raise ModelFileError(f"tensor {_show(name)} ({where}) is {got}, wanted {dtype.__name__}.")
    if tensor.ndim != rank or tensor.size == 0:
        raise ModelFileError(
            f"tensor {_show(name)} ({where}) has the shape {tensor.shape}, wanted {rank} dimensions."
        )
    return name


def _check_shapes(
    document: Mapping[str, Any],
    chain: str,
    tensors: Mapping[str, npt.NDArray[Any]],
    start: tuple[int, ...],
    wanted: tuple[int, ...],
) -> None:
    """Check that each layer takes what the one before it gives, and that the chain ends in ``wanted``."""
    try:
        shapes = layer_shapes(document[chain], tensors, start, document["condition_dim"])
    except ValueError as error:
        raise ModelFileError(f"{chain}: {_one_line(error)}.") from None
    for index, shape in enumerate(shapes):
        if math.prod(shape) > MAX_ACTIVATION:
            raise ModelFileError(
                f"{chain}[{index}] gives {_by(shape)} numbers, wanted at most {MAX_ACTIVATION} in a layer."
            )
    if tuple(shapes[-1]) != wanted:
        why = {
            "encoder": "latent_dim" if document["posterior"] is None else "2 * latent_dim",
            "decoder": "channels, height and width of the input",
        }[chain]
        raise ModelFileError(f"{chain} ends in {_by(shapes[-1])}, wanted {_by(wanted)} ({why}).")


def layer_shapes(
    layers: list[dict[str, Any]],
    tensors: Mapping[str, npt.NDArray[Any]],
    start: tuple[int, ...],
    condition_dim: int,
) -> list[list[int]]:
    """What each layer gives, (n) or (c, h, w), for an input of shape ``start``.

    Raises:
        ValueError: a layer does not take what the one before it gives.
    """
    # Shapes do not depend on storage: quantized weights count as the float ones they were made from.
    plain: list[dict[str, Any]] = []
    named = dict(tensors)
    for layer in layers:
        if "weight_scale" in layer:
            shape = tensors[layer["weight"]].shape
            if layer["op"] == "upsample_conv2d":
                shape = (*shape[1:3], 3, 3)
            name = f"\n{len(plain)}"  # no tensor of a file has this name: it is not printable
            named[name] = np.broadcast_to(np.float32(0), shape)
            layer = {key: value for key, value in layer.items() if key not in QUANTIZED_KEYS}
            layer["weight"] = name
        plain.append(layer)
    return _core.infer_shapes(plain, named, start, condition_dim)


# --- checks of one value -----------------------------------------------------------------------


def _refuse(where: str, value: object, wanted: str) -> NoReturn:
    raise ModelFileError(f"{where} is {_show(value)}, wanted {wanted}.")


def _keys(
    value: object, where: str, wanted: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, value, f"an object with {', '.join(wanted)}")
    for key in wanted:
        if key not in value:
            raise ModelFileError(f"{where} has no key '{key}', wanted {', '.join(wanted)}.")
    for key in value:
        if key not in wanted + optional:
            raise ModelFileError(f"{where} has the unknown key {_show(key)}, wanted {', '.join(wanted)}.")
    return value


def _integer(value: object, where: str, low: int, high: int) -> int:
    # bool is a subclass of int, and true is not a size.
    if type(value) is not int or not low <= value <= high:
        _refuse(where, value, str(low) if low == high else f"an integer from {low} to {high}")
    return value


def _number(value: object, where: str, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        _refuse(where, value, f"{low:g}" if low == high else f"a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]


def _choice(value: object, where: str, options: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in options:
        _refuse(where, value, "one of " + ", ".join(options))
    return value


def _show(value: object) -> str:
    """A short, printable form of a value that came out of a file."""
    text = "null" if value is None else ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _by(shape: tuple[int, ...] | list[int]) -> str:
    return "x".join(str(length) for length in shape)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
