"""PyTorch models to files that run without it: the native model file, TorchScript, ONNX.

Every export reads the written file back, runs it beside the PyTorch module in eval mode on frames, and lets
the file appear under its name only when both agree. torch is imported by the functions, not by the module.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import model_file
from .errors import ExportError, ModelFileError
from .files import replacing
from .frame import Frame
from .preprocess import FloatArray, InputSpec, pack

if TYPE_CHECKING:
    import torch

    from .torch_model import TorchModel

FORMATS = ("native", "torchscript", "onnx")
FRAMES = 8  # how many frames the parity check takes


@dataclass(frozen=True)
class Limits:
    """The largest errors that pass: ``latent`` relative in the 2-norm, ``decoded`` absolute in [-1, 1]."""

    latent: float
    decoded: float


LIMITS = {
    # float32 rounds at 6e-8; a dozen layers, sums of thousands of terms in another order: 1e-6 to 1e-5.
    "fp32": Limits(latent=1e-4, decoded=1e-3),
    # float16 storage moves each weight by up to 2^-11 = 5e-4 of itself, independently: about 2e-4 of a
    # layer's output in the 2-norm, 5e-4 after six layers. A factor of ten is left for layers that amplify. A
    # decoded value may move by two steps of an 8-bit picture, 2 * 2/255. This is the loss of rounding alone:
    # that the engine is exact is checked apart, against the rounded weights and within the limits of fp32.
    "fp16": Limits(latent=5e-3, decoded=1.6e-2),
}


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how far it is from the PyTorch module.

    Attributes:
        path: the file; for ONNX the encoder.
        latent_error: largest relative error of a frame's latent, ``|a - b| / |b|`` in the 2-norm.
        decoded_error: largest absolute error of a decoded value in [-1, 1].
        bytes: size of all files together.
        files: every file written.
        frames: how many frames were compared.
    """

    path: str
    latent_error: float
    decoded_error: float
    bytes: int
    files: tuple[str, ...]
    frames: int

    def __str__(self) -> str:
        return (
            f"{', '.join(self.files)}: {self.bytes / 1e6:.1f} MB; largest error against PyTorch on "
            f"{self.frames} frames: latent {self.latent_error:.1e} (relative), "
            f"decoded {self.decoded_error:.1e} (absolute)"
        )


def export(
    ckpt: str | os.PathLike[str],
    format: str,
    output: str | os.PathLike[str],
    precision: str = "fp32",
    frames: str | Iterable[Frame] | None = None,
) -> ExportReport:
    """What ``edgevae export`` does: one checkpoint to one format.

    Args:
        ckpt: a checkpoint of ``python -m training fit``.
        format: one of ``FORMATS``.
        output: the file to write; for ONNX ``NAME.onnx`` stands for two, see :func:`to_onnx`.
        precision: how the native format stores numbers, "fp32" or "fp16".
        frames: a source (``tum:DIR``, a folder, ...) or frames for the parity check; None for synthetic ones.

    Raises:
        ExportError: an argument is unknown, the model cannot be expressed, or the parity check failed.
        EdgevaeError: the checkpoint or the source cannot be read.
    """
    if format not in FORMATS:
        raise ExportError(f"format is {format!r}, wanted one of {', '.join(FORMATS)}.")
    if format == "native":
        return to_native(ckpt, output, precision=precision, frames=frames)
    if precision != "fp32":
        raise ExportError(f"precision is {precision!r}, wanted 'fp32' for {format}; only native stores fp16.")
    return (to_torchscript if format == "torchscript" else to_onnx)(ckpt, output, frames=frames)


