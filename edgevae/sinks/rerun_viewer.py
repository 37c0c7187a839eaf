"""The Rerun viewer as a process of its own: a window, or a web page with its data.

The SDK can serve the page from this process too, but then on every network interface of the machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from ..errors import RecordError

READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 3.0
_NICENESS = 10  # serving pages must not take a core from the run
# Rerun reads whether it may send analytics from $XDG_CONFIG_HOME/rerun/analytics.json. With a folder of our
# own it sends none, and what the user decided for viewers of his own stays as it is.
_SETTINGS = Path(__file__).parent / "viewer_settings"
# Prints nothing, becomes the viewer: asks the kernel to end it with us, also when we are killed.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class ViewerProcess:
    """A running viewer that takes data at ``url``.

    Args:
        arguments: of the ``rerun`` program, beside address and port.
        address: IP address to listen on.
        port: TCP port for the data.
        outlives: whether it stays when this process ends or the viewer is closed here. One that does not must
            be started from a thread that lives as long: the kernel ends it with that thread.

    Raises:
        RecordError: it did not start; says why.
    """

    def __init__(self, arguments: list[str], *, address: str, port: int, outlives: bool) -> None:
        self.url = f"rerun+http://{reachable(address)}:{port}/proxy"
        self._outlives = outlives
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        command = [_program(), *arguments, "--bind", address, "--port", str(port)]
        if not outlives:
            command = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *command]
        environment = {**os.environ, "XDG_CONFIG_HOME": str(_SETTINGS), "RUST_LOG": "error"}
        environment.pop("FORCE_RERUN_ANALYTICS", None)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us; the viewer then still gets the last frames
            )
        except OSError as error:
            raise RecordError(
                f"cannot start Rerun's viewer: {error.strerror}; install it anew with 'pip install "
                '--force-reinstall "edgevae[view]"\'.'
            ) from error
        if not outlives:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICENESS)
        self._wait_until_ready(reachable(address), port)

    def closed_by_user(self, wait_s: float = 0.0) -> bool:
        """Whether its window was closed, which is no failure; ``wait_s`` gives it time to end.

        Raises:
            RecordError: it ended in another way.
        """
        try:
            code = self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        if code == 0:
            return True
        raise RecordError(f"Rerun's viewer ended: {self._last_words() or f'exit code {code}'}.")

    def close(self) -> None:
        """End it, unless it outlives us."""
        if not self._outlives and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        elif self._process.poll() is None:
            self._process.returncode = 0  # left running on purpose: Python would warn of it
        self._stderr.close()

    def _wait_until_ready(self, address: str, port: int) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((address, port), 0.5):
                return
            if time.monotonic() > deadline_s:
                self._outlives = False
                self.close()
                raise RecordError(
                    f"Rerun's viewer did not answer on {address}:{port} within {READY_TIMEOUT_S:.0f} s; try "
                    "again, or record with --view FILE.rrd and open the file with 'rerun FILE.rrd'."
                )
            time.sleep(0.02)
        words = self._last_words() or f"exit code {self._process.returncode}"
        self._stderr.close()
        raise RecordError(f"Rerun's viewer did not start: {words}; or record with --view FILE.rrd.")

    def _last_words(self) -> str:
        """The last line of what it said on standard error, without colours and the places of its source."""
        self._stderr.seek(0)
        text = re.sub(r"\x1b\[[0-9;]*m", "", self._stderr.read().decode(errors="replace"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return re.sub(r"at /\S+: ", "", lines[-1]).rstrip(".")[:300] if lines else ""


def check_free(address: str, port: int, *, instead: str) -> None:
    """Make sure that ``port`` can be listened on.

    Raises:
        RecordError: it cannot; ``instead`` says what to pass in its place.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((address, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RecordError(f"cannot serve on {address}:{port}: {reason}; {instead}.") from error


def free_port(address: str) -> int:
    """A TCP port of ``address`` that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def reachable(address: str) -> str:
    """Where this machine itself reaches a server that listens on ``address``."""
    return "127.0.0.1" if address == "0.0.0.0" else address


def _program() -> str:
    """The viewer that came with the SDK, whatever else may be called ``rerun`` on the PATH."""
    import rerun_cli

    return str(Path(rerun_cli.__file__).parent / "rerun")
