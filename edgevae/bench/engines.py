"""The peers of edgevae, and a model file turned into what each of them runs, in a folder of its own.

An operation ("encode", "posterior", "decode") becomes a file or two under its name; graphs have the batch of
the bench for a constant, as engines document for their best speed. Heavy imports happen inside the functions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import model_file
from ..errors import EdgevaeError
from ..frame import Frame
from ..preprocess import FloatArray, InputSpec
from .processes import Worker

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Job:
    """What a conversion takes.

    Attributes:
        path: the model file, of float numbers.
        spec: what the network takes.
        precision: "fp32", "fp16" or "int8".
        batch, threads: of the bench.
        inputs: the folder of the arrays that the engines are called with.
        parts: the networks in PyTorch, as ``torch_parts.load`` gives; empty where torch is not there.
        examples: for each part the arguments of one call, a batch of them.
        frames: for int8, the frames that models are calibrated on; for fp32 and fp16 empty.
        calibration: for int8, for each part the arguments made of those frames, (N, ...) each.
    """

    path: Path
    spec: InputSpec
    precision: str
    batch: int
    threads: int
    inputs: Path
    parts: Mapping[str, nn.Module]
    examples: Mapping[str, Sequence[FloatArray]]
    frames: Sequence[Frame]
    calibration: Mapping[str, Sequence[FloatArray]]


@dataclass(frozen=True)
class Engine:
    """A peer of edgevae.

    Attributes:
        packages: what it needs: module and package for pip.
        int8: what it needs beside for int8; None where it has no int8.
        fp16: whether it can store weights as fp16 and compute with fp32.
        convert: writes its files into a folder.
    """

    packages: Mapping[str, str]
    convert: Callable[[Job, Path], None]
    fp16: bool = False
    int8: Mapping[str, str] | None = None

    def missing(self, precision: str) -> list[str]:
        """The packages for pip that are not installed."""
        wanted = {**self.packages, **((self.int8 or {}) if precision == "int8" else {})}
        return sorted({pip for module, pip in wanted.items() if importlib.util.find_spec(module) is None})

    def knows(self, precision: str) -> bool:
        return precision == "fp32" or (self.fp16 if precision == "fp16" else self.int8 is not None)


def convert(engine: str, job: Job, folder: Path) -> None:
    """Write what ``engine`` ("edgevae", too) runs into ``folder``.

    Raises:
        EdgevaeError: the engine's own tools refused, named with their last words.
    """
    function = _edgevae if engine == "edgevae" else ENGINES[engine].convert
    try:
        with _quiet(folder / "convert.log"):
            function(job, folder)
    except EdgevaeError:
        raise
    except Exception as error:  # each tool has types of its own
        if engine == "edgevae":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise EdgevaeError(
            f"{engine} cannot take this model ({reason}); leave it out of --against."
        ) from error


def weights_mb(folder: Path, operations: Sequence[str]) -> float:
    """Size of the files that hold the weights, each counted once."""
    operations = [each for each in operations if not (each == "encode" and "posterior" in operations)]
    files = [folder / "model.safetensors"]
    files += [folder / f"{each}{suffix}" for each in operations for suffix in _SUFFIXES]
    return sum(file.stat().st_size for file in files if file.exists()) / 1e6


_SUFFIXES = (".pt", ".ts", ".onnx", ".xml", ".bin", ".ncnn.param", ".ncnn.bin")


def _edgevae(job: Job, folder: Path) -> None:
    target = folder / "model.safetensors"
    if job.precision == "fp32":
        target.symlink_to(job.path.resolve())
    elif job.precision == "fp16":
        document, tensors, _ = model_file.read(job.path)
        model_file.write(target, {**document, "precision": "fp16"}, tensors)
    else:
        from ..quantize import quantize_file

        quantize_file(job.path, target, list(job.frames))


def _torch(job: Job, folder: Path) -> None:
    import torch

    for operation, part in job.parts.items():
        torch.save(part, folder / f"{operation}.pt")


def _compile(job: Job, folder: Path) -> None:
    _torch(job, folder)
    # A first process compiles and fills the cache, so that start-up is what every later start takes.
    with Worker(
        "compile", folder, job.inputs, threads=job.threads, batch=job.batch, precision=job.precision
    ) as first:
        first.start(list(job.parts))
        for operation in job.parts:
            first.answer(operation, folder / "first.npy", batches=1)


def _traced(part: nn.Module, example: Sequence[FloatArray]) -> Any:
    import torch

    from . import torch_parts

    with torch.no_grad():
        return torch.jit.trace(part, torch_parts.tensors(example))  # type: ignore[no-untyped-call]


def _torchscript(job: Job, folder: Path) -> None:
    import torch

    for operation, part in job.parts.items():
        frozen = torch.jit.freeze(_traced(part, job.examples[operation]))
        frozen.save(str(folder / f"{operation}.ts"))


def _onnxruntime(job: Job, folder: Path) -> None:
    import torch

    from . import torch_parts

    for operation, part in job.parts.items():
        target = folder / f"{operation}.onnx"
        example = torch_parts.tensors(job.examples[operation])
        program = torch.onnx.export(part, example, dynamo=True, verbose=False)
        assert program is not None
        target.write_bytes(program.model_proto.SerializeToString())
        if job.precision == "int8":
            _quantize_onnx(target, _batches(job, operation))


def _quantize_onnx(path: Path, batches: Sequence[Sequence[FloatArray]]) -> None:
    """Static quantization, QDQ, per channel, as ONNX Runtime documents it for x86 with VNNI."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [each.name for each in onnx.load(str(path)).graph.input]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        rest: Iterator[Sequence[FloatArray]] = iter(batches)

        def get_next(self) -> dict[str, FloatArray] | None:
            arrays = next(self.rest, None)
            return None if arrays is None else dict(zip(names, arrays, strict=True))

    ready = path.with_suffix(".ready")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(ready),
        str(path),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    ready.unlink()


