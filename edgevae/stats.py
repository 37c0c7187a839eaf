"""What a run did: frames counted, and how long each stage took, in fixed memory.

Every duration is kept, none is sampled: each stage has one histogram with logarithmic bins 1 % wide from
1 µs to 1000 s (2084 counters), so a percentile is within 0.5 % of the true value after any number of hours.
The maximum, the mean and the count are exact.
"""

from __future__ import annotations

import datetime
import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

STAGES = ("capture_wait", "pair", "preprocess", "encode", "decode", "sink", "end_to_end")
"""Milliseconds spent, per frame:

- ``capture_wait``: the loop waited for the next frame to arrive.
- ``pair``: the source matched a depth image to the colour image (sources that join two devices or lists).
- ``preprocess``: resizing and packing into the network's input.
- ``encode``: the network, to the latent.
- ``decode``: the network back to colour and depth; only when pictures are written.
- ``sink``: one sink wrote one frame's row, in the sink's own thread.
- ``end_to_end``: from the frame's arrival in this process, or from its time of exposure where a live source
  stamps frames with the host's clock, until its latent exists.
"""

FORMAT_VERSION = 1
_LOWEST_MS = 1e-3
_HIGHEST_MS = 1e6
_LOG_STEP = math.log(1.01)
_BINS = int(math.log(_HIGHEST_MS / _LOWEST_MS) / _LOG_STEP) + 1
_RECENT = 64


class Histogram:
    """Counts of durations in logarithmic bins; see the module's first lines for its precision."""

    def __init__(self) -> None:
        self._counts = array("q", [0]) * _BINS  # as quick to count in as a list, and numpy reads it as it is
        self.count = 0
        self.total_ms = 0.0
        self.min_ms = math.inf
        self.max_ms = 0.0

    def add(self, ms: float) -> None:
        ms = max(ms, 0.0)
        place = int(math.log(ms / _LOWEST_MS) / _LOG_STEP) if ms > _LOWEST_MS else 0
        self._counts[min(place, _BINS - 1)] += 1
        self.count += 1
        self.total_ms += ms
        self.min_ms = min(self.min_ms, ms)
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, percent: float) -> float:
        """The value below or at which ``percent`` of the durations lie (nearest rank), in ms; 0 if empty."""
        return self._percentiles(percent)[0]

    def _percentiles(self, *percents: float) -> list[float]:
        if self.count == 0:
            return [0.0] * len(percents)
        ranks = [max(1, math.ceil(self.count * percent / 100)) for percent in percents]
        places = np.searchsorted(np.cumsum(self._counts), ranks)
        middles_ms = _LOWEST_MS * np.exp((places + 0.5) * _LOG_STEP)
        return [min(max(float(ms), self.min_ms), self.max_ms) for ms in middles_ms]

    def summary(self) -> dict[str, float]:
        """``count``, ``mean``, ``p50``, ``p95``, ``p99`` and ``max``, in milliseconds."""
        p50, p95, p99 = self._percentiles(50, 95, 99)
        mean = self.total_ms / self.count if self.count else 0.0
        return {"count": self.count, "mean": mean, "p50": p50, "p95": p95, "p99": p99, "max": self.max_ms}


class SinkStats:
    """What became of the rows of one sink.

    Attributes:
        name: what it writes.
        rows: rows it has written.
        behind: rows of a live source that found its queue full.
        lost: rows it could not take because it failed.
        failures: how often it failed.
        failing: the sentence of the failure that lasts, empty while the sink works.
    """

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._times = Histogram()
        self._failing_since_s = 0.0
        self.name = name
        self.rows = self.behind = self.lost = self.failures = 0
        self.failing = ""

    @property
    def failing_s(self) -> float:
        """For how long it has been failing; 0 while it works."""
        return time.monotonic() - self._failing_since_s if self.failing else 0.0

    def time(self, ms: float) -> None:
        """Count how long one row took."""
        with self._lock:
            self._times.add(ms)

    def fails(self, sentence: str) -> None:
        """It failed, or could not be opened again."""
        if not self.failing:
            self._failing_since_s = time.monotonic()
            self.failures += 1
        self.failing = sentence or "it failed"

    def works(self) -> None:
        """Rows are written again."""
        self.failing = ""

    def report(self) -> dict[str, Any]:
        """The sink's part of the document that ``--stats`` writes."""
        with self._lock:
            times = self._times.summary()
        return {
            "name": self.name,
            "rows": self.rows,
            "behind": self.behind,
            "lost": self.lost,
            "failures": self.failures,
            "failing": self.failing or None,
            "write_ms": {key: round(value, 4) for key, value in times.items()},
        }