def to_native(
    module_or_ckpt: Any,
    path: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    frames: str | Iterable[Frame] | FloatArray | None = None,
) -> ExportReport:
    """Write the model file that ``edgevae.load`` reads (``docs/model-file.md``), BatchNorm folded.

    Args:
        module_or_ckpt: a module with ``encoder`` and ``decoder`` (``nn.Sequential``; ``torch_layers.Chain``
            in a conditional model) and ``document()``, as ``training.models.build`` gives, or the path of a
            checkpoint.
        path: the file to write; one that exists is replaced.
        precision: "fp32" or "fp16" storage.
        frames: frames for the parity check: a source URI, frames, or packed float32 (N, C, h, w);
            None for synthetic ones.

    Raises:
        ExportError: a layer has no counterpart in the model file, or the parity check failed.
    """
    if precision not in LIMITS:
        raise ExportError(f"precision is {precision!r}, wanted {' or '.join(map(repr, LIMITS))}.")
    path = _output(path)
    reference = _reference(module_or_ckpt)
    from . import torch_layers, torch_model
    from .model import load

    x = _packed(reference, frames)
    example = [_tensor(array[:1]) for array in (x, *_condition(reference, len(x)))]
    encoder, tensors = torch_layers.walk("encoder", reference.encoder, *example)
    decoder, more = torch_layers.walk("decoder", reference.decoder, reference.encode(*example), *example[1:])
    document = {
        "format_version": model_file.FORMAT_VERSION,
        **reference.document,
        "precision": precision,
        "encoder": encoder,
        "decoder": decoder,
    }
    with _written([path]) as (temporary,):
        try:
            model_file.write(temporary, document, {**tensors, **more})
            model = load(temporary, device="cpu")
        except ModelFileError as error:
            raise ExportError(str(error).replace(str(temporary), str(path))) from None
        if precision != "fp32":
            # The engine against the numbers it was given; below, those numbers against the original ones.
            _compare(torch_model.load(temporary), model.encode_heads, model.decode_tensor, x, LIMITS["fp32"])
        errors = _compare(reference, model.encode_heads, model.decode_tensor, x, LIMITS[precision])
    return _report([path], errors, x)


def to_torchscript(
    module_or_ckpt: Any,
    path: str | os.PathLike[str],
    *,
    frames: str | Iterable[Frame] | FloatArray | None = None,
) -> ExportReport:
    """Write one frozen ScriptModule with two methods, for ``torch.jit.load`` without this package.

    ``encode(x)``: float32 (N, C, h, w) in [-1, 1] to the posterior mean (N, latent_dim).
    ``decode(z)``: (N, latent_dim) to (N, C, h, w). A conditional model's take its condition (N, k), too:
    ``encode(x, condition)``, ``decode(z, condition)``. The model's document (sizes, depth encoding,
    provenance) travels as the extra file ``edgevae.json``.

    Args and errors are those of :func:`to_native`, without ``precision``.
    """
    path = _output(path)
    reference = _reference(module_or_ckpt)
    import torch

    x = _packed(reference, frames)
    with _written([path]) as (temporary,):
        frozen = torchscript(reference, *(_tensor(a[:1]) for a in (x, *_condition(reference, len(x)))))
        document = json.dumps(reference.document)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(frozen, str(temporary), _extra_files={"edgevae.json": document})
            written = torch.jit.load(str(temporary))  # type: ignore[no-untyped-call]
        errors = _compare(
            reference,
            lambda *arrays: _array(written.encode(*map(_tensor, arrays))),
            lambda *arrays: _array(written.decode(*map(_tensor, arrays))),
            x,
            LIMITS["fp32"],
        )
    return _report([path], errors, x)


def torchscript(model: TorchModel, *example: torch.Tensor) -> torch.jit.ScriptModule:
    """``model`` traced and frozen, with the methods ``encode`` and ``decode``.

    Args:
        model: the networks.
        example: an input of the encoder, (N, C, h, w), and the condition (N, k) of a conditional model.
    """
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is announced as ending, and is what many C++ programs load all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        inputs = {"encode": example, "decode": (model.encode(*example), *example[1:])}
        traced = torch.jit.trace_module(model, inputs)  # type: ignore[no-untyped-call]
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced, preserved_attrs=["encode", "decode"])
    return frozen


def to_onnx(
    module_or_ckpt: Any,
    path: str | os.PathLike[str],
    *,
    frames: str | Iterable[Frame] | FloatArray | None = None,
) -> ExportReport:
    """Write two ONNX models, ``NAME.encoder.onnx`` and ``NAME.decoder.onnx`` for ``NAME.onnx``.

    The encoder takes ``x`` float32 (N, C, h, w) in [-1, 1] and gives ``mean`` (N, latent_dim); the decoder
    takes ``z`` (N, latent_dim) and gives ``x``. Of a conditional model both take ``condition`` (N, k) as a
    second input. N is free. Both carry the model's document (sizes, depth
    encoding, provenance) as the metadata property ``edgevae``.

    Args and errors are those of :func:`to_native`, without ``precision``.
    """
    path = _output(path)
    stem = path.with_suffix("") if path.suffix == ".onnx" else path
    files = [stem.with_name(f"{stem.name}.{half}.onnx") for half in ("encoder", "decoder")]
    _need("onnx", "onnxscript", "onnxruntime")
    reference = _reference(module_or_ckpt)
    from .torch_model import Encode

    onnxruntime = importlib.import_module("onnxruntime")

    x = _packed(reference, frames)
    # Two samples: a batch of one would be taken for a constant.
    example, *condition = (
        _tensor(np.resize(array, (2, *array.shape[1:]))) for array in (x, *_condition(reference, len(x)))
    )
    with _written(files) as temporaries:
        _write_onnx(
            Encode(reference), (example, *condition), ("x", "mean"), temporaries[0], reference.document
        )
        z = reference.encode(example, *condition)
        _write_onnx(reference.decoder, (z, *condition), ("z", "x"), temporaries[1], reference.document)
        encoder, decoder = (
            onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            for file in temporaries
        )
        errors = _compare(
            reference,
            lambda *arrays: encoder.run(None, dict(zip(("x", "condition"), arrays, strict=False)))[0],
            lambda *arrays: decoder.run(None, dict(zip(("z", "condition"), arrays, strict=False)))[0],
            x,
            LIMITS["fp32"],
        )
    return _report(files, errors, x)


