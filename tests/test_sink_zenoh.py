"""Latents by Zenoh over loopback: order, content, late and dying peers, wrong endpoints."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from listeners import listening
from memory_source import MemorySource, make_frame

import edgevae
from edgevae import stream
from edgevae.cli import main
from edgevae.errors import RecordError
from edgevae.model import Model
from edgevae.sinks import Row, RunInfo
from edgevae.sinks.zenoh import ZenohSink
from edgevae.wire import Message, unpack

zenoh = pytest.importorskip("zenoh")

EXAMPLE = Path(__file__).parent.parent / "examples" / "zenoh_subscriber.py"
DEADLINE_S = 60.0


@pytest.fixture
def endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{probe.getsockname()[1]}"


def wait_for(condition: Any) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class Peer:
    """A session of this process that listens or connects, and keeps what it is sent."""

    def __init__(self, *, listen: str | None = None, connect: str | None = None) -> None:
        config = zenoh.Config()
        config.insert_json5("listen/endpoints", json.dumps([listen] if listen else []))
        config.insert_json5("connect/endpoints", json.dumps([connect] if connect else []))
        config.insert_json5("scouting/multicast/enabled", "false")
        self.session = zenoh.open(config)
        self.messages: list[Message] = []
        self.states: list[dict[str, Any]] = []
        self.subscribers = [
            self.session.declare_subscriber("edgevae/*/latent", self._latent),
            self.session.declare_subscriber("edgevae/*/source", self._source),
        ]

    def _latent(self, sample: Any) -> None:
        self.messages.append(unpack(sample.payload.to_bytes(), sample.attachment.to_bytes()))

    def _source(self, sample: Any) -> None:
        self.states.append(json.loads(sample.payload.to_bytes()))

    def ask(self, key: str) -> list[dict[str, Any]]:
        return [json.loads(reply.ok.payload.to_bytes()) for reply in self.session.get(key) if reply.ok]

    def alive(self, key: str) -> list[str]:
        return [str(reply.ok.key_expr) for reply in self.session.liveliness().get(key) if reply.ok]


@pytest.fixture
def peer(endpoint: str) -> Iterator[Peer]:
    peer = Peer(listen=endpoint)
    yield peer
    peer.session.close()


def opened(sink: ZenohSink, model: Model, *, live: bool = True) -> ZenohSink:
    sink.open(RunInfo("memory", live, model.spec))
    return sink


def row(model: Model, index: int) -> Row:
    frame = make_frame(index)
    return Row.of(frame, model.encode(frame.rgb, frame.depth))


def test_a_file_arrives_in_order_and_to_the_bit(model: Model, peer: Peer, endpoint: str) -> None:
    sink = ZenohSink(endpoint, key="edgevae/robot-7")
    stream.run(MemorySource(500), model, [sink])
    wait_for(lambda: len(peer.messages) == 500)
    assert [message.frame for message in peer.messages] == list(range(500))
    for message in peer.messages[::50]:
        expected = row(model, message.frame)
        assert message.latent.tobytes() == expected.latent.tobytes()
        assert message.timestamp_ns == expected.timestamp_ns
    assert str(sink.path) == "edgevae/robot-7/latent"
    assert sink.rows == 500


def test_nothing_listens_but_the_given_endpoint(model: Model, peer: Peer, endpoint: str) -> None:
    before = listening()
    connecting = opened(ZenohSink(endpoint), model)
    assert listening() == before
    connecting.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sink = opened(ZenohSink(f"listen:tcp/127.0.0.1:{port}"), model)
    assert listening() - before == {("127.0.0.1", port)}
    sink.close()


def test_a_late_subscriber_gets_what_comes_from_then_on(model: Model, endpoint: str) -> None:
    sink = opened(ZenohSink(f"listen:{endpoint}", key="edgevae/a"), model)
    for i in range(5):
        sink.write(row(model, i))
        sink.flush()  # nobody there is no failure for one that listens
    late = Peer(connect=endpoint)
    index = 5
    deadline_s = time.monotonic() + DEADLINE_S
    while len(late.messages) < 3:  # until its subscription has come through
        assert time.monotonic() < deadline_s
        sink.write(row(model, index))
        index += 1
        time.sleep(0.05)
    frames = [message.frame for message in late.messages]
    assert frames[0] >= 5
    assert frames == list(range(frames[0], frames[0] + len(frames)))
    late.session.close()
    sink.close()


def test_the_state_of_the_source_and_of_the_stream(model: Model, peer: Peer, endpoint: str) -> None:
    sink = opened(ZenohSink(endpoint, key="edgevae/a"), model)
    wait_for(lambda: peer.alive("edgevae/*/alive") == ["edgevae/a/alive"])
    wait_for(lambda: peer.ask("edgevae/a/source"))
    assert peer.ask("edgevae/a/source") == [{"version": 1, "source": "memory", "lost": None}]
    sink.source_changed("the camera was unplugged.")
    wait_for(lambda: peer.states and peer.states[-1]["lost"] == "the camera was unplugged.")
    assert peer.ask("edgevae/a/source")[0]["lost"] == "the camera was unplugged."
    sink.source_changed("")
    wait_for(lambda: peer.states[-1]["lost"] is None)
    sink.close()
    wait_for(lambda: peer.alive("edgevae/*/alive") == [])


def test_a_peer_that_dies_is_noticed_and_found_again(model: Model, endpoint: str, tmp_path: Path) -> None:
    code = f"""
