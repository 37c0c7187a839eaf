"""One engine in a process of its own: it starts, answers, and times single calls, as its parent asks.

Run by its path, with two pipes: a line of JSON in, a line of JSON out. Nothing is imported before an engine
asks for it, and of edgevae only what the engine needs, so that start-up and memory are the engine's own.
Between its turns a worker waits for its pipe. ``open_engine`` serves the benches, too, in their own process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[..., Any]  # float32 arrays with the whole batch, (x, *condition), to one array
Ready = Callable[[str], Call]  # the name of an operation to its call

# A turn begins with calls that do not count, this long and at least one: the clock of the processor and its
# caches are then as in a loop that runs, not as the other engines left them.
RUN_UP_NS = 15_000_000


def open_engine(engine: str, folder: Path, threads: int, precision: str) -> Ready:
    """An engine with what ``engines.convert`` wrote into ``folder``, at its best documented setting."""
    return _OPENERS[engine](folder, threads, precision)


def _edgevae(folder: Path, threads: int, precision: str) -> Ready:
    import edgevae

    # None: the weights as the file has them; fp16 and int8 files say so themselves.
    model = edgevae.load(
        folder / "model.safetensors",
        device="cpu",
        threads=threads,
        precision="fp16" if precision == "fp16" else None,
    )
    calls: dict[str, Callable[..., Any]] = {
        "encode": model.encode_tensor,
        "posterior": model.encode_heads,
        "decode": model.decode_tensor,
    }
    return lambda operation: calls.get(operation, model.pack)


def _torch(folder: Path, threads: int, precision: str) -> Ready:
    import torch

    torch.set_num_threads(threads)

    def ready(operation: str) -> Call:
        module = torch.load(folder / f"{operation}.pt", weights_only=False)
        # On AVX-512 with one thread, decoding is 1.2 to 1.4 times as fast as with contiguous weights, and
        # encoding as fast.
        return _torch_call(module.to(memory_format=torch.channels_last))

    return ready


def _torchscript(folder: Path, threads: int, precision: str) -> Ready:
    import warnings

    import torch

    torch.set_num_threads(threads)

    def ready(operation: str) -> Call:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            frozen = torch.jit.load(str(folder / f"{operation}.ts"))  # type: ignore[no-untyped-call]
            return _torch_call(torch.jit.optimize_for_inference(frozen))

    return ready


def _compile(folder: Path, threads: int, precision: str) -> Ready:
    import torch
    import torch._inductor.config

    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True

    def ready(operation: str) -> Call:
        return _torch_call(torch.compile(torch.load(folder / f"{operation}.pt", weights_only=False)))

    return ready


def _torch_call(module: Any) -> Call:
    import torch

    def call(*arrays: Any) -> Any:
        with torch.inference_mode():
            return module(*[torch.from_numpy(array) for array in arrays]).numpy()

    return call


def _onnxruntime(folder: Path, threads: int, precision: str) -> Ready:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # at the end of a call, not in it
    options.log_severity_level = 3

    def ready(operation: str) -> Call:
        path = str(folder / f"{operation}.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]

    return ready


def _openvino(folder: Path, threads: int, precision: str) -> Ready:
    import openvino

    core = openvino.Core()
    setting = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # of the arithmetic; the file says how weights are stored
    }

    def ready(operation: str) -> Call:
        model = core.compile_model(str(folder / f"{operation}.xml"), "CPU", setting)
        request = model.create_infer_request()
        return lambda *arrays: request.infer(list(arrays), share_inputs=True)[0]

    return ready


def _ncnn(folder: Path, threads: int, precision: str) -> Ready:
    import ncnn
    import numpy as np

    def ready(operation: str) -> Call:
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_storage = net.opt.use_fp16_packed = precision == "fp16"
        net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = net.opt.use_bf16_packed = False
        for load, suffix in ((net.load_param, "param"), (net.load_model, "bin")):
            if load(str(folder / f"{operation}.ncnn.{suffix}")):
                raise RuntimeError(f"ncnn cannot load {operation}.ncnn.{suffix}")
        names, (output,) = net.input_names(), net.output_names()

        def call(*arrays: Any) -> Any:
            answers = []
            for sample in zip(*arrays, strict=True):  # ncnn knows no batches
                extractor = net.create_extractor()
                for name, array in zip(names, sample, strict=True):
                    extractor.input(name, ncnn.Mat(array))
                code, answer = extractor.extract(output)
                if code:
                    raise RuntimeError(f"ncnn's extract returned {code}")
                answers.append(np.array(answer))
            return np.stack(answers)

        return call

    return ready


def _opencv(folder: Path, threads: int, precision: str) -> Ready:
    """What one writes to pack a frame without edgevae: area average, nearest depth, encoding, CHW."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)  # packing runs beside a camera; edgevae packs on one thread, too
    size = json.loads((folder / "input.json").read_text())
    depth = size["depth"]
    wanted = (size["width"], size["height"])

    def pack(rgb: Any, readings: Any) -> Any:
        out = np.empty((size["channels"], size["height"], size["width"]), np.float32)
        color = cv2.resize(rgb, wanted, interpolation=cv2.INTER_AREA)
        out[:3] = color.transpose(2, 0, 1) * np.float32(1 / 127.5) - np.float32(1)
        if depth is not None:
            lo, hi = depth["min_m"], depth["max_m"]
            metres = cv2.resize(readings, wanted, interpolation=cv2.INTER_NEAREST_EXACT) * np.float32(0.001)
            d = np.clip(metres, np.float32(lo), np.float32(hi))
            if depth["encoding"] == "linear":
                t = (d - np.float32(lo)) * np.float32(1 / (hi - lo))
            elif depth["encoding"] == "inverse":
                t = (1 / d - np.float32(1 / hi)) * np.float32(1 / (1 / lo - 1 / hi))
            else:
                t = np.log(d * np.float32(1 / lo)) * np.float32(1 / np.log(hi / lo))
            out[3] = np.where(metres > 0, 2 * t - 1, np.float32(depth["no_reading"]))
        return out

    return lambda operation: pack