def _write_onnx(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    names: tuple[str, str],
    path: Path,
    document: dict[str, Any],
) -> None:
    """One half, with the inputs ``names[0]`` and, where ``example`` has a second tensor, "condition"."""
    import torch

    # The exporter warns of its own insides, and of packages that it could do without.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                verbose=False,
                input_names=[names[0], "condition"][: len(example)],
                output_names=[names[1]],
                dynamic_shapes=tuple({0: torch.export.Dim("N")} for _ in example),
            )
    except Exception as error:  # the exporter has a dozen types of its own
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"the model cannot be expressed in ONNX: {reason}") from error
    finally:
        logger.setLevel(level)
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = model_file.METADATA_KEY, json.dumps(document)
    path.write_bytes(proto.SerializeToString())


# --- what every format shares ------------------------------------------------------------------


def _need(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise ExportError(
                f"export needs {package}, which is not installed; run \"pip install 'edgevae[export]'\"."
            ) from None


def _output(path: str | os.PathLike[str]) -> Path:
    """``path``, refused before any work where nothing can be written."""
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"{path} is a directory, wanted the name of the file to write.")
    if not os.access(path.parent, os.W_OK):
        raise ExportError(f"{path.parent} is not a folder that can be written, wanted an existing one.")
    return path


def _reference(module_or_ckpt: Any) -> TorchModel:
    """The module to export, as a frozen copy: the caller's own keeps its mode, device and dtype."""
    _need("torch")
    from torch import nn

    from .torch_model import TorchModel

    if isinstance(module_or_ckpt, (str, os.PathLike)):
        try:
            checkpoint = importlib.import_module("training.checkpoint")
        except ModuleNotFoundError as error:
            if error.name not in ("training", "training.checkpoint"):
                raise
            raise ExportError(
                "reading a checkpoint needs the package 'training' of edgevae's source tree; "
                "run 'python -m edgevae export ...' there."
            ) from None
        module_or_ckpt = checkpoint.load(module_or_ckpt)
    encoder, decoder = (getattr(module_or_ckpt, half, None) for half in ("encoder", "decoder"))
    document = getattr(module_or_ckpt, "document", None)
    if not isinstance(encoder, nn.Module) or not isinstance(decoder, nn.Module) or not callable(document):
        raise ExportError(
            f"got a {type(module_or_ckpt).__name__}, wanted the path of a checkpoint or a module with "
            ".encoder, .decoder and .document(), as training.models.build gives."
        )
    described = document()
    for key in ("input", "latent_dim", "condition_dim", "color", "depth"):
        if key not in described:
            raise ExportError(
                f"document() has no key '{key}', wanted all of docs/model-file.md but the layers."
            )
    if described["condition_dim"] and nn.Sequential in (type(encoder), type(decoder)):
        raise ExportError(
            "a half of this conditional model is an nn.Sequential, which takes no condition; wanted "
            "edgevae.torch_layers.Chain with a ConcatCondition."
        )
    return TorchModel(described, copy.deepcopy(encoder), copy.deepcopy(decoder))


def _condition(model: TorchModel, count: int) -> list[FloatArray]:
    """Conditions for the parity check, float32 (count, k), the classes in turn; nothing without any."""
    size = int(model.document["condition_dim"])
    if not size:
        return []
    condition = np.zeros((count, size), np.float32)
    condition[np.arange(count), np.arange(count) % size] = 1
    return [condition]


