"""How fast the native engine is on this machine, beside PyTorch on the same model file.

Engines take turns round by round, so that a busy machine slows all of them alike; their answers are
compared first, each with a float64 run. torch is imported by the functions, not by the module.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import EdgevaeError
from .export import LIMITS, relative_error, torchscript
from .model import Model, load
from .preprocess import FloatArray

NATIVE = "edgevae"
ENGINES = ("torch", "torchscript")
WARM_UP = 3
CAMERA = (480, 640)  # of the frames that are packed

Work = Callable[[], npt.NDArray[Any]]  # one call with the whole batch


@dataclass(frozen=True)
class Timing:
    """One engine at one operation.

    Attributes:
        operation: "encode" (to the mean), "decode", or "pack" (camera frames to network input).
        engine: "edgevae", "torch" or "torchscript".
        median_ms, p99_ms: of one call with the whole batch.
        ratio: time of this engine by that of edgevae, median over the rounds: above 1 is slower than edgevae.
        error: largest difference from a float64 run: for "encode" relative to the latent's 2-norm, for
            "decode" absolute. None without torch, and for "pack".
    """

    operation: str
    engine: str
    median_ms: float
    p99_ms: float
    ratio: float
    error: float | None


@dataclass(frozen=True)
class BenchReport:
    """All timings, and what they were taken with. ``note`` says what was left out, and why."""

    model: str
    path: str
    sha256: str
    isa: str
    threads: int
    batch: int
    rounds: int
    note: str
    timings: tuple[Timing, ...]

    def document(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return asdict(self) | {"timings": [asdict(timing) for timing in self.timings]}

    def __str__(self) -> str:
        plural = "s" if self.threads > 1 else ""
        lines = [
            f"{self.model} ({self.path}), {self.isa}, {self.threads} thread{plural}, batch {self.batch}, "
            f"{self.rounds} rounds",
            f"{'operation':<10}{'engine':<13}{'median ms':>10}{'p99 ms':>10}{'x edgevae':>11}{'error':>10}",
        ]
        for timing in self.timings:
            error = "-" if timing.error is None else f"{timing.error:.1e}"
            lines.append(
                f"{timing.operation:<10}{timing.engine:<13}{timing.median_ms:>10.3f}{timing.p99_ms:>10.3f}"
                f"{timing.ratio:>11.2f}{error:>10}"
            )
        return "\n".join([*lines, self.note] if self.note else lines)


def run_bench(
    model: str | os.PathLike[str] | None = None,
    *,
    against: Sequence[str] | None = None,
    threads: int | None = None,
    rounds: int = 50,
    batch: int = 1,
) -> BenchReport:
    """Time encode, decode and frame packing of a model file.

    Args:
        model: a model file; None for the shipped one.
        against: engines to run beside edgevae, of ``ENGINES``; None for those that are installed.
        threads: of every engine; None for what ``edgevae.load`` takes.
        rounds: timed calls of each engine.
        batch: frames in a call.

    Raises:
        EdgevaeError: an engine is unknown or not installed, or the engines disagree.
        ModelFileError: the model file cannot be read.
    """
    if rounds < 1 or not 1 <= batch <= 1024:
        raise EdgevaeError(
            f"got rounds {rounds} and batch {batch}, wanted rounds from 1, batch from 1 to 1024."
        )
    engines, note = _choose(against)
    native = load(model, threads=threads)
    spec = native.spec
    generator = np.random.default_rng(0)
    size = (spec.input.channels, spec.input.height, spec.input.width)
    inputs = {
        "encode": generator.uniform(-1, 1, (batch, *size)).astype(np.float32),
        "decode": generator.standard_normal((batch, spec.latent_dim), np.float32),
    }
    condition: list[FloatArray] = []  # an argument more for a conditional model
    if spec.condition_dim:
        condition = [generator.standard_normal((batch, spec.condition_dim), np.float32)]
    works: dict[str, dict[str, Work]] = {
        "encode": {NATIVE: lambda: native.encode_tensor(inputs["encode"], *condition)},
        "decode": {NATIVE: lambda: native.decode_tensor(inputs["decode"], *condition)},
        "pack": {NATIVE: _packing(native, batch)},
    }
    timings: list[Timing] = []
    with _torch_threads(native.threads if engines else None):
        exact = _add_torch(works, spec.path, engines, inputs, condition) if engines else {}
        for operation, engines_of in works.items():
            errors = _check(operation, engines_of, exact.get(operation))
            timings += _time(operation, engines_of, rounds, errors)
    return BenchReport(
        model=spec.name,
        path=spec.path,
        sha256=spec.sha256,
        isa=native.isa,
        threads=native.threads,
        batch=batch,
        rounds=rounds,
        note=note,
        timings=tuple(timings),
    )


def _choose(against: Sequence[str] | None) -> tuple[tuple[str, ...], str]:
    """The engines to run, and a note on those that cannot."""
    installed = importlib.util.find_spec("torch") is not None
    if against is None:
        if installed:
            return ENGINES, ""
        return (), "PyTorch is not installed, so edgevae ran alone; pip install 'edgevae[bench]' to compare."
    for engine in against:
        if engine not in ENGINES:
            raise EdgevaeError(f"engine is {engine!r}, wanted {' or '.join(ENGINES)}.")
    if against and not installed:
        raise EdgevaeError(
            f"{against[0]} needs PyTorch, which is not installed; run \"pip install 'edgevae[bench]'\", "
            "or leave --against out."
        )
    return tuple(dict.fromkeys(against)), ""


def _add_torch(
    works: dict[str, dict[str, Work]],
    path: str,
    engines: Sequence[str],
    inputs: dict[str, FloatArray],
    condition: list[FloatArray],
) -> dict[str, npt.NDArray[Any]]:
    """Add PyTorch's engines to ``works``; return what a float64 run answers."""
    import torch

    from . import torch_model

    eager = torch_model.load(path, mean_only=True)
    modules: dict[str, Any] = {"torch": eager}
    if "torchscript" in engines:
        example = (torch.from_numpy(array) for array in (inputs["encode"], *condition))
        modules["torchscript"] = torchscript(eager, *example)
    exact = copy.deepcopy(eager).double()
    answers = {}
    for operation, x in inputs.items():
        for engine in engines:
            works[operation][engine] = _calling(getattr(modules[engine], operation), [x, *condition])
        wide = [array.astype(np.float64) for array in (x, *condition)]
        answers[operation] = _calling(getattr(exact, operation), wide)()
    return answers


