"""How fast the native engine is on this machine, beside other engines on the same model file.

Every engine runs in a process of its own and waits there between its turns; the engines take turns round by
round, so that a busy machine slows all of them alike. Their answers are compared first, each with a float64
run. Heavy imports happen inside the functions.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__, zoo
from ..doctor import processor_name
from ..errors import EdgevaeError
from ..export import LIMITS, relative_error
from ..model import Model, load
from ..preprocess import FloatArray, InputSpec
from . import inputs
from .engines import ENGINES, PRECISIONS, Job, compiler, convert, weights_mb
from .processes import Worker
from .random_model import parse_width, write_random_model
from .report import BenchReport, EngineFacts, Timing

__all__ = ["ENGINES", "PRECISIONS", "BenchReport", "EngineFacts", "Timing", "run_bench"]

NATIVE = "edgevae"
DEFAULT = ("torch", "torchscript", "opencv")  # of the installed ones: those that need no long conversion
ALL = "all"
WARM_UP = 3
PAUSE_S = 0.004  # before a turn: threads that spin after the last one go to sleep

# An int8 model loses accuracy by design, and the report says how much; below this it is broken.
MIN_COSINE = 0.9
# OpenCV rounds the average to a whole grey level, 2/255 apart in [-1, 1]; the engine does not.
PACK_LIMIT = 1.02 / 127.5
# And where a depth sample falls on the edge between two pixels, OpenCV's fixed point may take the other one.
MAX_OTHER_SAMPLES = 0.02

Errors = dict[str, float]  # the fields of a Timing that say how good an answer is


def run_bench(
    model: str | os.PathLike[str] | None = None,
    *,
    against: Sequence[str] | None = None,
    precision: str = "fp32",
    threads: int | None = None,
    rounds: int = 50,
    batch: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Time encode, posterior, decode and frame packing of a model file.

    Args:
        model: a model file; None for the shipped one; "random:64" for the RGB-D VAE at width 64 with random
            weights. An int8 file is timed as it is, beside no other network.
        against: engines to run beside edgevae, of ``ENGINES``, or "all" for all that are installed; None for
            those of PyTorch and OpenCV that are.
        precision: how weights are stored: "fp32" (edgevae takes them from the file as they are), "fp16", or
            "int8" (with activations), for which every engine makes its own model from the same frames.
            Engines that do not know it are left out.
        threads: of every engine; None for what ``edgevae.load`` takes. Packing has one thread.
        rounds: timed calls of each engine.
        batch: frames in a call; packing takes one.
        say: is told what is going on, a line at a time.

    Raises:
        WrongAnswerError: edgevae is wrong, or an engine that was named; others are left out, with a note.
        EdgevaeError: an argument makes no sense, an engine is unknown, not installed, or died.
        ModelFileError: the model file cannot be read.
    """
    check_numbers(rounds, batch, precision)
    engines, notes = _choose(against, precision)
    with tempfile.TemporaryDirectory(prefix="edgevae-bench-") as name:
        folder = Path(name)
        path, shown = model_path(model, folder)
        native = load(path, device="cpu", threads=threads)
        spec = native.spec
        int8_file = spec.precision == "int8"
        if int8_file:
            check_stored_int8(shown, precision)
            if against is None:
                engines = tuple(each for each in engines if each == "opencv")
                notes = ["an int8 file is edgevae's own, so it ran alone."]
            elif others := [each for each in engines if each != "opencv"]:
                raise EdgevaeError(
                    f"{shown} is an int8 file, which {others[0]} cannot run; leave out --against, or give "
                    "the float model that it was made of with --precision int8, of which every engine makes "
                    "its own."
                )
        if "opencv" in engines and (reason := _why_no_opencv(spec.input)):
            engines = tuple(each for each in engines if each != "opencv")
            notes.append(f"opencv was left out: {reason}.")
        job, exact = _job(native, path, folder, engines, precision, batch, say)
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            facts = []
            networks = list(exact) if exact else _operations(native)
            for engine in (NATIVE, *engines):
                own = folder / engine
                own.mkdir()
                say(f"converting for {engine}")
                convert(engine, job, own)
                say(f"starting {engine}")
                worker = Worker(
                    engine, own, job.inputs, threads=native.threads, batch=batch, precision=precision
                )
                workers[engine] = stack.enter_context(worker)
                if engine == "opencv":
                    worker.start([])
                    continue
                startup_s, peak_mb = worker.start(["encode", "decode"])
                size_mb = weights_mb(own, networks)
                facts.append(EngineFacts(engine, _version(engine), startup_s, peak_mb, size_mb))
            named = against is not None and ALL not in against
            operations = [*networks, *_packs()]
            errors = {}
            for operation in operations:
                say(f"checking {operation}")
                of = _taking_part(operation, workers)
                errors[operation], wrong = _check(
                    operation, of, folder, exact.get(operation), precision, batch
                )
                for engine, error in wrong.items():
                    if named or engine == NATIVE:
                        raise error
                    notes.append(f"{error.what}, so it was left out.")
                    del workers[engine]
            timings = []
            for operation in operations:
                say(f"timing {operation}")
                calls = {
                    engine: functools.partial(worker.time_ms, operation)
                    for engine, worker in _taking_part(operation, workers).items()
                }
                timings += _time(operation, calls, rounds, errors[operation])
    return BenchReport(
        model=spec.name,
        path=shown,
        sha256=spec.sha256,
        processor=processor_name(),
        isa=native.isa,
        precision="int8" if int8_file else precision,
        threads=native.threads,
        batch=batch,
        rounds=rounds,
        note=" ".join(note[0].upper() + note[1:] for note in notes),
        timings=tuple(timings),
        engines=tuple(each for each in facts if each.engine in workers),
    )