def _packed(model: TorchModel, frames: str | Iterable[Frame] | FloatArray | None) -> FloatArray:
    """Frames for the parity check as float32 (N, C, h, w)."""
    spec = InputSpec.from_document(model.document)
    shape = (spec.channels, spec.height, spec.width)
    if isinstance(frames, np.ndarray):
        if frames.shape[1:] != shape or len(frames) == 0:
            raise ExportError(
                f"frames has the shape {frames.shape}, wanted (N, {', '.join(map(str, shape))})."
            )
        return np.ascontiguousarray(frames[:FRAMES], np.float32)
    packed = [
        pack(frame.rgb, frame.depth, spec, depth_scale=frame.depth_scale)
        for frame in itertools.islice(_frames(frames), FRAMES)
    ]
    if not packed:
        raise ExportError(f"{frames} has no frames, wanted at least one for the parity check.")
    return np.stack(packed)


def _frames(frames: str | Iterable[Frame] | None) -> Iterator[Frame]:
    from .sources import open_source

    if frames is None:
        # One frame of each of several drives: neighbours in one drive look alike.
        for seed in range(FRAMES):
            with open_source(f"synthetic:{seed}") as source:
                yield from itertools.islice(source, 1)
    elif isinstance(frames, str):
        with open_source(frames) as source:
            yield from source
    else:
        yield from frames


def _compare(
    reference: TorchModel,
    encode: Callable[..., FloatArray],
    decode: Callable[..., FloatArray],
    x: FloatArray,
    limits: Limits,
) -> tuple[float, float]:
    """Run both on ``x``, one frame at a time and two at once; return the errors or refuse.

    ``encode`` gives the means (N, latent_dim), or the whole head with the raw scales behind them.
    Latents of the frames and others drawn from the prior are decoded. A conditional model's take the
    condition as a second argument.
    """
    dim = reference.latent_dim
    generator = np.random.default_rng(0)
    latent_error = decoded_error = 0.0
    conditions = _condition(reference, len(x))
    for rows in [*(slice(i, i + 1) for i in range(len(x))), slice(0, 2)]:
        batch, condition = x[rows], [array[rows] for array in conditions]
        given = [_tensor(array) for array in condition]
        wanted = _array(reference.encoder(_tensor(batch), *given))
        got = encode(batch, *condition)
        for half in range(got.shape[1] // dim):
            part = slice(half * dim, (half + 1) * dim)
            latent_error = max(latent_error, relative_error(got[:, part], wanted[:, part]))
        for z in (wanted[:, :dim], generator.standard_normal((len(batch), dim))):
            z = np.ascontiguousarray(z, np.float32)
            difference = np.abs(decode(z, *condition) - _array(reference.decode(_tensor(z), *given)))
            decoded_error = max(decoded_error, float(difference.max()))
            if np.isnan(difference).any():
                decoded_error = float("inf")
    if latent_error > limits.latent or decoded_error > limits.decoded:
        raise ExportError(
            f"the export disagrees with PyTorch: latents by {latent_error:.1e} (relative), decoded values "
            f"by {decoded_error:.1e}, wanted at most {limits.latent:.1e} and {limits.decoded:.1e}; "
            "no file was kept."
        )
    return latent_error, decoded_error


def relative_error(got: FloatArray, wanted: FloatArray) -> float:
    """The largest ``|got - wanted| / |wanted|`` of a row; infinite where it is not a number."""
    difference = np.linalg.norm(got.astype(np.float64) - wanted, axis=1)
    error = float(np.max(difference / np.maximum(np.linalg.norm(wanted, axis=1), 1e-30)))
    return error if np.isfinite(error) else float("inf")


@contextlib.contextmanager
def _written(paths: list[Path]) -> Iterator[list[Path]]:
    """Temporary names for ``paths``, which they get when the block ends; none of them if it raises."""
    try:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(replacing(path)) for path in paths]
    except OSError as error:
        raise ExportError(f"{paths[0]} cannot be written: {error.strerror or error}.") from error


def _report(paths: list[Path], errors: tuple[float, float], x: FloatArray) -> ExportReport:
    return ExportReport(
        path=str(paths[0]),
        latent_error=errors[0],
        decoded_error=errors[1],
        bytes=sum(path.stat().st_size for path in paths),
        files=tuple(str(path) for path in paths),
        frames=len(x),
    )


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _array(tensor: torch.Tensor) -> FloatArray:
    result: FloatArray = tensor.detach().numpy()
    return result
