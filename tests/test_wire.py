"""Messages of latents: read back to the bit, and anything else refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from memory_source import make_frame

import edgevae
from edgevae.errors import RecordError
from edgevae.sinks import Row, RunInfo
from edgevae.wire import pack, unpack


@pytest.fixture
def run(tiny_model_path: Path) -> RunInfo:
    return RunInfo("memory", True, edgevae.load(tiny_model_path, threads=1).spec)


def test_round_trip(run: RunInfo) -> None:
    frame = make_frame(7)
    latent = np.array([0, -0.0, 1e-45, np.nan, np.inf, np.pi, -1, 3], np.float32)
    message = unpack(*pack(Row.of(frame, latent), run))
    assert message.latent.tobytes() == latent.tobytes()
    assert message.latent.flags.writeable
    assert (message.frame, message.timestamp_ns, message.clock) == (7, frame.timestamp_ns, "file")
    assert (message.source, message.model, message.model_sha256) == ("memory", "tiny", run.spec.sha256)
    assert (message.depth_valid, message.depth_scale) == (0.75, 0.001)
    assert message.intrinsics == frame.intrinsics
    assert message.pose is not None
    np.testing.assert_array_equal(message.pose, frame.pose)


def test_frames_without_depth_and_pose(run: RunInfo) -> None:
    frame = make_frame(0, depth=False, pose=False)
    frame.intrinsics = None
    message = unpack(*pack(Row.of(frame, np.zeros(8, np.float32)), run))
    assert np.isnan(message.depth_valid)
    assert message.intrinsics is None
    assert message.pose is None


def test_the_layout_is_what_the_page_says(run: RunInfo) -> None:
    payload, attachment = pack(Row.of(make_frame(0), np.arange(8, dtype=np.float32)), run)
    assert payload == b"".join(np.float32(i).astype("<f4").tobytes() for i in range(8))
    page = (Path(__file__).parent.parent / "docs" / "zenoh.md").read_text()
    for field in json.loads(attachment):
        assert f"`{field}`" in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "its version is 2"),
        ({"version": None}, "its version is None"),
        ({"dimension": 9}, "32 bytes for 9 numbers"),
        ({"dimension": "many"}, "many"),
        ({"pose": [[1, 2], [3, 4]]}, r"shape \(2, 2\)"),
        ({"pose": [[1, 2], [3]]}, "no latent"),
        ({"intrinsics": {"fx": 1}}, "no 'fy'"),
        ({"intrinsics": 7}, "no latent"),
        ({"frame": "x"}, "no latent"),
        ({"timestamp_ns": 1e999}, "no latent"),
    ],
)
def test_a_wrong_message_is_refused(run: RunInfo, change: dict[str, object], words: str) -> None:
    payload, attachment = pack(Row.of(make_frame(0), np.zeros(8, np.float32)), run)
    with pytest.raises(RecordError, match=words):
        unpack(payload, json.dumps({**json.loads(attachment), **change}).encode())


@pytest.mark.parametrize("attachment", [None, b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null", b"[" * 99_999])
def test_nonsense_is_refused(attachment: bytes | None) -> None:
    with pytest.raises(RecordError, match="this is no latent of edgevae"):
        unpack(b"\0" * 32, attachment)
