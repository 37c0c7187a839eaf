"""The labelled pairs of NYU Depth V2 as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edgevae import SourceError, open_source


def write(path: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(3)
    data = {
        "images": rng.integers(0, 256, (3, 3, 64, 48), np.uint8),
        "depths": rng.random((3, 64, 48), np.float32) + 1,
        **changes,
    }
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in data.items():
            if values is not None:
                file[name] = values
    return path


def test_pairs_in_metres_the_right_way_round(tmp_path: Path) -> None:
    path = write(tmp_path / "nyu.mat")
    with h5py.File(path) as file:
        images, depths = file["images"][:], file["depths"][:]
    with open_source(f"nyu:{path}") as source:
        assert (source.live, source.length, source.name) == (False, 3, f"nyu:{path}")
        frames = list(source)
        assert source.read() is None
    assert len(frames) == 3
    for i, frame in enumerate(frames):
        assert frame.rgb.shape == (48, 64, 3)
        np.testing.assert_array_equal(frame.rgb[7, 11], images[i, :, 11, 7])
        assert frame.depth is not None
        assert frame.depth.dtype == np.float32
        np.testing.assert_array_equal(frame.depth, depths[i].T)
        assert (frame.index, frame.clock, frame.intrinsics) == (i, "file", None)


def test_without_depth_and_after_closing(tmp_path: Path) -> None:
    source = open_source(f"nyu:{write(tmp_path / 'nyu.mat')}", depth="none")
    frame = source.read()
    assert frame is not None
    assert frame.depth is None
    source.close()
    source.close()
    assert source.read() is None


def test_matlab_v5_is_the_same(tmp_path: Path) -> None:
    from scipy.io import savemat

    with h5py.File(write(tmp_path / "nyu.mat")) as file:
        v5 = {name: file[name][:].T for name in ("images", "depths")}
    savemat(tmp_path / "v5.mat", v5, do_compression=True)
    with (
        open_source(f"nyu:{tmp_path / 'nyu.mat'}") as one,
        open_source(f"nyu:{tmp_path / 'v5.mat'}") as other,
    ):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.rgb, b.rgb)
            np.testing.assert_array_equal(a.depth, b.depth)
    savemat(tmp_path / "v5.mat", v5 | {"depths": v5["depths"][:, :-1]})
    with pytest.raises(SourceError, match=r"wanted \(H, W, 3, N\) and \(H, W, N\)"):
        open_source(f"nyu:{tmp_path / 'v5.mat'}")
    savemat(tmp_path / "v5.mat", {"images": v5["images"]})
    with pytest.raises(SourceError, match="cannot be read as nyu_depth_v2_labeled"):
        open_source(f"nyu:{tmp_path / 'v5.mat'}")
    whole = (tmp_path / "v5.mat").read_bytes()
    for end in (130, 200, len(whole) // 2, len(whole) - 9):
        (tmp_path / "cut.mat").write_bytes(whole[:end])
        with pytest.raises(SourceError, match="cannot be read as nyu_depth_v2_labeled"):
            open_source(f"nyu:{tmp_path / 'cut.mat'}")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": None}, r"cannot be read as nyu_depth_v2_labeled\.mat"),
        ({"depths": np.zeros((3, 48, 64), np.float32)}, r"wanted \(N, 3, W, H\) and \(N, W, H\)"),
        ({"images": np.zeros((3, 4, 64, 48), np.uint8)}, r"wanted \(N, 3, W, H\) and \(N, W, H\)"),
        ({"images": np.zeros((3, 3, 64, 48), np.float64)}, "wanted uint8 and float32"),
    ],
)
def test_another_file(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = write(tmp_path / "other.mat", **changes)
    with pytest.raises(SourceError, match=sentence):
        open_source(f"nyu:{path}")


def test_no_file_and_no_hdf5(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no file .*nowhere\.mat; wanted nyu_depth_v2_labeled\.mat"):
        open_source(f"nyu:{tmp_path / 'nowhere.mat'}")
    (tmp_path / "text.mat").write_text("MATLAB 5.0 MAT-file")
    with pytest.raises(SourceError, match="cannot be read as"):
        open_source(f"nyu:{tmp_path / 'text.mat'}")


def test_the_real_layout(data_dir: Path) -> None:
    with open_source(f"nyu:{data_dir / 'nyu_like_mat' / 'nyu_depth_v2_labeled_16.mat'}") as source:
        frames = list(source)
    assert len(frames) == 16
    assert frames[0].rgb.shape == (480, 640, 3)
    assert frames[0].intrinsics is not None
    assert frames[0].intrinsics.fx == pytest.approx(518.86, abs=0.01)
    assert all(0.5 < np.median(frame.depth) < 10 for frame in frames if frame.depth is not None)
