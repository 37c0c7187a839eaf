"""``edgevae embed --engine ray``: the local engine's rows to the last bit, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevae.cli import main
from edgevae.latents import read_latents

pytest.importorskip("ray.data", reason="the engine on Ray needs ray[data]")

FOLDERS, PICTURES, FRAMES = 10, 6, 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders of pictures large enough to keep two workers busy for some seconds, and a missing one."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(4)
    for i in range(PICTURES):
        cv2.imwrite(str(root / f"{i}.png"), rng.integers(0, 256, (480, 640, 3), np.uint8))
    for folder in range(FOLDERS):
        (root / f"folder{folder}").mkdir()
        for i in range(FRAMES):
            (root / f"folder{folder}" / f"{i}.png").symlink_to(root / f"{(folder + i) % PICTURES}.png")
    names = [str(root / f"folder{folder}") for folder in range(FOLDERS)]
    return [*names[:3], str(root / "nowhere"), *names[3:]]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgevae", "embed", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parents[int(entry.name)] = int(status.partition("PPid:")[2].split()[0])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def workers_of(pid: int) -> list[int]:
    """Processes of Ray's actors that belong to the run ``pid``."""
    actors = []
    for child in descendants(pid):
        try:
            name = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"MapWorker" in name:
            actors.append(child)
    return actors


def listening_addresses(pids: list[int]) -> set[str]:
    """Local addresses, in hexadecimal, of the listening TCP sockets of these processes."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_a_killed_worker_changes_nothing(tiny_model_path: Path, tmp_path: Path, corpus: list[str]) -> None:
    model = ["--model", tiny_model_path, "-q"]
    local = tmp_path / "local.h5"
    assert main(["embed", *corpus, "-o", str(local), *map(str, model)]) == 2
    path, report = tmp_path / "ray.parquet", tmp_path / "s.json"
    process = start(*corpus, "-o", path, *model, "--engine", "ray", "--workers", 2, "--stats", report)
    killed, listening = 0, set()
    deadline_s = time.monotonic() + 120
    while process.poll() is None and not killed and time.monotonic() < deadline_s:
        workers = workers_of(process.pid)
        if len(workers) == 2:
            listening = listening_addresses(descendants(process.pid))
            time.sleep(1.0)  # long enough to be in the middle of a source
            os.kill(workers[0], signal.SIGKILL)
            killed += 1
        time.sleep(0.05)
    _, complaint = process.communicate(timeout=120)
    assert killed == 1
    assert process.returncode == 2, complaint
    assert f"1 of {len(corpus)} sources could not be read" in complaint
    assert listening
    assert listening <= LOOPBACK
    wanted, got = read_latents(local), read_latents(path)
    assert len(wanted) == FOLDERS * FRAMES
    np.testing.assert_array_equal(got.latent, wanted.latent)
    np.testing.assert_array_equal(got.frame, wanted.frame)
    np.testing.assert_array_equal(got.timestamp_ns, wanted.timestamp_ns)
    names = [[record.source_of(i) for i in range(len(record))] for record in (got, wanted)]
    assert names[0] == names[1]
    assert json.loads(report.read_text())["frames"]["encoded"] == FOLDERS * FRAMES


def test_stopping_and_going_on(tiny_model_path: Path, tmp_path: Path, corpus: list[str]) -> None:
    path = tmp_path / "z.h5"
    good = corpus[4:]
    options = ["-o", path, "--model", tiny_model_path, "-q", "--workers", "2"]
    process = start(*good, *options, "--engine", "ray")
    deadline_s = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 143, complaint
    assert "--resume goes on" in complaint
    rows = len(read_latents(path))
    assert 0 < rows < len(good) * FRAMES
    assert main(["embed", *good, *map(str, options), "--resume"]) == 0  # with the local engine
    record = read_latents(path)
    got = [(record.source_of(i), int(record.frame[i])) for i in range(len(record))]
    assert got == [(name, i) for name in good for i in range(FRAMES)]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9: Connection refused"),
        ("ray://127.0.0.1:9", "no Ray cluster answers at ray://127.0.0.1:9: Connection refused"),
        ("the other machine", "wanted HOST:PORT"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
    ],
)
def test_no_cluster_is_one_sentence(
    tiny_model_path: Path,
    tmp_path: Path,
    corpus: list[str],
    address: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["embed", corpus[0], "-o", str(tmp_path / "z.h5"), "--model", str(tiny_model_path), "-q"]
    assert main([*arguments, "--engine", "ray", "--ray-address", address]) == 2
    complaint = capsys.readouterr().err
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
