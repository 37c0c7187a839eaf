"""Everything there is to do on a machine with a GPU: build, test, and measure edgevae beside torch.compile.

    python benches/cuda_bench.py --build --json cuda.json --markdown cuda.md

In this order: with --build the package with its CUDA engine; the GPU tests, every kernel against float64
among them; compute-sanitizer (memcheck, racecheck) on a small run, where it is installed; what the card can
do at most; one call of each network on tensors of the device, edgevae and torch.compile (max-autotune, CUDA
graphs, channels-last fp16) taking turns after their answers were compared with float32 on the processor;
every layer; and a camera frame in ordinary memory to a latent there. The Markdown is for docs/cuda.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgevae
from edgevae import torch_model
from edgevae.bench import model_path
from edgevae.bench.layers import run_layers
from edgevae.bench.report import table
from edgevae.engines import cuda_devices
from edgevae.errors import DeviceError, EdgevaeError
from edgevae.files import check_outputs, write_json, write_whole

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 256)
COSINE = 0.9999  # of either engine's latents and pictures with those of float32
# Model A at batch 1, microseconds, and how much faster than torch.compile.
GOALS = {
    ("encode", 1): (40, 2.0),
    ("decode", 1): (60, 2.0),
    ("encode", 256): (None, 1.0),
    ("decode", 256): (None, 1.5),
}
FRAME_GOAL_US = 150
CAMERAS = ((128, 128), (640, 480))


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call."""

    median_us: float
    p99_us: float


@dataclass(frozen=True)
class Row:
    """One network at one batch size, both engines on the same input."""

    operation: str
    batch: int
    edgevae: Timing
    torch: Timing
    cosine: float
    torch_cosine: float
    tflops: float  # of the layers' definition

    @property
    def ratio(self) -> float:
        return self.torch.median_us / self.edgevae.median_us


def take_turns(calls: dict[str, Callable[[], float]], rounds: int, warm_up: int) -> dict[str, Timing]:
    """Each call in turn, ``rounds`` times; a call returns the microseconds it took."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(warm_up + rounds):
        for name, call in calls.items():
            taken_us = call()
            if i >= warm_up:
                times[name].append(taken_us)
    return {
        name: Timing(statistics.median(each), float(np.percentile(each, 99))) for name, each in times.items()
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def clocked(call: Callable[[], object]) -> Callable[[], float]:
    """The device's own clock around a call on torch's current stream."""
    import torch

    def timed() -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return 1e3 * begin.elapsed_time(end)

    return timed


def ceilings() -> dict[str, float]:
    """What the card reaches: GB/s of a copy, read and written, and TFLOP/s of a half-precision product."""
    import torch

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, dtype=torch.float16, device="cuda")
    b = torch.randn_like(a)
    best = {
        "copy": min(clocked(lambda: target.copy_(source))() for _ in range(20)),
        "product": min(clocked(lambda: a @ b)() for _ in range(20)),
    }
    return {
        "copy_gb_s": 2 * (1 << 30) / best["copy"] / 1e3,
        "fp16_tflops": 2 * 8192**3 / best["product"] / 1e6,
    }


def compare(path: Path, rounds: int) -> list[Row]:
    """encode and decode on tensors of the device."""
    import torch

    ours, exact = edgevae.load(path, device="cuda"), edgevae.load(path, device="cpu", precision="fp32")
    theirs = torch_model.load(path, mean_only=True)
    spec, size = ours.spec, ours.spec.input
    rng = np.random.default_rng(0)
    rows = []
    for batch in BATCHES:
        x = rng.uniform(-1, 1, (batch, size.channels, size.height, size.width)).astype(np.float32)
        z = exact.encode_tensor(x[:8])  # of more, the first tell as much
        latents = rng.standard_normal((batch, spec.latent_dim)).astype(np.float32)
        y = exact.decode_tensor(latents[:8])
        for operation, module, macs, array, wanted in (
            ("encode", theirs.encoder, spec.macs_encode, x, z),
            ("decode", theirs.decoder, spec.macs_decode, latents, y),
        ):
            network = module.half().cuda().eval().to(memory_format=torch.channels_last)
            compiled = torch.compile(network, mode="max-autotune")
            given = torch.from_numpy(array).cuda()
            halves = given.half()
            if halves.dim() == 4:
                halves = halves.to(memory_format=torch.channels_last)
            call = ours.encode_tensor if operation == "encode" else ours.decode_tensor
            with torch.inference_mode():
                mine = torch.from_dlpack(call(given))[:8].cpu().numpy()
                their = compiled(halves)[:8].float().cpu().numpy()
                similar, other = cosine(mine, wanted), cosine(their, wanted)
                if min(similar, other) < COSINE:
                    raise EdgevaeError(
                        f"{operation} at batch {batch}: cosine {similar:.6f} (edgevae), {other:.6f} (torch) "
                        f"with float32, wanted {COSINE} of both; nothing is timed that is wrong."
                    )
                times = take_turns(
                    {
                        "edgevae": clocked(lambda c=call, g=given: c(g)),
                        "torch": clocked(lambda c=compiled, h=halves: c(h)),
                    },
                    rounds,
                    warm_up=20,
                )
            flops = 2 * macs * batch
            rows.append(
                Row(
                    operation,
                    batch,
                    times["edgevae"],
                    times["torch"],
                    similar,
                    other,
                    flops / times["edgevae"].median_us / 1e6,
                )
            )
    return rows


def frames(path: Path, rounds: int) -> dict[str, Timing]:
    """A camera frame in memory that is not pinned, to a latent there: the processor's clock."""
    model = edgevae.load(path, device="cuda")
    rng = np.random.default_rng(0)
    calls = {}
    for width, height in CAMERAS:
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        depth = rng.integers(0, 9000, (height, width)).astype(np.uint16)

        def call(rgb: np.ndarray = rgb, depth: np.ndarray = depth) -> float:
            began_s = time.perf_counter()
            model.encode(rgb, depth)
            return 1e6 * (time.perf_counter() - began_s)

        calls[f"{width}x{height}"] = call
    return take_turns(calls, rounds, warm_up=20)


