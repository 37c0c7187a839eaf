"""What several test files share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_document

import edgevae
from edgevae import _core, model_file
from edgevae.model import Model

ISAS = _core.available_isas()

# A shell's background jobs ignore Ctrl-C, what nohup starts ignores the end of its terminal, and so would
# every program that a test starts and interrupts.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set this machine runs, the reference among them."""
    return str(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Networks of a few hundred weights train faster without threads to wait for."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every call of torch.ops.edgevae that has packed weights since."""
    pytest.importorskip("torch")
    from edgevae.torch_ops import Arguments

    calls: list[object] = []
    folded = Arguments.folded

    def counting(self: Arguments) -> object:
        calls.append(self)
        return folded(self)

    monkeypatch.setattr(Arguments, "folded", counting)
    return calls


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real recordings, named by EDGEVAE_DATA."""
    folder = os.environ.get("EDGEVAE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("EDGEVAE_DATA names no folder of real recordings")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file 4x32x32 -> 8 with random weights."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    document, tensors = tiny_document()
    model_file.write(path, document, tensors)
    return path


@pytest.fixture(scope="session")
def model(tiny_model_path: Path) -> Model:
    """That model, on one thread."""
    return edgevae.load(tiny_model_path, threads=1)


@pytest.fixture(scope="session")
def build_shim(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles ``tests/NAME.c`` to a library for LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")

    def build(name: str) -> Path:
        library = tmp_path_factory.mktemp("shim") / f"{name}.so"
        source = Path(__file__).with_name(f"{name}.c")
        command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", library, source, "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        return library

    return build
