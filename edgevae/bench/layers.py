"""Every step of an encoder and a decoder: how the engine computes it, what that takes, how long it took.

docs/kernels.md explains the methods.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core, model_file
from ..doctor import processor_name
from ..engines import check_device
from ..model import Model, load
from ..preprocess import FloatArray
from . import WARM_UP, check_numbers, check_stored_int8, condition_of, inputs, model_path
from .engines import Job, convert
from .report import Setting, aligned, table

NAMES = 3  # columns of text, on the left


@dataclass(frozen=True)
class StepTiming:
    """One step of a network.

    Attributes:
        operation: "encode" (to the mean) or "decode".
        layer: of the model file's list; several steps may belong to one, and activations to the step before.
        op: that layer's.
        takes, gives: shapes of the layer's input and output, without the batch.
        method: how it is computed.
        arithmetic: of the weights, as they lie in memory; empty without weights.
        macs: multiplications by the layer's definition, of the whole batch.
        products: those that are made.
        weight_bytes: read at least once a run.
        median_us: microseconds, median over the rounds.
    """

    operation: str
    layer: int
    op: str
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    method: str
    arithmetic: str
    macs: int
    products: int
    weight_bytes: int
    median_us: float

    def cells(self) -> list[str]:
        """A row of the table."""
        shapes = " -> ".join("x".join(map(str, shape)) for shape in (self.takes, self.gives))
        method = f"{self.method}, {self.arithmetic}" if self.arithmetic else self.method
        names = [f"{self.operation}[{self.layer}] {self.op}", shapes, method]
        return [*names, *_figures(self.macs, self.products, self.weight_bytes, self.median_us)]


@dataclass(frozen=True)
class LayersReport(Setting):
    """All steps."""

    steps: tuple[StepTiming, ...]

    def document(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        return asdict(self) | {"steps": [asdict(step) for step in self.steps]}

    def rows(self) -> list[list[str]]:
        """The table as text, its head first; each operation ends in its sum."""
        figures = ["MMAC", "made", "weights MB", "us", "GFLOP/s made", "by definition", "weights GB/s"]
        rows = [["step", "shapes", "method", *figures]]
        for operation in dict.fromkeys(step.operation for step in self.steps):
            steps = [step for step in self.steps if step.operation == operation]
            sums = _figures(
                sum(step.macs for step in steps),
                sum(step.products for step in steps),
                sum(step.weight_bytes for step in steps),
                sum(step.median_us for step in steps),
            )
            rows += [*(step.cells() for step in steps), [f"{operation}, all", "", "", *sums]]
        return rows

    def __str__(self) -> str:
        return f"{self.title()}\n{aligned(self.rows(), NAMES)}"

    def markdown(self) -> str:
        """The table in Markdown."""
        return f"{self.title()}\n\n{table(self.rows())}\n"


def _figures(macs: int, products: int, weight_bytes: int, median_us: float) -> list[str]:
    if not macs:
        return ["", "", "", f"{median_us:.1f}", "", "", ""]
    amounts = [f"{macs / 1e6:.2f}", f"{products / 1e6:.2f}", f"{weight_bytes / 1e6:.2f}", f"{median_us:.1f}"]
    if not median_us > 0:  # a clock too coarse for it
        return [*amounts, "", "", ""]
    rates = [2e-3 * products / median_us, 2e-3 * macs / median_us]
    return [*amounts, *(f"{rate:.0f}" for rate in rates), f"{1e-3 * weight_bytes / median_us:.1f}"]


def run_layers(
    model: str | os.PathLike[str] | None = None,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 50,
    batch: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> LayersReport:
    """Time every step of encode and decode.

    Args:
        model: as :func:`edgevae.bench.run_bench` takes it, or an int8 file, which is timed as it is.
        precision: "fp32" takes weights from the file as they are; "fp16" and "int8" store them so first.
        device: "cpu"; "cuda" runs the file in ``precision`` on a GPU, "tf32" included.
        threads: None for what ``edgevae.load`` takes.
        rounds: timed runs of each operation, each after one that is not.
        batch: frames in a run.
        say: is told what is going on, a line at a time.

    Raises:
        EdgevaeError: an argument makes no sense.
        ModelFileError: the model file cannot be read.
    """
    on_gpu = check_device(device) != "cpu"
    check_numbers(rounds, batch, "fp32" if on_gpu else precision)  # the engine knows what a GPU can
    with tempfile.TemporaryDirectory(prefix="edgevae-bench-") as name:
        folder = Path(name)
        path, shown = model_path(model, folder)
        native = (
            load(path, device=device, precision=precision)
            if on_gpu
            else load(path, device="cpu", threads=threads)
        )
        sha256, stored = native.spec.sha256, native.spec.precision
        if stored == "int8" and not on_gpu:
            check_stored_int8(shown, precision)
        if precision != "fp32" and not on_gpu:
            path, native = _converted(path, native, precision, folder, say)
        say("timing every step")
        x = inputs.packed(inputs.checked_frames(batch)[:batch], native.spec.input)
        steps = _steps(native, path, x, rounds)
    return LayersReport(
        model=native.spec.name,
        path=shown,
        sha256=sha256,
        processor=processor_name(),
        isa=native.isa,
        precision="int8" if stored == "int8" and not on_gpu else precision,
        threads=native.threads,
        batch=batch,
        rounds=rounds,
        steps=tuple(steps),
    )


def _converted(
    path: Path, native: Model, precision: str, folder: Path, say: Callable[[str], None]
) -> tuple[Path, Model]:
    """The model file and model that ``run_bench`` times as edgevae's own."""
    say(f"storing weights as {precision}")
    job = Job(
        path=path,
        spec=native.spec.input,
        precision=precision,
        batch=1,
        threads=native.threads,
        inputs=folder,
        parts={},
        examples={},
        frames=inputs.calibration_frames() if precision == "int8" else [],
        calibration={},
    )
    own = folder / "edgevae"
    own.mkdir()
    convert("edgevae", job, own)
    path = own / "model.safetensors"
    stored = "fp16" if precision == "fp16" else None
    return path, load(path, device="cpu", threads=native.threads, precision=stored)