class WrongAnswerError(EdgevaeError):
    """An engine computes something else than the model.

    Attributes:
        what: which, and how far off.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; its speed means nothing, leave it out of --against.")
        self.what = what


def check_numbers(rounds: int, batch: int, precision: str) -> None:
    """Refuse what no bench can be run with.

    Raises:
        EdgevaeError: says which.
    """
    if rounds < 1 or not 1 <= batch <= 1024:
        raise EdgevaeError(
            f"got rounds {rounds} and batch {batch}, wanted rounds from 1, batch from 1 to 1024."
        )
    if precision not in PRECISIONS:
        raise EdgevaeError(f"precision is {precision!r}, wanted {', '.join(PRECISIONS)}.")


def check_stored_int8(shown: str, precision: str) -> None:
    """Refuse to store an int8 file in another precision.

    Raises:
        EdgevaeError: says what was wanted.
    """
    if precision != "fp32":
        raise EdgevaeError(
            f"{shown} is an int8 file, wanted the float model that it was made of for --precision "
            f"{precision}; without that option it is timed as it is."
        )


def _choose(against: Sequence[str] | None, precision: str) -> tuple[tuple[str, ...], list[str]]:
    """The engines to run, and notes on those that cannot."""
    notes = []
    if against is None or ALL in against:
        wanted = [
            name
            for name in (DEFAULT if against is None else ENGINES)
            if not ENGINES[name].missing(precision) and (name != "compile" or compiler())
        ]
        if against is None and ENGINES["torch"].missing(precision):
            notes.append("PyTorch is not installed; pip install 'edgevae[bench]' to compare with engines.")
        unknown = [name for name in against or () if name != ALL and name not in ENGINES]
    else:
        wanted = list(dict.fromkeys(against))
        unknown = [name for name in wanted if name not in ENGINES]
    if unknown:
        raise EdgevaeError(f"engine is {unknown[0]!r}, wanted {', '.join(ENGINES)}, or all.")
    for name in wanted:
        missing = ENGINES[name].missing(precision) if ENGINES[name].knows(precision) else []
        if missing:
            raise EdgevaeError(
                f"{name} needs {' and '.join(missing)}, not installed here; "
                f'run "pip install {" ".join(missing)}", or leave {name} out of --against.'
            )
        if name == "compile" and compiler() is None:
            raise EdgevaeError(
                "compile needs a C++ compiler, not installed here; run 'apt install g++', or leave compile "
                "out of --against."
            )
    without = [name for name in wanted if not ENGINES[name].knows(precision)]
    if without:
        notes.append(f"without {precision}, so left out: {', '.join(without)}.")
    return tuple(name for name in wanted if name not in without), notes


def model_path(model: str | os.PathLike[str] | None, folder: Path) -> tuple[Path, str]:
    """The model file, and its name for the report."""
    name = zoo.DEFAULT if model is None else str(model)
    width = parse_width(name)
    if width is None:
        return zoo.path_of(name), name
    path = folder / "random.safetensors"
    write_random_model(path, width)
    return path, name


def _operations(model: Model) -> list[str]:
    return ["encode", "decode"] if model.spec.posterior is None else ["encode", "posterior", "decode"]


def _packs() -> list[str]:
    return [f"pack {width}x{height}" for width, height in inputs.CAMERAS]


def _why_no_opencv(spec: InputSpec) -> str:
    """Why the OpenCV way to pack a frame cannot do what this model wants; empty where it can."""
    if spec.channels == 1 or spec.color != "fixed" or (spec.depth and not spec.depth.metric):
        return "its way to pack frames knows RGB with fixed and metric encodings"
    if spec.depth and spec.depth.fill:
        return "its way to pack frames fills no holes"
    if spec.width > inputs.CAMERAS[0][0] or spec.height > inputs.CAMERAS[0][1]:
        return "its area average does not enlarge frames as edgevae does"
    return ""


def _job(
    native: Model,
    path: Path,
    folder: Path,
    engines: Sequence[str],
    precision: str,
    batch: int,
    say: Callable[[str], None],
) -> tuple[Job, dict[str, npt.NDArray[np.float64]]]:
    """Everything conversions take, the inputs written for the workers, and the exact answers, if any."""
    spec = native.spec
    arrays = folder / "inputs"
    arrays.mkdir()
    for (width, height), operation in zip(inputs.CAMERAS, _packs(), strict=True):
        inputs.save(arrays, operation, *inputs.camera_frame(width, height))

    say("rendering frames")
    frames = inputs.calibration_frames() if precision == "int8" else []
    x = inputs.packed(inputs.checked_frames(batch), spec.input)
    calibration = [inputs.packed(frames, spec.input)] if frames else []
    parts: Mapping[str, Any] = {}
    exact: dict[str, npt.NDArray[np.float64]] = {}
    if any(engine != "opencv" for engine in engines):
        say("asking PyTorch in float64")
        from . import torch_parts

        parts = torch_parts.load(path)

    condition = functools.partial(condition_of, spec.condition_dim)
    z = native.encode_tensor(x, *condition(len(x)))
    arguments = {
        operation: [z if operation == "decode" else x, *condition(len(x))]
        for operation in _operations(native)
    }
    for operation, each in arguments.items():
        inputs.save(arrays, operation, *each)
        if parts:
            exact[operation] = torch_parts.exact(parts[operation], *each)
    made: dict[str, list[FloatArray]] = {}
    for x in calibration:
        z = native.encode_tensor(x, *condition(len(x)))
        made = {operation: [z if operation == "decode" else x, *condition(len(x))] for operation in arguments}
    job = Job(
        path=path,
        spec=spec.input,
        precision=precision,
        batch=batch,
        threads=native.threads,
        inputs=arrays,
        parts=parts,
        examples={name: [array[:batch] for array in each] for name, each in arguments.items()},
        frames=frames,
        calibration=made,
    )
    return job, exact


def condition_of(size: int, count: int) -> list[FloatArray]:
    """An argument more for a conditional model."""
    return [np.random.default_rng(0).standard_normal((count, size), np.float32)] if size else []


def _version(engine: str) -> str:
    package = {"torchscript": "torch", "compile": "torch"}.get(engine, engine)
    try:
        return __version__ if engine == NATIVE else importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed by hand, or by the system
        return "?"


def _taking_part(operation: str, workers: Mapping[str, Worker]) -> dict[str, Worker]:
    packing = operation.startswith("pack")
    return {
        engine: worker
        for engine, worker in workers.items()
        if engine == NATIVE or packing == (engine == "opencv")
    }


def _check(
    operation: str,
    workers: Mapping[str, Worker],
    folder: Path,
    exact: npt.NDArray[np.float64] | None,
    precision: str,
    batch: int,
) -> tuple[dict[str, Errors], dict[str, WrongAnswerError]]:
    """Each engine's errors against the float64 run, and those that are no rounding errors."""
    errors: dict[str, Errors] = {}
    wrong: dict[str, WrongAnswerError] = {}
    packed = None
    for engine, worker in workers.items():
        path = folder / "answer.npy"
        worker.answer(operation, path, -(-inputs.CHECKED // batch))
        answer = np.load(path)
        try:
            if operation.startswith("pack"):
                packed = answer if packed is None else packed
                errors[engine] = _packing_errors(engine, answer, packed)
            elif exact is not None:
                errors[engine] = _network_errors(engine, operation, answer, exact, precision)
        except WrongAnswerError as error:
            wrong[engine] = error
    return errors, wrong


def _network_errors(
    engine: str,
    operation: str,
    answer: FloatArray,
    exact: npt.NDArray[np.float64],
    precision: str,
) -> Errors:
    """How far ``answer`` is from the float64 run; refused where that is no rounding error."""
    if answer.shape != exact.shape:
        raise WrongAnswerError(
            f"{engine} answers {operation} with shape {answer.shape}, wanted {exact.shape}"
        )
    errors, limit = _errors(operation, answer, exact, precision)
    _refuse(engine, operation, errors, limit, precision)
    return errors


def _packing_errors(engine: str, answer: FloatArray, native: FloatArray) -> Errors:
    """How far ``answer`` is from what edgevae packs; refused where it is not the same picture."""
    if engine == NATIVE:
        return {}
    difference = np.abs(answer - native)
    off = 1 - float((difference <= PACK_LIMIT).mean())  # NaN is off, too
    if off > MAX_OTHER_SAMPLES:
        raise WrongAnswerError(
            f"{engine} packs {off:.0%} of a frame otherwise than edgevae, wanted at most "
            f"{MAX_OTHER_SAMPLES:.0%}"
        )
    return {"error": float(difference.max())}


def _errors(
    operation: str, answer: FloatArray, exact: npt.NDArray[np.float64], precision: str
) -> tuple[Errors, float]:
    """How far ``answer`` is off, and how far it may be."""
    limits = LIMITS.get(precision)
    if operation == "decode":
        difference = np.abs(answer - exact)
        # NaN is larger than any limit
        errors: Errors = {"error": float(difference.max()), "mean_error": float(difference.mean())}
        return errors, limits.decoded if limits else np.inf
    halves = np.split(np.arange(exact.shape[1]), 2) if operation == "posterior" else [slice(None)]
    error = max(relative_error(answer[:, half], exact[:, half].astype(np.float32)) for half in halves)
    norms = np.linalg.norm(answer.astype(np.float64), axis=1) * np.linalg.norm(exact, axis=1)
    cosine = float(((answer * exact).sum(axis=1) / np.maximum(norms, 1e-30)).min())
    return {"error": error, "cosine": cosine}, limits.latent if limits else np.inf


def _refuse(engine: str, operation: str, errors: Errors, limit: float, precision: str) -> None:
    error, cosine = errors["error"], errors.get("cosine", 1.0)
    if not (error <= limit and np.isfinite(error)):
        what = f"is off by {error:.1e} from a float64 run at {operation}, wanted at most {limit:.0e}"
    elif precision == "int8" and not cosine >= MIN_COSINE:
        what = f"is at cosine {cosine:.3f} to a float64 run at {operation}, wanted at least {MIN_COSINE}"
    else:
        return
    raise WrongAnswerError(f"{engine} {what}")


def _time(
    operation: str, calls: Mapping[str, Callable[[], float]], rounds: int, errors: Mapping[str, Errors]
) -> list[Timing]:
    """Let all take turns; each of ``calls`` does one and returns its milliseconds."""
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    elapsed_ms = np.empty((rounds, len(calls)))
    order = list(enumerate(calls.values()))
    for times in elapsed_ms:
        for engine, call in order:
            time.sleep(PAUSE_S)
            times[engine] = call()
        order.append(order.pop(0))  # nobody is always the one after the slow one
    native = elapsed_ms[:, list(calls).index(NATIVE)]
    return [
        Timing(
            operation=operation,
            engine=engine,
            median_ms=float(np.median(times)),
            p99_ms=float(np.percentile(times, 99)),
            ratio=float(np.median(times / native)),
            **errors.get(engine, {}),
        )
        for engine, times in zip(calls, elapsed_ms.T, strict=True)
    ]