def markdown(document: dict[str, Any]) -> str:
    """The section of docs/cuda.md."""
    card, most = document["card"], document["ceilings"]
    lines = [
        f"`python benches/cuda_bench.py` on {card['name']}, driver {card['driver']}, {document['date']}; "
        f"edgevae {document['edgevae']} built with CUDA {document['cuda_build']}, torch {document['torch']}. "
        f"Most that the card reached: copies at {most['copy_gb_s']:.0f} GB/s, half-precision products at "
        f"{most['fp16_tflops']:.0f} TFLOP/s.",
        "",
    ]
    rows = [
        ["", "batch", "edgevae us", "p99", "torch.compile us", "p99", "faster", "goal", "TFLOP/s", "cosine"]
    ]
    for row in (
        Row(**{**each, "edgevae": Timing(**each["edgevae"]), "torch": Timing(**each["torch"])})
        for each in document["rows"]
    ):
        limit, ratio = GOALS.get((row.operation, row.batch), (None, None))
        goal = " and ".join(
            text for text in (f"{limit} us" if limit else "", f"{ratio}x" if ratio else "") if text
        )
        rows.append(
            [
                row.operation,
                str(row.batch),
                f"{row.edgevae.median_us:.1f}",
                f"{row.edgevae.p99_us:.1f}",
                f"{row.torch.median_us:.1f}",
                f"{row.torch.p99_us:.1f}",
                f"{row.ratio:.2f}x",
                goal,
                f"{row.tflops:.1f}",
                f"{row.cosine:.6f}",
            ]
        )
    lines += [
        table(rows),
        "",
        f"A camera frame in ordinary memory to a latent there (goal {FRAME_GOAL_US} us):",
        "",
    ]
    lines.append(
        table(
            [["frame", "median us", "p99 us"]]
            + [
                [name, f"{t['median_us']:.0f}", f"{t['p99_us']:.0f}"]
                for name, t in document["frames"].items()
            ]
        )
    )
    lines += [f"\nChecks: {check}." for check in document["checks"]]
    for layers in document["layers"]:
        lines += ["", layers]
    return "\n".join(lines) + "\n"


