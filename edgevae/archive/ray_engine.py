"""The engine on Ray Data: workers are actors with a model each, on this machine or on many.

Ray starts a task again whose worker died, and hands on what the task gives once, in the order of the tasks.
A task gives the same rows each time, so a new start costs time and nothing else.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import EdgevaeError
from ..model import ModelSpec, load
from .encode import encode_source
from .plan import Block, Place, Plan

CPUS_A_WORKER = 0.5  # two workers of a whole one each would leave a machine of two cores none for reading
MAX_TASKS = 4096  # many small sources share one: Ray takes milliseconds for each
_POLL_S = 0.1


class RayEngine:
    """Encodes on a Ray of this machine's own, or on a cluster.

    Args:
        spec: of the model; the file must lie under the same path on every machine.
        isa: instruction set, as in ``edgevae.load``.
        workers: how many; None for one a core of this machine, or of the cluster.
        address: of a running cluster (``HOST:6379``, ``ray://HOST:10001``); None starts Ray here, on the
            loopback device, and ends it afterwards.

    Raises:
        EdgevaeError: Ray is not installed.
    """

    def __init__(
        self, spec: ModelSpec, *, isa: str = "", workers: int | None = None, address: str | None = None
    ) -> None:
        # Read when the package is first imported: nothing is reported to Ray's makers, and a Ray of this
        # machine's own listens on 127.0.0.1 alone (Ray's switch for systems that have firewall pop-ups), to
        # who knows a token made for this run.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
        try:
            import pyarrow  # noqa: F401
            import ray.data  # noqa: F401
        except ImportError as error:
            raise EdgevaeError('--engine ray needs Ray Data; run: pip install "edgevae[ray]".') from error
        self._spec, self._isa, self._workers, self._address = spec, isa, workers, address

    def blocks(self, plan: Plan, place: Place) -> Generator[Block]:
        """The items of ``plan`` behind ``place``; an empty block when nothing came for a tenth of a second.

        Raises:
            EdgevaeError: the cluster cannot be reached, a machine has another model file, or Ray failed.
        """
        try:
            with _running(self._address, self._workers) as cores:
                yield from _in_a_thread(self._run(plan, place, cores))
        except (EdgevaeError, GeneratorExit):
            raise
        except Exception as error:  # Ray's errors are of many kinds and carry a worker's traceback
            raise EdgevaeError(f"Ray gave up: {_last_line(error)}") from error

    def _run(self, plan: Plan, place: Place, cores: int) -> Iterator[Block]:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        tasks = [plan.task(number, place) for number in range(place.source, len(plan.sources))]
        workers = max(1, min(self._workers or cores, len(tasks), int(cores / CPUS_A_WORKER)))
        rows = ray.data.from_items(
            [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=min(len(tasks), MAX_TASKS)
        ).map_batches(
            _Worker,
            batch_size=1,
            fn_constructor_args=(
                str(Path(self._spec.path).resolve()),
                self._spec.sha256,
                self._isa,
                str(Path.cwd()),
            ),
            num_cpus=CPUS_A_WORKER,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        batches: Any = rows.iter_batches(batch_size=None, batch_format="pyarrow")
        for batch in batches:
            for content in batch.column("block").to_pylist():
                yield pickle.loads(content)  # from a worker of this run


class _Worker:
    """One actor: a model on one thread, which takes one source after the other."""

    def __init__(self, path: str, sha256: str, isa: str, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)  # relative names of sources mean the same here
        self._model = load(path, device="cpu", threads=1, isa=isa)
        if self._model.spec.sha256 != sha256:
            raise EdgevaeError(
                f"{path} is another model file on this machine than where the run was started."
            )

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for content in batch["task"]:
            for block in encode_source(pickle.loads(content), self._model):
                yield {"block": [pickle.dumps(block)]}


@contextmanager
def _running(address: str | None, workers: int | None) -> Iterator[int]:
    """Connect to Ray, or start it here, and leave it; gives the number of its cores."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    here = threading.current_thread() is threading.main_thread()
    folder = Path(tempfile.mkdtemp(prefix="edgevae-ray-", dir="/tmp" if Path("/tmp").is_dir() else None))
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            cores = max(2, workers or len(os.sched_getaffinity(0)))
            ray.init("local", num_cpus=cores, include_dashboard=False, _temp_dir=str(folder), **options)
        else:
            _check_reachable(address)
            try:
                ray.init(address, **options)
            except Exception as error:
                raise EdgevaeError(
                    f"the Ray cluster at {address} refused: {_last_line(error)}; its version of Ray and "
                    "RAY_AUTH_TOKEN must be the same here."
                ) from error
        if here:
            signal.signal(signal.SIGTERM, handler)  # ray.init puts its own in place
        resources: Any = ray.cluster_resources  # which has no types
        yield int(resources().get("CPU", 1))
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _check_reachable(address: str) -> None:
    """Raise EdgevaeError unless something listens there; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise EdgevaeError(f"Ray's address is '{address}', wanted HOST:PORT or ray://HOST:PORT.")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EdgevaeError(
            f"no Ray cluster answers at {address}: {reason}; run 'ray status' there."
        ) from error


def _in_a_thread(blocks: Iterator[Block]) -> Iterator[Block]:
    """``blocks`` as another thread gets them, and empty ones meanwhile: Ray itself cannot be interrupted."""
    done: queue.Queue[Block | BaseException | None] = queue.Queue(maxsize=16)
    leaving = threading.Event()

    def offer(item: Block | BaseException | None) -> None:
        while not leaving.is_set():
            try:
                return done.put(item, timeout=_POLL_S)
            except queue.Full:
                pass

    def run() -> None:
        try:
            for block in blocks:
                offer(block)
                if leaving.is_set():
                    return
            offer(None)
        except BaseException as error:
            offer(error)

    threading.Thread(target=run, name="edgevae-ray", daemon=True).start()
    try:
        while True:
            try:
                item = done.get(timeout=_POLL_S)
            except queue.Empty:
                yield []
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        leaving.set()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