def _calling(method: Any, arrays: list[npt.NDArray[Any]]) -> Work:
    """A PyTorch method as a call from numpy to numpy; both ends share memory."""
    import torch

    tensors = [torch.from_numpy(array) for array in arrays]

    def call() -> npt.NDArray[Any]:
        with torch.inference_mode():
            answer: npt.NDArray[Any] = method(*tensors).numpy()
        return answer

    return call


def _packing(model: Model, batch: int) -> Work:
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (batch, *CAMERA, 3), np.uint8)
    depth = generator.integers(0, 8000, (batch, *CAMERA), np.uint16)

    def call() -> npt.NDArray[Any]:
        return np.stack([model.pack(image, reading) for image, reading in zip(rgb, depth, strict=True)])

    return call


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """PyTorch with as many threads as the native engine; None leaves it alone."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(operation: str, works: dict[str, Work], exact: npt.NDArray[Any] | None) -> dict[str, float]:
    """Each engine's error against the float64 run, refused where it is no rounding error."""
    if exact is None:
        return {}
    limit = LIMITS["fp32"].latent if operation == "encode" else LIMITS["fp32"].decoded
    errors = {}
    for engine, work in works.items():
        answer = work()
        if operation == "encode":
            errors[engine] = relative_error(answer, exact)
        else:
            errors[engine] = float(np.abs(answer - exact).max())
        if not errors[engine] <= limit:
            raise EdgevaeError(
                f"{engine} is off by {errors[engine]:.1e} at {operation}, wanted at most {limit:.0e} from a "
                "float64 run; its speed means nothing."
            )
    return errors


def _time(operation: str, works: dict[str, Work], rounds: int, errors: dict[str, float]) -> list[Timing]:
    for work in works.values():
        for _ in range(WARM_UP):
            work()
    elapsed_ms = np.empty((rounds, len(works)))
    order = list(enumerate(works.values()))
    for times in elapsed_ms:
        for engine, work in order:
            begin = time.perf_counter_ns()
            work()
            times[engine] = (time.perf_counter_ns() - begin) / 1e6
        order.append(order.pop(0))  # nobody is always the one after the slow one
    native = elapsed_ms[:, list(works).index(NATIVE)]
    return [
        Timing(
            operation=operation,
            engine=engine,
            median_ms=float(np.median(times)),
            p99_ms=float(np.percentile(times, 99)),
            ratio=float(np.median(times / native)),
            error=errors.get(engine),
        )
        for engine, times in zip(works, elapsed_ms.T, strict=True)
    ]
