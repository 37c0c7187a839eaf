"""``--view``: a run in Rerun, as a window, as a web page, or as an .rrd file to look at later.

Rerun's SDK hands data on in threads of its own, with some 200 MB of room. Here every row is waited for until
it has left the process: a viewer that cannot follow then holds up this sink and nobody else, and one that is
gone is noticed at once.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecordError
from ..files import move_into_place, os_errors_as_sentences, ready_folder, temporary_name
from .base import RecordFile, Row, RunInfo, Sink

if TYPE_CHECKING:
    import rerun as rr

    from .rerun_page import Page
    from .rerun_scene import Scene
    from .rerun_viewer import ViewerProcess

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 9090
SEND_TIMEOUT_S = 5.0
SERVER_MEMORY = "512MiB"  # of past frames, for pages that are opened late
WINDOW_MEMORY = "2GiB"
_END_TIMEOUT_S = 2.0  # between the end of its connection and the end of its process
_APPLICATION = "edgevae"
_SERVE = re.compile(r"serve(?::(?:(?P<address>[0-9]+(?:\.[0-9]+){3}):)?(?P<port>[0-9]+))?")


def open_view(where: str, *, overwrite: bool = False) -> Sink:
    """The sink for ``--view WHERE``: ``window``, ``serve[:[ADDRESS:]PORT]`` or ``FILE.rrd``.

    Raises:
        RecordError: it is none of them.
    """
    if where == "window":
        return WindowSink()
    if served := _SERVE.fullmatch(where):
        port = int(served["port"] or DEFAULT_PORT)
        if not 1 <= port <= 65534:
            raise RecordError(
                f"cannot serve on port {port}, wanted 1 to 65534: data go through the next one."
            )
        return ServeSink(served["address"] or LOOPBACK, port)
    if where.lower().endswith(".rrd"):
        return RrdSink(Path(where), overwrite=overwrite)
    raise RecordError(
        f"cannot view in '{where}', wanted --view (a window), --view serve, --view serve:PORT, "
        "--view serve:ADDRESS:PORT or --view FILE.rrd."
    )


class WindowSink(Sink):
    """Rerun's viewer in a window, which stays open after the run. Closing it ends only this sink."""

    needs_pictures = True
    _viewer: ViewerProcess | None = None
    _recording: rr.RecordingStream | None = None
    _scene: Scene
    _closed_by_user = False

    def __init__(self) -> None:
        self.path = Path("Rerun's window")

    def open(self, run: RunInfo) -> None:
        _import_rerun()
        try:
            self._viewer = self._start()
            self._recording, self._scene = _connect(self._viewer.url, run)
        except BaseException:
            self.close()
            raise

    def write(self, row: Row) -> None:
        assert self._viewer is not None
        self._closed_by_user = self._closed_by_user or self._viewer.closed_by_user()
        if not self._closed_by_user:
            self._scene.log(row)
            self._send()
        self.rows += 1  # also those that nobody wants to see any more

    def source_changed(self, lost: str) -> None:
        if not self._closed_by_user:
            self._scene.source_changed(lost)
            self._send()

    def close(self) -> None:
        viewer, self._viewer = self._viewer, None
        recording, self._recording = self._recording, None
        if recording is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                recording.flush(timeout_sec=SEND_TIMEOUT_S)
        if viewer is not None:
            viewer.close()
        if recording is not None:
            recording.disconnect()

    def _start(self) -> ViewerProcess:
        from .rerun_viewer import ViewerProcess, free_port

        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise RecordError(
                "there is no display to open Rerun's window on; use --view serve and a browser, or --view "
                "FILE.rrd."
            )
        arguments = [
            "--memory-limit",
            WINDOW_MEMORY,
            "--server-memory-limit",
            SERVER_MEMORY,
        ]
        return ViewerProcess(arguments, address=LOOPBACK, port=free_port(LOOPBACK), outlives=True)

    def _send(self) -> None:
        """Wait until what was logged has left this process.

        Raises:
            RecordError: the viewer is gone or takes nothing any more.
        """
        assert self._viewer is not None
        assert self._recording is not None
        try:
            self._recording.flush(timeout_sec=SEND_TIMEOUT_S)
        except (RuntimeError, ValueError) as error:
            if self._viewer.closed_by_user(wait_s=_END_TIMEOUT_S):
                self._closed_by_user = True
                return
            raise RecordError(
                f"{self.path} takes no data any more: {_reason(error)}; close it, or go on without --view."
            ) from error