def _steps(native: Model, path: Path, x: FloatArray, rounds: int) -> list[StepTiming]:
    spec = native.spec
    size = spec.input
    condition = condition_of(spec.condition_dim, len(x))
    z = native.encode_tensor(x, *condition)
    tensors = model_file.read(path)[1]
    steps = []
    for operation, network, layers, array, outputs in (
        ("encode", native._encoder, spec.encoder, x, spec.latent_dim),
        ("decode", native._decoder, spec.decoder, z, None),
    ):
        takes = (size.channels, size.height, size.width) if operation == "encode" else (spec.latent_dim,)
        shapes = [takes, *map(tuple, _core.infer_shapes(layers, tensors, takes, spec.condition_dim))]
        arguments = (array, condition[0] if condition else None, outputs)
        for _ in range(WARM_UP):
            network.run(*arguments)
        profiles = [network.profile(*arguments) for _ in range(rounds)]
        seconds = np.median([[step["seconds"] for step in profile] for profile in profiles], axis=0)
        last = len(seconds) - 1
        for index, (step, each) in enumerate(zip(profiles[0], seconds, strict=True)):
            # Of a last linear layer only the outputs that are asked for are computed.
            part = outputs / shapes[-1][0] if outputs is not None and index == last else 1.0
            layer = int(step["layer"])
            steps.append(
                StepTiming(
                    operation=operation,
                    layer=layer,
                    op=layers[layer]["op"],
                    takes=shapes[layer],
                    gives=shapes[layer + 1],
                    method=step["method"],
                    arithmetic=step["arithmetic"],
                    macs=round(part * step["macs"]) * len(x),
                    products=round(part * step["products"]) * len(x),
                    weight_bytes=round(part * step["weight_bytes"]),
                    median_us=float(each) * 1e6,
                )
            )
    return steps