_OPENERS: dict[str, Callable[[Path, int, str], Ready]] = {
    "edgevae": _edgevae,
    "torch": _torch,
    "torchscript": _torchscript,
    "compile": _compile,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "opencv": _opencv,
}


class _Worker:
    """The engine of this process, and the parent's questions to it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._calls: dict[str, Call] = {}
        self._first: dict[str, list[Any]] = {}  # the batch that is timed, by operation

    def start(self, operations: list[str]) -> dict[str, Any]:
        """Open the engine and get ``operations`` ready; one call of the first ends the start-up."""
        job = self._job
        self._ready = open_engine(job["engine"], Path(job["folder"]), job["threads"], job["precision"])
        for operation in operations:
            self._prepare(operation)
        for operation in operations[:1]:
            self._calls[operation](*self._first[operation])
        # CLOCK_MONOTONIC is one clock for the parent and its children.
        return {"startup_s": (time.monotonic_ns() - job["begin_ns"]) / 1e9, "peak_mb": _peak_mb()}

    def answer(self, operation: str, path: str) -> dict[str, Any]:
        """What the engine makes of all batches of an operation, into ``path`` (.npy)."""
        import numpy as np

        self._prepare(operation)
        call, batch = self._calls[operation], self._job["batch"]
        if operation.startswith("pack"):
            answers = call(*self._first[operation])
        else:
            arrays = self._load(operation)
            parts = [
                call(*[array[start : start + batch] for array in arrays])
                for start in range(0, len(arrays[0]), batch)
            ]
            answers = np.concatenate(parts)
        np.save(path, answers)
        return {}

    def time(self, operation: str) -> dict[str, Any]:
        call, arrays = self._calls[operation], self._first[operation]
        begin = time.perf_counter_ns()
        while time.perf_counter_ns() - begin < RUN_UP_NS:
            call(*arrays)
        begin = time.perf_counter_ns()
        call(*arrays)
        return {"ns": time.perf_counter_ns() - begin}

    def _prepare(self, operation: str) -> None:
        if operation not in self._calls:
            self._calls[operation] = self._ready(operation)
            arrays = self._load(operation)
            if not operation.startswith("pack"):
                arrays = [array[: self._job["batch"]] for array in arrays]
            self._first[operation] = arrays

    def _load(self, operation: str) -> list[Any]:
        import numpy as np

        folder = Path(self._job["inputs"])
        return [np.load(path) for path in sorted(folder.glob(f"{operation}.*.npy"))]


def _peak_mb() -> float | None:
    """This process's largest resident memory; None where the system does not tell.

    Not ``ru_maxrss``: Linux counts the parent's memory in it, from before this program was loaded.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return None


def _die_with_parent(parent: int) -> None:
    """Even in the middle of a call, when the end of the pipe would not be seen."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(1)


def main(commands_fd: int, replies_fd: int) -> None:
    with open(commands_fd, "rb") as commands, open(replies_fd, "wb", buffering=0) as replies:
        job = json.loads(commands.readline())
        _die_with_parent(job["parent"])
        sys.path[:] = job["sys_path"]  # what the parent imports, and not the neighbours of this file
        worker = _Worker(job)
        while line := commands.readline():
            command = json.loads(line)
            try:
                reply = getattr(worker, command.pop("do"))(**command)
            except Exception as error:
                if os.environ.get("EDGEVAE_BENCH_DEBUG"):
                    raise
                reply = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
            replies.write(json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
