"""Percentiles in fixed memory, counters, and the document that --stats writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgevae.errors import RecordError
from edgevae.files import write_json
from edgevae.stats import STAGES, Histogram, Stats


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_percentiles_are_within_half_a_percent(rng: np.random.Generator, spread: float) -> None:
    times_ms = np.exp(rng.normal(1.0, spread, 5000))
    histogram = Histogram()
    for ms in times_ms:
        histogram.add(float(ms))
    for percent in (1, 50, 95, 99, 100):
        true = np.sort(times_ms)[max(1, int(np.ceil(len(times_ms) * percent / 100))) - 1]
        assert histogram.percentile(percent) == pytest.approx(true, rel=0.00501)  # bins 1 % wide, middle
    summary = histogram.summary()
    assert summary["max"] == times_ms.max()
    assert summary["mean"] == pytest.approx(times_ms.mean())
    assert summary["count"] == 5000


def test_a_single_duration_is_exact() -> None:
    histogram = Histogram()
    histogram.add(7.123)
    assert histogram.percentile(50) == histogram.percentile(99) == 7.123


@pytest.mark.parametrize("ms", [0.0, -1.0, 1e-9, 1e9])
def test_durations_outside_the_bins_are_counted(ms: float) -> None:
    histogram = Histogram()
    histogram.add(ms)
    assert histogram.count == 1
    assert histogram.max_ms == max(ms, 0.0)
    assert histogram.percentile(50) == max(ms, 0.0)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert Histogram().percentile(99) == 0.0


def test_memory_does_not_grow() -> None:
    stats = Stats()
    sizes = []
    for _ in range(2):
        for i in range(2000):
            stats.frame_encoded(0.1, 1.0 + i % 7, 2.0)
        sizes.append((len(stats.recent_ms()), len(stats._stages["encode"]._counts)))
    assert sizes[0] == sizes[1]


def test_report(tmp_path: Path) -> None:
    stats = Stats()
    for _ in range(3):
        stats.frame_encoded(0.5, 2.0, 4.0)
    stats.frame_skipped("torn frame.")
    stats.dropped = 2
    stats.stop("frames")
    stats.stop("error")
    write_json(tmp_path / "s.json", stats.report(source={"name": "x"}))
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["frames"] == {"in": 6, "encoded": 3, "dropped": 2, "skipped": 1, "not_recorded": 0}
    assert report["stopped_by"] == "frames"
    assert report["last_skip"] == "torn frame."
    assert report["source"] == {"name": "x"}
    assert set(report["stages_ms"]) == set(STAGES)
    assert report["stages_ms"]["encode"]["p99"] == pytest.approx(2.0)
    assert report["stages_ms"]["decode"] == dict.fromkeys(("mean", "p50", "p95", "p99", "max")) | {"count": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_the_clock_stops_with_the_run() -> None:
    stats = Stats()
    stats.stop("end of source")
    assert stats.seconds == stats.seconds


def test_fps_is_over_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = iter(np.arange(100.0, 200.0, 0.1))
    monkeypatch.setattr("edgevae.stats.time.monotonic", lambda: float(next(clock_s)))
    stats = Stats()
    for _ in range(11):
        stats.frame_encoded(0.1, 0.1, 0.1)
    assert stats.fps == pytest.approx(10.0)


def test_an_unwritable_report_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"cannot write .*s\.json: Not a directory"):
        write_json(tmp_path / "file" / "s.json", {})
