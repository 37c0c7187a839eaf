"""Folders of pictures: order, pairing of depth, units, and what is wrong with a broken one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevae import FrameError, SourceError, open_source


def write_color(path: Path, red: int, size: tuple[int, int] = (30, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = np.zeros((*size, 3), np.uint8)
    bgr[..., 2] = red
    bgr[..., 0] = 7
    assert cv2.imwrite(str(path), bgr)


def write_depth(path: Path, millimetres: int, size: tuple[int, int] = (30, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(size, millimetres, np.uint16))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "PNG"])
def test_natural_order_colour_order_and_times(tmp_path: Path, suffix: str) -> None:
    for i in (10, 9, 1):
        write_color(tmp_path / f"frame{i}.{suffix}", i)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    with open_source(str(tmp_path)) as source:
        assert (source.live, source.length, source.fps) == (False, 3, 30.0)
        frames = list(source)
        assert source.read() is None
    assert [f.rgb[0, 0].tolist() for f in frames] == [[1, 0, 7], [9, 0, 7], [10, 0, 7]]
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.timestamp_ns for f in frames] == [0, 33_333_333, 66_666_667]
    assert all(f.depth is None and f.clock == "file" for f in frames)
    assert [f.timestamp_ns for f in open_source(f"{tmp_path}?fps=10")] == [0, 100_000_000, 200_000_000]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_pictures(tmp_path: Path, suffix: str) -> None:
    write_color(tmp_path / f"a.{suffix}", 200)
    (frame,) = open_source(str(tmp_path))
    assert np.abs(frame.rgb[0, 0].astype(int) - [200, 0, 7]).max() < 12


@pytest.mark.parametrize("name", ["color", "rgb"])
def test_depth_beside_colour(tmp_path: Path, name: str) -> None:
    for i in (2, 11):
        write_color(tmp_path / name / f"{i}.jpg", 10 * i)
        write_depth(tmp_path / "depth" / f"{i}.png", 1000 * i)
    write_depth(tmp_path / "depth" / "99.png", 1)  # nobody asks for it
    frames = list(open_source(str(tmp_path)))
    assert [float(f.depth_m()[0, 0]) for f in frames] == pytest.approx([2.0, 11.0])
    assert frames[0].depth.dtype == np.uint16
    (tenth, _) = open_source(f"{tmp_path}?depth_scale=0.0001")
    assert tenth.depth_m()[0, 0] == pytest.approx(0.2)
    assert all(f.depth is None for f in open_source(str(tmp_path), depth="none"))


def test_depth_from_a_folder_of_its_own(tmp_path: Path) -> None:
    write_color(tmp_path / "pictures" / "a.png", 1)
    np.save(tmp_path / "a.npy", np.full((30, 40), 1.5))
    (frame,) = open_source(str(tmp_path / "pictures"), depth=str(tmp_path))
    assert frame.depth.dtype == np.float32
    assert frame.depth[0, 0] == 1.5


def test_eight_bit_depth_needs_its_scale(tmp_path: Path) -> None:
    write_color(tmp_path / "color" / "a.png", 1)
    (tmp_path / "depth").mkdir()
    cv2.imwrite(str(tmp_path / "depth" / "a.png"), np.full((30, 40), 100, np.uint8))
    with pytest.raises(SourceError, match="8 bits"):
        open_source(str(tmp_path)).read()
    (frame,) = open_source(f"{tmp_path}?depth_scale=0.04")
    assert frame.depth_m()[0, 0] == pytest.approx(4.0)


def test_camera_json(tmp_path: Path) -> None:
    write_color(tmp_path / "a.png", 1)
    (tmp_path / "camera.json").write_text(
        '{"width": 40, "height": 30, "fx": 35, "fy": 35, "cx": 19.5, "cy": 14.5}'
    )
    (frame,) = open_source(str(tmp_path))
    assert frame.intrinsics.fx == 35.0


def test_stored_orientation_is_kept(tmp_path: Path) -> None:
    """An EXIF tag would turn colour but not depth, so it is not applied."""
    write_color(tmp_path / "a.jpg", 90)
    data = (tmp_path / "a.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # rotate by 90 degrees
    (tmp_path / "a.jpg").write_bytes(
        data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    )
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (40, 30, 3)  # OpenCV alone would
    (frame,) = open_source(str(tmp_path))
    assert frame.rgb.shape == (30, 40, 3)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'.*nowhere' does not exist; wanted a camera index"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="holds no pictures, wanted at least one"):
        open_source(str(tmp_path))


def test_corrupt_pictures_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.jpg", "c.bmp", "d.tiff", "e.webp", "f.png", "g.png"):
        path = tmp_path / name[0] / name
        write_color(path, 5)
        whole = path.read_bytes()
        path.write_bytes({"f": b"", "g": b"hello"}.get(name[0], whole[: len(whole) // 2]))
        write_color(tmp_path / name[0] / f"z{path.suffix}", 5)
        with open_source(str(path.parent)) as source:
            with pytest.raises(
                FrameError, match=rf"{name} is (truncated or not a picture|empty) \([0-9]+ bytes\)"
            ):
                source.read()
            after = source.read()  # a bad picture costs one frame, not the rest
            assert after is not None
            assert after.index == 1
            assert source.read() is None
    assert capfd.readouterr().err == ""


def test_bad_depth(tmp_path: Path) -> None:
    write_color(tmp_path / "color" / "a.png", 1)
    write_color(tmp_path / "color" / "b.png", 1)
    write_depth(tmp_path / "depth" / "a.png", 1, size=(15, 20))
    with pytest.raises(SourceError, match=r"1 of 2 colour pictures have no depth .* b\.png"):
        open_source(str(tmp_path))
    write_depth(tmp_path / "depth" / "b.png", 1)
    with pytest.raises(FrameError, match=r"depth .*a\.png is 20x15, colour .*a\.png is 40x30"):
        open_source(str(tmp_path)).read()
    write_color(tmp_path / "depth" / "a.png", 1)
    with pytest.raises(SourceError, match=r"a\.png is uint8 \(30, 40, 3\), wanted one channel"):
        open_source(str(tmp_path)).read()
    (tmp_path / "depth" / "a.png").unlink()
    (tmp_path / "depth" / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(FrameError, match=r"cannot read depth .*a\.npy"):
        open_source(str(tmp_path)).read()
    np.save(tmp_path / "depth" / "a.npy", np.zeros((30, 40), np.int64))
    with pytest.raises(SourceError, match="int64"):
        open_source(str(tmp_path)).read()
    np.save(tmp_path / "depth" / "a.npy", np.array([{"a": 1}], dtype=object))  # a pickle: never loaded
    with pytest.raises(FrameError, match=r"a\.npy"):
        open_source(str(tmp_path)).read()


def test_depth_that_cannot_be_had(tmp_path: Path) -> None:
    write_color(tmp_path / "a.png", 1)
    with pytest.raises(SourceError, match=r"depth: .*nowhere' does not exist"):
        open_source(str(tmp_path), depth=str(tmp_path / "nowhere"))
    for uri in ("synthetic", "0"):
        with pytest.raises(SourceError, match=r"depth: .* carries no depth; .* are synthetic, tum:DIR"):
            open_source(uri, depth=str(tmp_path))
    with pytest.raises(SourceError, match="carries no depth"):
        open_source("0", depth="0")
    frame = open_source("synthetic", depth="synthetic").read()
    assert frame.depth is not None


@pytest.mark.parametrize("option", ["depth_scale=0", "depth_scale=x", "fps=-1", "fps=nan", "size=3x3", "fps"])
def test_bad_options(tmp_path: Path, option: str) -> None:
    write_color(tmp_path / "a.png", 1)
    with pytest.raises(SourceError, match=r"wanted (a positive number|depth_scale=\.\.\. or fps=\.\.\.)"):
        open_source(f"{tmp_path}?{option}")


def test_tum_folder_without_its_scheme(tmp_path: Path) -> None:
    write_color(tmp_path / "rgb" / "1.0.png", 1)
    write_depth(tmp_path / "depth" / "1.1.png", 1)
    (tmp_path / "depth.txt").write_text("1.1 depth/1.1.png\n")
    with pytest.raises(SourceError, match=f"use tum:{tmp_path}"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["nyu.mat", "labels.MAT"])
def test_files_that_are_no_source(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match="no source of frames; wanted a camera index"):
        open_source(str(tmp_path / name))


def test_real_pairs(data_dir: Path) -> None:
    with open_source(str(data_dir / "corpus_160x120" / "office_realsense_d435")) as source:
        assert source.length == 193
        frame = source.read()
    assert frame.rgb.shape == (120, 160, 3)
    depth = frame.depth_m()
    assert 0.2 < np.median(depth[depth > 0]) < 10.0
