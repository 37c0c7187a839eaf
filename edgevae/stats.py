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
from collections import deque
from typing import Any

import numpy as np

STAGES = ("capture_wait", "pair", "preprocess", "encode", "decode", "sink", "end_to_end")
"""Milliseconds spent, per frame:

- ``capture_wait``: the loop waited for the next frame to arrive.
- ``pair``: the source matched a depth image to the colour image (sources that join two devices or lists).
- ``preprocess``: resizing and packing into the network's input.
- ``encode``: the network, to the latent.
- ``decode``: the network back to colour and depth; only when pictures are written.
- ``sink``: writing one frame's record and pictures, in the sinks' own thread.
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
        self._counts = [0] * _BINS
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
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(self.count * percent / 100))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        middle_ms = _LOWEST_MS * math.exp((place + 0.5) * _LOG_STEP)
        return min(max(middle_ms, self.min_ms), self.max_ms)

    def summary(self) -> dict[str, float]:
        """``count``, ``mean``, ``p50``, ``p95``, ``p99`` and ``max``, in milliseconds."""
        return {
            "count": self.count,
            "mean": self.total_ms / self.count if self.count else 0.0,
            "p50": self.percentile(50),
            "p95": self.percentile(95),
            "p99": self.percentile(99),
            "max": self.max_ms,
        }


class Stats:
    """Counters and stage latencies of one run; every method may be called from any thread.

    ``frames_in`` is always ``encoded + dropped + skipped``:

    Attributes:
        encoded: frames that became a latent.
        dropped: frames of a live source that arrived while the loop was busy and were replaced by newer ones.
        skipped: frames that were corrupt or of the wrong kind.
        not_recorded: frames of a live source that were encoded but found the sinks' queue full.
        last_skip: why the last skipped frame was skipped.
        stopped_by: "frames", "seconds", "end of source", "SIGINT", "SIGTERM", "error", ... once stopped.
        error: the sentence of the error that ended the run, if one did.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
        self.not_recorded = 0
        self.last_skip = ""
        self.stopped_by = ""
        self.error = ""

    @property
    def frames_in(self) -> int:
        return self.encoded + self.dropped + self.skipped

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
            "last_skip": self.last_skip or None,
            "fps": round(self.fps, 3),
            "stages_ms": {
                name: {key: round(value, 4) for key, value in stages[name].items()}
                if name in stages
                else never
                for name in STAGES
            },
        }
