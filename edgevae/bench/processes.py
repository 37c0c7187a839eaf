"""The parent's end of a worker: a fresh interpreter, a question, an answer in time or one clear sentence."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import EdgevaeError

START_TIMEOUT_S = 900.0  # torch.compile runs a C++ compiler, on any machine
CALL_TIMEOUT_S = 60.0  # of a call, and a second more for each frame in it


class Worker:
    """A process that runs one engine; a context manager that leaves no process behind.

    Args:
        engine: its name.
        folder: what ``engines.convert`` wrote for it; its log goes there, too.
        inputs: the folder of the arrays, ``OPERATION.INDEX.npy``.
        threads, batch, precision: as for ``run_bench``.
    """

    def __init__(
        self, engine: str, folder: Path, inputs: Path, *, threads: int, batch: int, precision: str
    ) -> None:
        self.engine = engine
        self._log = folder / "worker.log"
        self._timeout_s = CALL_TIMEOUT_S + batch
        command_fd, self._commands = os.pipe()
        self._replies, reply_fd = os.pipe()
        job = {
            "engine": engine,
            "folder": str(folder),
            "inputs": str(inputs),
            "threads": threads,
            "batch": batch,
            "precision": precision,
            "parent": os.getpid(),
            "sys_path": [path or os.getcwd() for path in sys.path],
            "begin_ns": time.monotonic_ns(),
        }
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        str(Path(__file__).with_name("worker.py")),
                        str(command_fd),
                        str(reply_fd),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(command_fd, reply_fd),
                    start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its workers
                    env=os.environ | environment(folder, threads),
                )
        except BaseException:
            os.close(self._commands)
            os.close(self._replies)
            raise
        finally:
            os.close(command_fd)
            os.close(reply_fd)
        self._write(job)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        # By the group, as a compiler may run for it. Nothing in a worker is worth a slow goodbye.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._replies)

    def start(self, operations: list[str]) -> tuple[float, float | None]:
        """Load what ``operations`` need and call the first; seconds since the process began, peak MB."""
        reply = self._ask("start-up", START_TIMEOUT_S, do="start", operations=operations)
        return reply["startup_s"], reply["peak_mb"]

    def answer(self, operation: str, path: Path, batches: int) -> None:
        """Run ``batches`` batches of ``operation`` and write the answers to ``path``."""
        # torch.compile compiles at its first call.
        timeout_s = START_TIMEOUT_S + batches * self._timeout_s
        self._ask(operation, timeout_s, do="answer", operation=operation, path=str(path))

    def time_ms(self, operation: str) -> float:
        """Milliseconds of one call, by the worker's own clock."""
        return float(self._ask(operation, self._timeout_s, do="time", operation=operation)["ns"] / 1e6)

    def _ask(self, doing: str, timeout_s: float, **command: Any) -> dict[str, Any]:
        self._write(command)
        line = self._read_line(doing, timeout_s)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise EdgevaeError(
                f"{self.engine} failed at {doing}: {reply['error']}; leave it out of --against."
            )
        return reply

    def _write(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the worker is dead, as reading will find out
            os.write(self._commands, json.dumps(message).encode() + b"\n")

    def _read_line(self, doing: str, timeout_s: float) -> bytes:
        line = b""
        end = time.monotonic() + timeout_s
        while not line.endswith(b"\n"):
            if not select.select([self._replies], [], [], max(0.0, end - time.monotonic()))[0]:
                raise EdgevaeError(
                    f"{self.engine} gave no answer to {doing} within {timeout_s:.0f} s and was ended; "
                    "leave it out of --against."
                )
            part = os.read(self._replies, 65536)
            if not part:
                raise EdgevaeError(self._obituary(doing))
            line += part
        return line

    def _obituary(self, doing: str) -> str:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return f"the process of {self.engine} closed its pipe at {doing}; leave it out of --against."
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        words = f"; its last line was: {' '.join(lines[-1].split())[:200]}" if lines else ""
        return f"the process of {self.engine} {how} at {doing}{words}; leave it out of --against."


def environment(folder: Path, threads: int) -> dict[str, str]:
    """What a worker's environment has beside this process's own."""
    return {
        "OMP_NUM_THREADS": str(threads),
        # Compiled code goes where everything of this bench goes, made by one process that this one ends.
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