def run(*command: str) -> None:
    """A part of this script in a process of its own.

    Raises:
        EdgevaeError: it failed.
    """
    print("$", " ".join(command), flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise EdgevaeError(f"'{' '.join(command)}' failed, see above; nothing is measured on a broken build.")


def checks(tests: bool) -> list[str]:
    """The GPU tests and compute-sanitizer; what was done."""
    done = []
    if tests:
        found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_cuda_*.py"))
        run(sys.executable, "-m", "pytest", "-q", *found)
        done.append(f"{len(found)} test files passed on the card")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return [*done, "compute-sanitizer was not there to run"]
    for tool in ("memcheck", "racecheck"):
        run(sanitizer, "--tool", tool, "--error-exitcode", "1", sys.executable, __file__, "--small-run")
        done.append(f"compute-sanitizer's {tool} found nothing in a small run")
    return done


def small_run() -> None:
    """Every layer once, in each arithmetic: what compute-sanitizer can watch in minutes."""
    with tempfile.TemporaryDirectory(prefix="edgevae-bench-") as name:
        path, _ = model_path("random:8", Path(name))
        for precision in ("fp16", "tf32", "fp32"):
            model = edgevae.load(path, device="cuda", precision=precision)
            rgb = np.zeros((48, 64, 3), np.uint8)
            for _ in range(2):  # launched, then by graph
                model.decode(model.encode(rgb))
                model.decode_tensor(model.encode_tensor(model.to_device(np.zeros((1, 4, 128, 128))))).numpy()


def driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def measure(model: str, rounds: int, tests: bool) -> dict[str, Any]:
    """The whole report.

    Raises:
        DeviceError: there is no GPU, or this build has no engine for it.
        EdgevaeError: a check failed, or torch has no CUDA.
    """
    card = cuda_devices()[0]
    import torch

    if not torch.cuda.is_available():
        raise EdgevaeError(
            f"torch {torch.__version__} has no CUDA, and there is nothing to compare with; install one that "
            "has (pytorch.org/get-started)."
        )
    done = checks(tests)
    with tempfile.TemporaryDirectory(prefix="edgevae-bench-") as name:
        path, shown = model_path(model, Path(name))
        return {
            "date": datetime.date.today().isoformat(),
            "card": {**card, "driver": driver()},
            "model": shown,
            "edgevae": edgevae.__version__,
            "cuda_build": edgevae._core.cuda_build,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "checks": done,
            "ceilings": ceilings(),
            "rows": [asdict(row) for row in compare(path, rounds)],
            "frames": {name: asdict(timing) for name, timing in frames(path, rounds).items()},
            "layers": [
                run_layers(path, precision="fp16", device="cuda", rounds=20, batch=batch).markdown()
                for batch in BATCHES
            ],
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", action="store_true", help="build and install the package with CUDA first")
    parser.add_argument(
        "--model", default="random:64", help="model file, or random:WIDTH (model A: random:64)"
    )
    parser.add_argument("--rounds", type=int, default=200, help="timed calls of each engine")
    parser.add_argument("--no-tests", action="store_true", help="leave out the GPU tests")
    parser.add_argument("--small-run", action="store_true", help="only what compute-sanitizer watches")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args()
    try:
        if given.small_run:
            return small_run()
        check_outputs(given.json, given.markdown, overwrite=given.overwrite)
        if given.build:
            run(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--config-settings",
                "cmake.define.EDGEVAE_CUDA=ON",
                ".",
            )
            again = [each for each in sys.argv if each != "--build"]
            os.execv(sys.executable, [sys.executable, *again])  # with the module that was just built
        document = measure(given.model, given.rounds, not given.no_tests)
    except EdgevaeError as error:
        kind = "no CUDA device: " if isinstance(error, DeviceError) else ""
        print(f"benches/cuda_bench.py: {kind}{error}", file=sys.stderr)
        sys.exit(2)
    text = markdown(document)
    print(text)
    if given.json is not None:
        write_json(given.json, document)
    if given.markdown is not None:
        write_whole(given.markdown, text.encode())


if __name__ == "__main__":
    main()