class ServeSink(WindowSink):
    """A web page with the viewer at ``port`` and its data at ``port + 1``, for the time of the run.

    On loopback unless another address is given: whoever reaches the port sees the camera.
    """

    _page: Page | None = None

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        host = socket.gethostname() if address == "0.0.0.0" else address
        self.url = f"http://{host}:{port}/?url=rerun%2Bhttp://{host}:{port + 1}/proxy&hide_welcome_screen"
        self.path = Path(f"Rerun's page on {address}:{port}")

    def close(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            page.close()
        super().close()

    def _start(self) -> ViewerProcess:
        from .rerun_page import Page
        from .rerun_viewer import ViewerProcess, check_free, free_port, reachable

        check_free(self._address, self._port + 1, instead="choose another port with --view serve:PORT")
        viewer = (reachable(self._address), free_port(self._address))
        self._page = Page(self._address, self._port, viewer=viewer, data_port=self._port + 1)
        arguments = ["--serve-web", "--web-viewer-port", str(viewer[1])]
        arguments += ["--server-memory-limit", SERVER_MEMORY]
        # The page comes from an origin that Rerun does not know, unless it is opened on this machine.
        arguments += ["--cors-allow-origin", f"http://*:{self._port}"]
        return ViewerProcess(arguments, address=self._address, port=self._port + 1, outlives=False)


class RrdSink(RecordFile):
    """An ``.rrd`` file, written while the run goes on; a kill costs what came after the last flush, and the
    index at the end of the file, which ``rerun rrd merge FILE.rrd -o WHOLE.rrd`` makes anew.

    Rerun's SDK writes into a pipe, and this process from the pipe into the file: on a full disk the SDK waits
    for ever, and says nothing. The file has its name from the first row on.
    """

    needs_pictures = True
    _recording: rr.RecordingStream | None = None
    _scene: Scene
    _pipe: _PipeToFile | None = None
    _run: RunInfo

    def open(self, run: RunInfo) -> None:
        _import_rerun()
        from . import rerun_scene  # noqa: F401  # takes a second, which the first frame need not wait

        self.name_next()
        self.refuse_existing()
        ready_folder(self.path.parent)
        self._run = run
        self._taken = 0

    def write(self, row: Row) -> None:
        if self._recording is None:
            self._start(row)
            self.rows += 1
        else:
            self._scene.log(row)
            self._check()
            self._taken += 1

    def source_changed(self, lost: str) -> None:
        if self._recording is not None:
            self._scene.source_changed(lost)

    def flush(self) -> None:
        if self._recording is not None:
            self._settle(self._recording)
            self._count()
            self.keep()

    def close(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.disconnect()  # writes the rest and the index
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with os_errors_as_sentences(self.path):
                pipe.close()
            self._count()
            self.keep(at_once=True)

    def _count(self) -> None:
        """Rows are written once the SDK has let go of them."""
        self.rows += self._taken
        self._taken = 0

    def _start(self, row: Row) -> None:
        temporary = temporary_name(self.path)
        try:
            with os_errors_as_sentences(self.path):
                self._pipe = _PipeToFile(temporary)
                self._recording, self._scene = _save(self._pipe.path, self._run)
                self._scene.log(row)
                self._settle(self._recording)
                self.refuse_existing()
                move_into_place(temporary, self.path, overwrite=self.overwrite)
            self.files.append(self.path)
        except BaseException:
            with contextlib.suppress(RecordError):
                self.close()
            temporary.unlink(missing_ok=True)
            raise

    def _settle(self, recording: rr.RecordingStream) -> None:
        """Wait until the SDK has let go of every row."""
        try:
            recording.flush(timeout_sec=SEND_TIMEOUT_S)
        except (RuntimeError, ValueError) as error:
            raise RecordError(f"cannot write {self.path}: {_reason(error)}; check the disk.") from error
        self._check()

    def _check(self) -> None:
        assert self._pipe is not None
        with os_errors_as_sentences(self.path):
            self._pipe.check()


class _PipeToFile:
    """A pipe whose other end is a file. It takes data whatever becomes of the file, so no writer ever waits.

    Attributes:
        path: to open for writing, once.
    """

    def __init__(self, file: Path) -> None:
        self._file = open(file, "wb", buffering=0)  # noqa: SIM115  # closed by close()
        self._reader, self._writer = os.pipe()
        self._error: OSError | None = None
        self.path = f"/proc/self/fd/{self._writer}"
        self._thread = threading.Thread(target=self._run, name="edgevae-rrd", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the OSError that writing met, if any."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait for the last byte, after the writer has closed its end; raises what ``check`` does."""
        os.close(self._writer)
        self._thread.join()
        self._file.close()
        self.check()

    def _run(self) -> None:
        with open(self._reader, "rb", buffering=0) as reader:
            while piece := reader.read(1 << 20):
                if self._error is None:
                    try:
                        rest = memoryview(piece)
                        while rest:
                            rest = rest[self._file.write(rest) :]
                    except OSError as error:
                        self._error = error


def _import_rerun() -> None:
    try:
        # Its own log lines would fall into the display of the run; what matters is raised here.
        os.environ.setdefault("RUST_LOG", "off")
        import rerun  # noqa: F401
    except ImportError as error:
        raise RecordError('--view needs Rerun: pip install "edgevae[view]".') from error


def _connect(url: str, run: RunInfo) -> tuple[rr.RecordingStream, Scene]:
    recording, scene = _recording(run)
    recording.connect_grpc(url, default_blueprint=scene.blueprint())
    return recording, scene


def _save(path: str, run: RunInfo) -> tuple[rr.RecordingStream, Scene]:
    recording, scene = _recording(run)
    recording.save(path, default_blueprint=scene.blueprint())
    return recording, scene


def _recording(run: RunInfo) -> tuple[rr.RecordingStream, Scene]:
    """A recording and what goes into it; the program of the user may have recordings of its own."""
    import rerun as rr

    from .rerun_scene import Scene

    # Flushed from outside: a batch then holds several frames, and the file's index stays small.
    batches = rr.ChunkBatcherConfig(flush_tick=datetime.timedelta(seconds=1), flush_num_bytes=8 << 20)
    recording = rr.RecordingStream(_APPLICATION, batcher_config=batches)
    recording.set_log_time_enabled(False)
    recording.set_log_tick_enabled(False)
    recording.send_recording_name(run.source)
    return recording, Scene(recording, run)


def _reason(error: Exception) -> str:
    return str(error).split(", uri:")[0].rstrip(".")
