"""The cache of decoded images: bad files, kills, several writers, large sets."""

from __future__ import annotations

import logging
import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgevae.errors import RecordError, SourceError
from training.data import SetOptions, open_set
from training.data.readers import ImageFolder, Picture
from training.data.sets import FrameSet


def opened(tmp_path: Path, **options: Any) -> FrameSet:
    return open_set(
        SetOptions(**({"kind": "images", "path": "photos"} | options)), tmp_path, tmp_path / "cache"
    )


def write_photos(tmp_path: Path, count: int, suffix: str = ".png", size: int = 24) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(5)
    paths = [folder / f"{i:05d}{suffix}" for i in range(count)]
    for path in paths:
        noise = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
        assert cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 2))
    return paths


# What can befall a file: it is cut somewhere, or its end was never written though its size was.
CUTS = {
    "by a byte": lambda data: data[:-1],
    "in its end mark": lambda data: data[:-6],
    "late": lambda data: data[: len(data) * 9 // 10],
    "in the middle": lambda data: data[: len(data) // 2],
    "early": lambda data: data[:30],
    "to nothing": lambda data: b"",
    "by zeros": lambda data: data[: len(data) // 2].ljust(len(data), b"\0"),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_pictures_are_found(tmp_path: Path, suffix: str, cut: str) -> None:
    if (suffix, cut) == (".webp", "by zeros"):
        pytest.skip("its arithmetic coder takes zeros for picture")
    paths = write_photos(tmp_path, 4, suffix, size=64)
    paths[2].write_bytes(CUTS[cut](paths[2].read_bytes()))
    frames = opened(tmp_path, max_bad=0.3)
    assert [entry.name for entry in frames.entries] == [paths[i].name for i in (0, 1, 3)]
    assert frames.skipped == 1


def test_bad_files_are_skipped_counted_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = write_photos(tmp_path, 300)
    paths[7].write_bytes(b"")
    paths[200].write_text("no picture")
    with caplog.at_level(logging.INFO):
        frames = opened(tmp_path)
    assert frames.color.shape == (298, 24, 24, 3)
    (listed,) = tmp_path.glob("cache/*/skipped.txt")
    for path, line in zip((paths[7], paths[200]), listed.read_text().splitlines(), strict=True):
        assert str(path) in line
    said = [record.message for record in caplog.records if "are skipped" in record.message]
    assert said == [
        f"2 of 300 pictures of set 'photos' (0.67%) cannot be used and are skipped; {listed} lists them"
    ]
    np.testing.assert_array_equal(frames.color[7], cv2.imread(str(paths[8]))[..., ::-1])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        opened(tmp_path)
    assert len(caplog.records) == 1, "the next run says so, too, and decodes nothing"


def test_too_many_bad_files_stop_the_run(tmp_path: Path) -> None:
    paths = write_photos(tmp_path, 50)
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    words = (
        r"1 of 50 pictures of set 'photos' \(2\.00%\) cannot be used, 1\.00% are allowed; the first: picture "
        rf"{re.escape(str(paths[3]))} is truncated.*skipped\.txt lists all: .* raise the set's max_bad"
    )
    for _ in range(2):
        with pytest.raises(SourceError, match=words):
            opened(tmp_path)
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("cache/*/*")}
    assert len(opened(tmp_path, max_bad=0.02)) == 49
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("cache/*/*")} == made, "nothing is decoded anew"
    paths[3].unlink()
    assert len(opened(tmp_path)) == 49


def test_no_picture_can_be_used(tmp_path: Path) -> None:
    for path in write_photos(tmp_path, 3):
        path.write_bytes(b"x")
    with pytest.raises(SourceError, match="none of the 3 pictures"):
        opened(tmp_path, max_bad=1.0)
    assert not list((tmp_path / "cache").iterdir())


def test_depth_out_of_range_is_bad(tmp_path: Path) -> None:
    for name, image in (
        ("color", np.zeros((8, 8, 3), np.uint8)),
        ("depth", np.full((8, 8), 3000, np.uint16)),
    ):
        (tmp_path / "rooms" / name).mkdir(parents=True)
        for i in range(3):
            assert cv2.imwrite(str(tmp_path / "rooms" / name / f"{i}.png"), image)
    options = {"kind": "pairs", "path": "rooms"}
    assert len(opened(tmp_path, **options)) == 3
    with pytest.raises(
        SourceError, match=r"0\.png: no depth is below 131\.07 m, the nearest is 3000 m; are depth_s"
    ):
        opened(tmp_path, **options, depth_scale=1.0)
    with pytest.raises(SourceError, match="no depth is below 2 m"):
        opened(tmp_path, **options, max_depth_m=2.0)


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path, 6)
    read = ImageFolder.read

    def interrupted(self: ImageFolder, index: int) -> Picture:
        if index == 4:
            assert len(list((tmp_path / "cache").glob(".*.part/*"))) == 3
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(ImageFolder, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    assert not list((tmp_path / "cache").iterdir())
    assert len(opened(tmp_path)) == 6


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    write_photos(tmp_path, 6)
    opened(tmp_path)
    (made,) = (tmp_path / "cache").iterdir()
    half = made.with_name(f".{made.name}.part")
    made.rename(half)
    (half / "about.json").unlink()
    (half / "more").write_bytes(bytes(1000))
    assert len(opened(tmp_path)) == 6
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.name]
    assert not (made / "more").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_of_two_writers_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    write_photos(tmp_path, 6)
    read, begun, go_on, reads = ImageFolder.read, threading.Event(), threading.Event(), []

    def slow(self: ImageFolder, index: int) -> Picture:
        reads.append(index)
        if len(reads) == 3:
            begun.set()
            assert go_on.wait(60)
            if fails:
                raise SourceError("gone")
        return read(self, index)

    monkeypatch.setattr(ImageFolder, "read", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(opened, tmp_path)
        assert begun.wait(60)
        second = pool.submit(opened, tmp_path)
        time.sleep(0.2)  # time for it to come to the lock; the result is the same if it does not
        assert not second.done()
        go_on.set()
        assert len(second.result(60)) == 6
        assert isinstance(first.exception(60), SourceError) == fails
    assert len(reads) == (9 if fails else 6), "who waits reads nothing, unless the first one failed"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    write_photos(tmp_path, 2)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RecordError, match=r"cannot write .*cache.*check the disk"):
        opened(tmp_path)


def test_another_process_maps_the_files_anew(tmp_path: Path) -> None:
    write_photos(tmp_path, 3, size=400)
    frames = opened(tmp_path, height=0)
    sent = pickle.dumps(frames)
    assert len(sent) < 5000
    np.testing.assert_array_equal(pickle.loads(sent).color, frames.color)
    assert isinstance(frames.color, np.memmap)
    assert not frames.color.flags.writeable