import json, sys, time, zenoh
config = zenoh.Config()
config.insert_json5("listen/endpoints", json.dumps(["{endpoint}"]))
config.insert_json5("scouting/multicast/enabled", "false")
with zenoh.open(config) as session, session.declare_subscriber("edgevae/a/latent") as subscriber:
    print("ready", flush=True)
    for sample in subscriber:
        print(json.loads(sample.attachment.to_bytes())["frame"], flush=True)
"""

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def write_until_one_arrives(process: subprocess.Popen[str], first: int) -> None:
        sink.write(row(model, first))
        sink.flush()
        assert process.stdout is not None
        assert process.stdout.readline() == f"{first}\n"

    process = start()
    sink = opened(ZenohSink(endpoint, key="edgevae/a"), model, live=False)
    time.sleep(0.5)  # a subscription takes a moment to get here
    write_until_one_arrives(process, 0)
    process.kill()
    process.communicate()

    def write_on() -> bool:
        sink.write(row(model, 1))  # is not held up by it either
        sink.flush()
        return False

    with pytest.raises(RecordError, match=f"peer at {endpoint} is gone"):
        wait_for(write_on)
    sink.close()
    began_s = time.monotonic()
    with pytest.raises(RecordError, match=f"Zenoh cannot reach {endpoint}: "):
        opened(sink, model)
    assert time.monotonic() - began_s < DEADLINE_S
    process = start()
    opened(sink, model, live=False)
    time.sleep(0.5)
    write_until_one_arrives(process, 2)
    sink.close()
    sink.close()
    process.kill()
    process.communicate()


def test_a_port_that_is_taken(model: Model, peer: Peer, endpoint: str) -> None:
    with pytest.raises(RecordError, match=f"cannot publish on {endpoint}: .*is the port taken"):
        opened(ZenohSink(f"listen:{endpoint}"), model)


@pytest.mark.parametrize(
    "wrong", ["", "7447", "127.0.0.1:7447", "listen:", "listen=tcp/127.0.0.1:1", "tcp/a b"]
)
def test_wrong_endpoints(wrong: str) -> None:
    with pytest.raises(RecordError, match="wanted --zenoh tcp/ADDRESS:PORT"):
        ZenohSink(wrong)


@pytest.mark.parametrize("wrong", ["/a", "a/", "a//b", "a/*", "a/**/b", "a$*", "a?b", "a#b", "a b"])
def test_wrong_keys(wrong: str) -> None:
    with pytest.raises(RecordError, match="cannot be published at"):
        ZenohSink("tcp/127.0.0.1:7447", key=wrong)


@pytest.mark.parametrize("wrong", ["tcp/nowhere.invalid:7447", "tcp/127.0.0.1", "nosuch/127.0.0.1:7447"])
def test_endpoints_that_zenoh_refuses(model: Model, wrong: str) -> None:
    with pytest.raises(RecordError, match="Zenoh cannot reach"):
        opened(ZenohSink(wrong), model)


def test_the_example_decodes_what_a_stream_publishes(
    tiny_model_path: Path, model: Model, endpoint: str, tmp_path: Path
) -> None:
    example = subprocess.Popen(
        [sys.executable, str(EXAMPLE), endpoint, str(tmp_path / "out"), str(tiny_model_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    host, port = endpoint.removeprefix("tcp/").split(":")
    wait_for(lambda: (host, int(port)) in listening(example.pid))
    arguments = ["stream", "--camera", "synthetic:5", "--frames", "20", "--model", str(tiny_model_path)]
    assert main([*arguments, "--zenoh", endpoint, "--zenoh-key", "edgevae/car", "--quiet"]) == 0
    assert example.stdout is not None
    lines = [example.stdout.readline() for _ in range(20)]
    example.terminate()
    example.communicate()
    assert lines[19] == f"synthetic:5 frame 19 at {19 * 10**9 // 30} ns\n"
    with edgevae.open_source("synthetic:5") as source:
        for index, frame in zip(range(20), source, strict=False):
            rgb, depth_m = model.decode(model.encode_frame(frame).latent)
            colour = cv2.imread(str(tmp_path / "out" / f"{index:06d}.png"))
            assert np.abs(colour[..., ::-1].astype(int) - rgb).max() <= 1
            depth_mm = cv2.imread(str(tmp_path / "out" / f"{index:06d}_mm.png"), cv2.IMREAD_UNCHANGED)
            assert depth_m is not None
            np.testing.assert_allclose(depth_mm, np.minimum(depth_m * 1000, 65535), rtol=1e-3, atol=1.5)