def _openvino(job: Job, folder: Path) -> None:
    import openvino

    from . import torch_parts

    for operation, part in job.parts.items():
        example = torch_parts.tensors(job.examples[operation])
        model = openvino.convert_model(part, example_input=example, input=[list(x.shape) for x in example])
        if job.precision == "int8":
            import nncf

            batches = _batches(job, operation)
            model = nncf.quantize(
                model,
                nncf.Dataset([list(each) for each in batches]),
                preset=nncf.QuantizationPreset.MIXED,  # what NNCF advises for leaky activations
                subset_size=len(batches),
            )
        path = str(folder / f"{operation}.xml")
        openvino.save_model(model, path, compress_to_fp16=job.precision == "fp16")


def _ncnn(job: Job, folder: Path) -> None:
    import pnnx

    for operation, part in job.parts.items():
        script = folder / f"{operation}.traced.pt"
        sample = [array[:1] for array in job.examples[operation]]  # ncnn knows no batches
        _traced(part, sample).save(str(script))
        shapes = ",".join(f"[{','.join(map(str, array.shape))}]f32" for array in sample)
        kinds = ("pnnx.param", "pnnx.bin", "pnnx.onnx", "ncnn.param", "ncnn.bin")
        files = [f"{kind.replace('.', '')}={operation}.{kind}" for kind in kinds]
        files += [f"pnnxpy={operation}_pnnx.py", f"ncnnpy={operation}_ncnn.py"]
        done = subprocess.run(
            [
                pnnx.EXEC_PATH,
                script.name,
                f"inputshape={shapes}",
                f"fp16={int(job.precision == 'fp16')}",
                *files,
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )
        if done.returncode or not (folder / f"{operation}.ncnn.bin").exists():
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise RuntimeError(f"pnnx ended with {done.returncode}: {words[-1] if words else 'no words'}")
        script.unlink()


def _opencv(job: Job, folder: Path) -> None:
    (folder / "input.json").write_text(json.dumps(asdict(job.spec)))


def _batches(job: Job, operation: str) -> list[list[FloatArray]]:
    """The calibration arguments of a part in whole batches, the last filled up from the first."""
    arrays = job.calibration[operation]
    count = -(-len(arrays[0]) // job.batch)
    filled = [
        np.ascontiguousarray(np.resize(array, (count * job.batch, *array.shape[1:]))) for array in arrays
    ]
    return [list(parts) for parts in zip(*(np.split(array, count) for array in filled), strict=True)]


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Everything that converters print or warn of goes to ``log``, from C++ and other processes, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    # OpenVINO's and NNCF's converters send statistics of their use to their makers, unless this is CI.
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        with open(log, "ab") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


_TORCH = {"torch": "torch"}
_ONNX = {"onnx": "onnx", "onnxscript": "onnxscript"}
ENGINES = {
    "torch": Engine(_TORCH, _torch),
    "torchscript": Engine(_TORCH, _torchscript),
    "compile": Engine(_TORCH, _compile),
    "onnxruntime": Engine({**_TORCH, **_ONNX, "onnxruntime": "onnxruntime"}, _onnxruntime, int8={}),
    "openvino": Engine(
        {**_TORCH, "openvino": "openvino"},
        _openvino,
        fp16=True,
        int8={"nncf": "nncf", "openvino": "openvino"},
    ),
    "ncnn": Engine({**_TORCH, "ncnn": "ncnn", "pnnx": "pnnx"}, _ncnn, fp16=True),
    # Packs frames and nothing else, whatever the precision.
    "opencv": Engine({"cv2": "opencv-python-headless"}, _opencv, fp16=True, int8={}),
}
