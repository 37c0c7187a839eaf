"""What this machine offers edgevae: instruction set, threads, GPU, cameras, extras, a working model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import DeviceError, EdgevaeError

EXTRAS = {
    "train": ("torch", "lightning", "torchmetrics", "tensorboard", "scipy", "scikit-learn", "matplotlib"),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "bench": ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "ncnn", "pnnx", "matplotlib"),
    "realsense": ("pyrealsense2",),
    "mcap": ("mcap", "mcap-protobuf-support", "foxglove-schemas-protobuf"),
    "ros": ("rosbags",),
    "view": ("rerun-sdk",),
    "zenoh": ("eclipse-zenoh",),
    "parquet": ("pyarrow",),
    "ray": ("ray", "pyarrow"),
    "map": ("open3d-cpu",) if platform.machine() == "x86_64" else ("open3d",),
}
RUNTIME = ("numpy", "opencv-python-headless", "h5py", "safetensors", "typer", "rich")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``state`` is "ok", "none" (absent, and not needed) or "fail"."""

    subject: str
    state: str
    text: str


def examine(model_path: Path | None = None) -> Iterator[Finding]:
    """Look at one thing after the other; the runtime works unless a finding has the state "fail"."""
    yield _system()
    yield from _engine()
    yield _cores()
    yield _gpu()
    yield _cuda()
    yield _cameras()
    yield _realsense()
    yield _packages()
    yield from _extras()
    yield _round_trip(model_path)


def _system() -> Finding:
    text = (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"
    )
    return Finding("system", "ok", text)


def _engine() -> Iterator[Finding]:
    try:
        from . import _core

        available, selected = _core.available_isas(), _core.selected_isa()
    except (ImportError, ValueError, RuntimeError) as error:
        yield Finding("engine", "fail", f"{error}; reinstall with 'pip install --force-reinstall edgevae'")
        return
    forced = os.environ.get("EDGEVAE_ISA")
    how = "forced by EDGEVAE_ISA" if forced else "chosen; EDGEVAE_ISA forces another"
    yield Finding("instruction set", "ok", f"{selected} ({how}), available: {', '.join(available)}")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(
        "processor", "ok", f"{processor_name()}, {usable} of {os.cpu_count()} logical cores usable"
    )


def processor_name() -> str:
    """The processor as its maker calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
            names = "; ".join(line.strip() for line in answer.stdout.splitlines() if line.strip())
            if names:
                return Finding("GPU", "ok", names)
        except (OSError, subprocess.SubprocessError):
            pass
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvhost-gpu").exists():
        return Finding("GPU", "ok", "NVIDIA driver loaded")
    return Finding("GPU", "none", "no NVIDIA driver; the engine runs on the processor")


def _cuda() -> Finding:
    """Whether the engine can use the GPU, and if not, why."""
    try:
        from . import _core
        from .engines import cuda_devices

        found = []
        for i, each in enumerate(cuda_devices()):
            gib = each["memory_bytes"] / 2**30
            found.append(f"cuda:{i} {each['name']}, compute capability {each['compute']}, {gib:.0f} GiB")
    except (DeviceError, ImportError) as error:
        return Finding("CUDA engine", "none", str(error))
    return Finding("CUDA engine", "ok", f"{'; '.join(found)} (built with {_core.cuda_build})")


def _cameras() -> Finding:
    by_id = {link.resolve(): link.name for link in sorted(Path("/dev/v4l/by-id").glob("*"))}
    found = [
        f"{device} {by_id.get(device, '')} {'' if os.access(device, os.R_OK) else '(no permission)'}"
        for device in sorted(Path("/dev").glob("video*"))
    ]
    if not found:
        return Finding("cameras", "none", "no /dev/video*; try 'edgevae stream --camera synthetic'")
    return Finding("cameras", "ok", "; ".join(" ".join(camera.split()) for camera in found))


def _realsense() -> Finding:
    from .cameras import find_realsense

    found, problem = find_realsense()
    if found:
        names = "; ".join(f"{device['name']} {device['serial']}, USB {device['usb']}" for device in found)
        return Finding("RealSense", "ok", names)
    return Finding("RealSense", "none", problem or "none connected")


def _packages() -> Finding:
    have = {name: _version(name) for name in RUNTIME}
    # The other builds of OpenCV serve as well, but pip does not know that.
    if have["opencv-python-headless"] is None:
        have["opencv-python-headless"] = _version("opencv-python") or _version("opencv-contrib-python")
    absent = [name for name, version in have.items() if version is None]
    text = ", ".join(f"{name} {version}" for name, version in have.items() if version)
    if absent:
        return Finding("packages", "fail", f"{', '.join(absent)} not installed; reinstall edgevae with pip")
    return Finding("packages", "ok", text)


def _extras() -> Iterator[Finding]:
    for extra, names in EXTRAS.items():
        have = {name: _version(name) for name in names}
        if all(have.values()):
            text = ", ".join(f"{name} {version}" for name, version in have.items())
            yield Finding(f"extra {extra}", "ok", text)
        else:
            absent = ", ".join(name for name, version in have.items() if version is None)
            yield Finding(f"extra {extra}", "none", f"without {absent}; 'pip install edgevae[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _round_trip(model_path: Path | None) -> Finding:
    try:
        import numpy as np

        from .model import load

        began_s = time.perf_counter()
        model = load(model_path, device="cpu")
        load_ms = (time.perf_counter() - began_s) * 1e3
        spec = model.spec
        rng = np.random.default_rng(0)
        rgb = rng.integers(0, 256, (spec.input.height, spec.input.width, 3), np.uint8)
        depth = np.full(rgb.shape[:2], 2.0, np.float32) if spec.input.depth is not None else None
        model.decode(model.encode(rgb, depth))  # the first pass plans memory
        began_s = time.perf_counter()
        latent = model.encode(rgb, depth)
        encode_ms = (time.perf_counter() - began_s) * 1e3
        began_s = time.perf_counter()
        decoded = model.decode(latent)
        decode_ms = (time.perf_counter() - began_s) * 1e3
        if not (np.isfinite(latent).all() and decoded.rgb.shape[:2] == rgb.shape[:2]):
            return Finding("model", "fail", f"{spec.path}: encoding and decoding gave no sensible numbers")
    except (EdgevaeError, ImportError, OSError, RuntimeError) as error:
        return Finding("model", "fail", str(error))
    return Finding(
        "model",
        "ok",
        f"{spec.name}, latent {spec.latent_dim}, {spec.precision}: loaded in {load_ms:.0f} ms, encode "
        f"{encode_ms:.1f} ms, decode {decode_ms:.1f} ms on {model.engine}",
    )
