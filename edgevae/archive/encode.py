"""One source to rows: what each thread of the local engine and each worker of Ray does.

Frames are encoded one by one. Batches were measured (shipped model and width 64, batches of 1 to 32, one
thread): at most 6 % faster, where reading a frame's pictures takes eight times as long as encoding them.
What helps is reading several sources at once, which the engines do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ..errors import FrameError, SourceError, SourceLost
from ..model import Model
from ..sinks.base import Row
from ..sources import open_source
from ..sources.opencv import without_password
from ..stream import BAD_FRAMES_IN_A_ROW
from .plan import Block, Done, Finished, Problem, Task

BLOCK_ROWS = 64
BLOCK_SECONDS = 0.25


def encode_source(task: Task, model: Model, stopped: Callable[[], bool] = lambda: False) -> Iterator[Block]:
    """Encode the frames of one source.

    The same source gives the same rows to the last bit, whatever ``task.after`` and the model's threads are.

    Args:
        task: which source.
        model: what encodes it.
        stopped: asked between frames; when it says yes, the source is left without ``Finished``.

    Yields:
        Rows and problems in the order of the frames, and last, unless it was stopped, ``Finished``.
    """
    block: Block = []
    began_s = time.monotonic()
    try:
        for item in _items(task, model, stopped):
            block.append(item)
            if len(block) >= BLOCK_ROWS or time.monotonic() - began_s >= BLOCK_SECONDS:
                yield block
                block, began_s = [], time.monotonic()
    except _Failure as failure:
        block.append(failure.problem)
    if not stopped():
        block.append(Finished(task.source))
    yield block


class _Failure(Exception):
    """The source ends here, with this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


def _items(task: Task, model: Model, stopped: Callable[[], bool]) -> Iterator[Done | Problem]:
    number, name = task.source, without_password(task.uri)
    last, good, bad, bad_in_a_row, last_bad = -1, 0, 0, 0, ""
    try:
        with open_source(task.uri, depth=task.depth, calibration=task.calibration) as source:
            if source.live and not task.alone:
                raise SourceError(
                    f"{name} is live: it has no end, and its frames cannot be read again; embed it alone."
                )
            if source.endless and not task.alone:
                raise SourceError(f"{name} has no end; give it one, as in synthetic:7?frames=300.")
            while not stopped():
                try:
                    frame = source.read()
                    if frame is None:
                        break
                    last = frame.index
                    if last <= task.after:
                        good += 1
                        continue
                    encoded = model.encode_frame(frame)
                except SourceLost:
                    if not source.live:
                        raise
                    continue  # the device is being looked for
                except FrameError as error:
                    bad, bad_in_a_row, last_bad = bad + 1, bad_in_a_row + 1, str(error)
                    if last >= task.after:
                        yield Problem(number, last, last_bad, failed=False)
                    if bad_in_a_row >= BAD_FRAMES_IN_A_ROW:
                        raise FrameError(
                            f"{bad_in_a_row} frames in a row of {name} were unusable; the last: {last_bad}"
                        ) from error
                    continue
                good, bad_in_a_row = good + 1, 0
                yield Done(
                    number,
                    Row.of(frame, encoded.latent),
                    encoded.preprocess_ms,
                    encoded.encode_ms,
                    (time.monotonic_ns() - frame.arrival_ns) / 1e6,
                    source.dropped,
                )
        if good == 0 and not stopped():
            if bad:
                raise FrameError(f"none of the {bad} frames of {name} was usable; the last: {last_bad}")
            raise SourceError(f"{name} ended before its first frame; wanted at least one frame.")
    except (SourceError, FrameError) as error:
        raise _Failure(Problem(number, last, str(error), failed=True)) from error
    except Exception as error:  # thousands of files bring errors that nobody foresaw; the other files go on
        reason = f"{name}: {type(error).__name__}: {error}"
        raise _Failure(Problem(number, last, " ".join(reason.split()), failed=True)) from error