class Stats:
    """Counters and stage latencies of one run; every method may be called from any thread.

    ``frames_in`` is always ``encoded + dropped + skipped``:

    Attributes:
        encoded: frames that became a latent.
        dropped: frames of a live source that arrived while the loop was busy and were replaced by newer ones.
        skipped: frames that were corrupt or of the wrong kind.
        warm_up: frames that were encoded before counting began; no other counter knows them.
        last_skip: why the last skipped frame was skipped.
        source_lost: why the source gives nothing at the moment, empty while it does.
        source_counts: gives what the source counts beside frames, see Source.counts.
        sinks: what became of the rows, sink by sink.
        stopped_by: "frames", "seconds", "end of source", "SIGINT", "SIGTERM", "error", ... once stopped.
        error: the sentence of the error that ended the run, if one did.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost_since_s = 0.0
        self.warm_up = 0
        self.source_lost = ""
        self.source_counts: Callable[[], Mapping[str, float]] = dict
        self.sinks: list[SinkStats] = []
        self.stopped_by = ""
        self.error = ""
        self.begin()

    def begin(self) -> None:
        """Count frames and times from here on; what was counted is forgotten."""
        with self._lock:
            self._stages = {stage: Histogram() for stage in STAGES}
            self._started = datetime.datetime.now(datetime.timezone.utc)
            self._began_s = time.monotonic()
            self._ended_s: float | None = None
            self._first_s = self._last_s = 0.0
            self._recent_s: deque[float] = deque(maxlen=_RECENT)
            self._recent_ms: deque[float] = deque(maxlen=_RECENT)
            self.encoded = 0
            self.dropped = 0
            self.skipped = 0
            self.last_skip = ""

    @property
    def frames_in(self) -> int:
        return self.encoded + self.dropped + self.skipped

    @property
    def not_recorded(self) -> int:
        """Rows that a sink did not take, all sinks together."""
        return sum(sink.behind + sink.lost for sink in self.sinks)

    @property
    def source_lost_s(self) -> float:
        """For how long the source has been lost; 0 while it gives frames."""
        return time.monotonic() - self._lost_since_s if self.source_lost else 0.0

    def source_changed(self, lost: str) -> None:
        """The source was lost, and why; or it gives frames again (an empty string)."""
        if lost and not self.source_lost:
            self._lost_since_s = time.monotonic()
        self.source_lost = lost

    def time(self, stage: str, ms: float) -> None:
        """Count one duration of ``stage`` (one of STAGES)."""
        with self._lock:
            self._stages[stage].add(ms)

    def frame_encoded(self, preprocess_ms: float, encode_ms: float, end_to_end_ms: float) -> None:
        """Count a frame that has just become a latent."""
        with self._lock:
            self._stages["preprocess"].add(preprocess_ms)
            self._stages["encode"].add(encode_ms)
            self._stages["end_to_end"].add(end_to_end_ms)
            self._last_s = time.monotonic()
            if self.encoded == 0:
                self._first_s = self._last_s
            self.encoded += 1
            self._recent_s.append(self._last_s)
            self._recent_ms.append(end_to_end_ms)

    def frame_skipped(self, reason: str) -> None:
        """Count a frame that could not be used."""
        with self._lock:
            self.skipped += 1
            self.last_skip = reason

    def stop(self, reason: str) -> None:
        """The run is over; the clock stands still from here on. The first reason stays."""
        with self._lock:
            self.stopped_by = self.stopped_by or reason
            if self._ended_s is None:
                self._ended_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time from the start of the run to its end, or until now."""
        return (time.monotonic() if self._ended_s is None else self._ended_s) - self._began_s

    @property
    def fps(self) -> float:
        """Latents per second between the first latent and the last."""
        with self._lock:
            span_s = self._last_s - self._first_s
            return (self.encoded - 1) / span_s if self.encoded > 1 and span_s > 0 else 0.0

    @property
    def fps_now(self) -> float:
        """Latents per second over the last 64 of them; falls towards 0 when none come any more."""
        with self._lock:
            if len(self._recent_s) < 2:
                return 0.0
            span_s = time.monotonic() - self._recent_s[0]
            return (len(self._recent_s) - 1) / span_s if span_s > 0 else 0.0

    def recent_ms(self) -> list[float]:
        """End-to-end latencies of the last frames, oldest first."""
        with self._lock:
            return list(self._recent_ms)

    def stages(self) -> dict[str, dict[str, float]]:
        """The summary of each stage that happened at least once."""
        with self._lock:
            return {name: stage.summary() for name, stage in self._stages.items() if stage.count}

    def report(self, **about: Any) -> dict[str, Any]:
        """The document that ``--stats`` writes; ``about`` (source, model, ...) goes in front.

        A stage that never happened has the count 0 and null for its times.
        """
        never: dict[str, float | None] = {**dict.fromkeys(Histogram().summary()), "count": 0}
        stages = self.stages()
        return {
            "format_version": FORMAT_VERSION,
            **about,
            "started": self._started.isoformat(timespec="milliseconds"),
            "seconds": round(self.seconds, 3),
            "stopped_by": self.stopped_by,
            "error": self.error or None,
            "frames": {
                "in": self.frames_in,
                "encoded": self.encoded,
                "dropped": self.dropped,
                "skipped": self.skipped,
                "not_recorded": self.not_recorded,
            },
            "warm_up": self.warm_up,
            "source_state": {"lost": self.source_lost or None, **self.source_counts()},
            "sinks": [sink.report() for sink in self.sinks],
            "last_skip": self.last_skip or None,
            "fps": round(self.fps, 3),
            "stages_ms": {
                name: {key: round(value, 4) for key, value in stages[name].items()}
                if name in stages
                else never
                for name in STAGES
            },
        }
