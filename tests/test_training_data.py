"""Readers, cache, augmentations and the data module, on files made here."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgevae.errors import SourceError
from edgevae.preprocess import DepthEncoding, FloatArray, InputSpec, pack, pack_with_mask
from training.data import FramesDataModule, SetOptions, open_set
from training.data.augment import (
    GRID,
    AugmentOptions,
    Place,
    all_taken,
    dropped,
    jitter,
    pierced,
    place,
    taken,
)
from training.data.draws import Draws
from training.data.frames import Frames, without_holes
from training.data.prepare import DEPTH_UNIT_M
from training.data.sets import FrameSet, open_reader
from training.data.splits import Split, split

H, W = 12, 16
SPEC = InputSpec(4, 32, 32, depth=DepthEncoding("log", 0.25, 80.0))


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour with red = number, green rising downwards, blue to the right; depth in mm, (0, 0) missing."""
    rows, columns = np.mgrid[:H, :W]
    rgb = np.stack([np.full((H, W), 20 * number), 10 * rows, 10 * columns], -1).astype(np.uint8)
    depth_mm = (1000 + 100 * number + 10 * columns).astype(np.uint16)
    depth_mm[0, 0] = 0
    return rgb, depth_mm


def write_pair(root: Path, name: str, number: int, scale: float = 1.0, kind: str = "color") -> None:
    rgb, depth_mm = picture(number)
    for folder, image in ((kind, rgb[..., ::-1]), ("depth", (depth_mm * scale).astype(np.uint16))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / folder / f"{name}.png"), image)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "rooms"
    for i in range(6):
        write_pair(root / ("kitchen" if i < 4 else "hall"), f"{i:03d}", i)
    return root


def opened(tmp_path: Path, **options: Any) -> Any:
    return open_set(SetOptions(**options), tmp_path / "data", tmp_path / "cache")


def scenes(frames: FrameSet) -> list[str]:
    return [entry.scene for entry in frames.entries]


def parts(frames: FrameSet) -> Split:
    return split(frames.entries, frames.options)


def test_pairs_by_folder(tmp_path: Path, pairs: Path) -> None:
    frames = opened(tmp_path, kind="pairs", path="rooms", licence="CC0", hold_out=["hall"])
    assert scenes(frames) == ["hall"] * 2 + ["kitchen"] * 4
    assert [entry.licence for entry in frames.entries] == ["CC0"] * 6
    assert parts(frames) == ([2, 3, 4, 5], [0, 1], [])
    rgb, depth_mm = picture(5)
    np.testing.assert_array_equal(frames.color[1], rgb)
    np.testing.assert_allclose(frames.depth[1] * DEPTH_UNIT_M, depth_mm / 1000, atol=DEPTH_UNIT_M / 2)
    assert frames.depth[1, 0, 0] == 0
    assert isinstance(frames.color, np.memmap)


def test_pairs_by_manifest(tmp_path: Path) -> None:
    root = tmp_path / "data" / "corpus"
    for i in range(3):
        write_pair(root, f"{i:03d}", i)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["color", "depth_mm", "source", "licence"])
        for i in range(3):
            writer.writerow([f"color/{i:03d}.png", f"depth/{i:03d}.png", f"place{i}", f"licence{i}"])
    frames = opened(
        tmp_path, kind="pairs", path="corpus", hold_out=["place2"], leave_out=["place0"], max_depth_m=1.2
    )
    assert [entry.licence for entry in frames.entries] == ["licence0", "licence1", "licence2"]
    assert parts(frames) == ([1], [2], [])
    _, depth_mm = picture(1)
    assert ((frames.depth[1] > 0) == ((depth_mm > 0) & (depth_mm <= 1200))).all()


def test_pairs_of_8_bits(tmp_path: Path) -> None:
    root = tmp_path / "data" / "nyu"
    write_pair(root, "000", 0)
    values = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    cv2.imwrite(str(root / "depth" / "000.png"), values)
    frames = opened(tmp_path, kind="pairs", path="nyu", depth_scale=9.99547 / 255)
    metres = frames.depth[0] * DEPTH_UNIT_M
    np.testing.assert_allclose(metres, values * (9.99547 / 255), atol=DEPTH_UNIT_M / 2 + 1e-6)


def test_tum_pairs_by_time(tmp_path: Path) -> None:
    root = tmp_path / "data" / "tum"
    for i in range(3):
        write_pair(root, f"{i}", i, scale=5.0, kind="rgb")
    # Depth comes 8 ms early, the second colour image has none near, depth 1 belongs to colour 2.
    (root / "rgb.txt").write_text("# colour\n" + "".join(f"{10 + i}.0 rgb/{i}.png\n" for i in range(3)))
    (root / "depth.txt").write_text("# depth\n9.992 depth/0.png\n11.5 depth/2.png\n11.992 depth/1.png\n")
    frames = opened(tmp_path, kind="tum", path="tum")
    assert len(frames.color) == 2
    np.testing.assert_array_equal(frames.color[1], picture(2)[0])
    np.testing.assert_allclose(frames.depth[1] * DEPTH_UNIT_M, picture(1)[1] / 1000, atol=DEPTH_UNIT_M)


def write_mat(path: Path, count: int = 5) -> None:
    """As MATLAB v7.3 lays out (H, W, 3, N): reversed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    both = [picture(i) for i in range(count)]
    with h5py.File(path, "w") as file:
        file["images"] = np.stack([rgb.transpose(2, 1, 0) for rgb, _ in both])
        file["depths"] = np.stack([(depth / 1000).astype(np.float32).T for _, depth in both])


@pytest.mark.parametrize("version", ["7.3", "5"])
def test_nyu_mat_and_its_split(tmp_path: Path, version: str) -> None:
    write_mat(tmp_path / "data" / "nyu.mat")
    train, test = np.array([[1.0, 3.0]]), np.array([[2.0], [5.0]])
    split = tmp_path / "data" / "splits.mat"
    if version == "7.3":
        with h5py.File(split, "w") as file:
            file["trainNdxs"], file["testNdxs"] = train, test
    else:
        from scipy.io import savemat

        savemat(split, {"trainNdxs": train, "testNdxs": test})
    frames = opened(tmp_path, kind="nyu_mat", path="nyu.mat", split_file="splits.mat", hold_out=["test"])
    assert scenes(frames) == ["train", "test", "train", "test"]
    assert parts(frames) == ([0, 2], [1, 3], [])
    rgb, depth_mm = picture(4)
    np.testing.assert_array_equal(frames.color[3], rgb)
    np.testing.assert_allclose(frames.depth[3] * DEPTH_UNIT_M, depth_mm / 1000, atol=DEPTH_UNIT_M / 2 + 1e-6)
    whole = opened(tmp_path, kind="nyu_mat", path="nyu.mat", hold_out_last=2)
    assert parts(whole) == ([0, 1, 2], [3, 4], [])


def test_synthetic_drives(tmp_path: Path) -> None:
    frames = opened(
        tmp_path, kind="synthetic", seeds=[3, 4], frames=2, stride=7, height=60, hold_out=["seed-4"]
    )
    assert frames.color.shape == (4, 60, 80, 3)
    assert parts(frames) == ([0, 1], [2, 3], [])
    assert frames.color.std() > 10
    assert 0.2 < (frames.depth > 0).mean() < 1.0  # a road and a sky
    assert (frames.color[0] != frames.color[1]).any()


def test_cache_is_used_until_a_file_changes(tmp_path: Path, pairs: Path) -> None:
    options: dict[str, Any] = {"kind": "pairs", "path": "rooms"}
    opened(tmp_path, **options)
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/*.u*")}
    opened(tmp_path, **options, hold_out=["hall"], weight=2.0)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/*.u*")} == made
    write_pair(pairs / "hall", "004", 9)
    frames = opened(tmp_path, **options)
    assert len(list((tmp_path / "cache").glob("*/color.u8"))) == 2
    np.testing.assert_array_equal(frames.color[0], picture(9)[0])


def test_crop_and_height(tmp_path: Path, pairs: Path) -> None:
    frames = opened(tmp_path, kind="pairs", path="rooms", crop=[2, 10, 4, 16], height=4)
    assert frames.color.shape == (6, 4, 6, 3)
    rgb, depth_mm = picture(4)
    area = rgb[2:10, 4:16].reshape(4, 2, 6, 2, 3).mean((1, 3))
    np.testing.assert_allclose(frames.color[0], area, atol=1)
    np.testing.assert_allclose(
        frames.depth[0] * DEPTH_UNIT_M, depth_mm[3:10:2, 5:16:2] / 1000, atol=DEPTH_UNIT_M
    )


def test_frames_are_packed_as_the_runtime_packs(tmp_path: Path, pairs: Path) -> None:
    frames = opened(tmp_path, kind="pairs", path="rooms")
    item = Frames(frames, [3], SPEC)[0]
    rgb, depth_mm = picture(1)
    expected = pack(rgb, depth_mm, SPEC)
    np.testing.assert_array_equal(item["input"][:3], expected[:3])
    # The cache keeps depth to 2 mm, here 0.2 % of 1 m: 0.001 of a logarithm that spans 5.8 over 2.
    np.testing.assert_allclose(item["input"][3], expected[3], atol=5e-4)
    assert torch.equal(item["input"], item["target"])
    assert item["valid"].dtype == torch.bool
    assert torch.equal(item["valid"], item["seen"])
    assert 0 < (~item["valid"]).sum() < 20  # the missing corner, enlarged
    assert (item["input"][3][~item["valid"]] == -1).all()


def test_colour_only_network_gets_no_depth(tmp_path: Path, pairs: Path) -> None:
    item = Frames(opened(tmp_path, kind="pairs", path="rooms"), [0], InputSpec(3, 32, 32))[0]
    assert item["input"].shape == (3, 32, 32)


def test_crops_keep_colour_and_depth_together() -> None:
    rows, columns = np.mgrid[:60, :80]
    rgb = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)
    depth = (1000 * rows + columns).astype(np.uint16)
    rng = np.random.default_rng(0)
    shapes, mirrored = set(), set()
    for _ in range(50):
        where = place(depth.shape, AugmentOptions(crop=0.6, mirror=0.5), rng)
        a, b = taken(rgb, where), taken(depth, where)
        assert a.shape[:2] == b.shape
        assert b.shape[0] >= 36
        assert b.shape[1] >= 48
        np.testing.assert_array_equal(1000 * a[..., 0].astype(int) + a[..., 1], b)
        shapes.add(b.shape)
        mirrored.add(bool(b[0, 0] > b[0, -1]))
    assert len(shapes) > 10
    assert mirrored == {True, False}
    whole = taken(rgb, place(depth.shape, AugmentOptions(), rng))
    assert np.shares_memory(whole, rgb)
    np.testing.assert_array_equal(whole, rgb)


@pytest.mark.parametrize("channels", [1, 3])
def test_shifts_repeat_the_border_in_one_image_and_in_many(channels: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 10, 14, channels), np.uint8).squeeze(-1 if channels == 1 else ())
    options = AugmentOptions(shift=0.2, mirror=0.5)
    where = [place((10, 14), options, rng) for _ in images]
    assert {p.down for p in where} == {-2, -1, 0, 1, 2}
    assert {p.right for p in where} == {-3, -2, -1, 0, 1, 2, 3}
    one = place((10, 14), AugmentOptions(), rng)._replace(down=2, right=-3)
    # Down 2: row 0 shows what was row 2.
    np.testing.assert_array_equal(taken(images[0], one)[:8, 3:], images[0][2:, :-3])
    np.testing.assert_array_equal(taken(images[0], one)[8:, 5], np.stack([images[0][9, 2]] * 2))
    np.testing.assert_array_equal(
        all_taken(images, where), np.stack([taken(a, b) for a, b in zip(images, where, strict=True)])
    )


def test_jitter_changes_gains_alone() -> None:
    rgb = np.full((4, 5, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    got = jitter(rgb, AugmentOptions(jitter=0.2), rng)
    assert got.shape == rgb.shape
    assert len(np.unique(got[..., 0])) == 1
    assert (np.abs(got.astype(int) - 100) <= 31).all()
    assert (got != rgb).any()
    assert jitter(rgb, AugmentOptions(), rng) is rgb


def test_dropped_depth() -> None:
    rng = np.random.default_rng(0)
    options = AugmentOptions(drop_depth=0.3, drop_blocks=0.3)
    parts = np.array([dropped((32, 40), options, rng).mean() for _ in range(400)])
    assert 0.2 < (parts == 1).mean() < 0.4
    assert 0.2 < ((parts > 0) & (parts < 1)).mean() < 0.4
    assert dropped((32, 40), AugmentOptions(), rng).sum() == 0


def test_half_of_the_blocks_are_cells_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    options = AugmentOptions(drop_blocks=1.0)
    masks = [dropped((32, 40), options, rng) for _ in range(300)]
    shares = np.array([mask.mean() for mask in masks])
    assert (shares > 0.55).mean() > 0.15  # rectangles alone rarely take so much
    # Rows of a grid repeat: cells are several pixels high
    assert all((mask[1:] == mask[:-1]).all(1).sum() >= 32 - 1 - 2 * GRID for mask in masks)


def test_a_crop_is_nearer(tmp_path: Path) -> None:
    """A quarter of a picture, stretched to all of it, is what stands at half the distance."""
    assert Place(0, 0, 32, 32, 0, 0, False).zoom((64, 64)) == 0.5
    assert Place(0, 0, 64, 16, 0, 0, False).zoom((64, 64)) == 0.5
    write_pair(tmp_path / "data" / "wall", "0", 0)
    assert cv2.imwrite(str(tmp_path / "data" / "wall" / "depth" / "0.png"), np.full((H, W), 4000, np.uint16))
    frames = Frames(
        opened(tmp_path, kind="pairs", path="wall", licence="CC0"), [0], SPEC, AugmentOptions(crop=0.5)
    )
    one = np.array([0])
    images = [frames.batch(Draws(epoch, one, one))["target"].numpy()[0, 3] for epoch in range(40)]
    assert SPEC.depth is not None
    metres = np.array([SPEC.depth.to_metres(image) for image in images])
    assert np.ptp(metres, axis=(1, 2)).max() < 1e-3  # a wall stays one
    assert 1.95 < metres.min() < 2.6
    assert 3.2 < metres.max() < 4.001


def test_frames_without_holes() -> None:
    x = torch.zeros(2, 4, 2, 2)
    x[:, 3] = torch.tensor([[0.2, 0.4], [-1.5, -1.5]])
    x[1, 3] = -1.5
    got = without_holes(x, replace(SPEC, depth=DepthEncoding("log", 0.25, 80.0, -1.5)))
    torch.testing.assert_close(got[:, 3], torch.tensor([[[0.2, 0.4], [0.3, 0.3]], [[0, 0], [0, 0]]]))
    assert (got[:, :3] == 0).all()
    x[0, 3, 1] = torch.tensor([-3.1, -2.0])
    got = without_holes(x, replace(SPEC, depth=DepthEncoding("log", 0.25, 80.0, -1.5, fill=True)))
    torch.testing.assert_close(got[0, 3], torch.tensor([[0.2, 0.4], [0.1, -1.0]]))
    assert without_holes(x, SPEC) is x  # its holes look like something near
    assert without_holes(x[:, :3], InputSpec(3, 2, 2)) is not None


def step_in_depth(rows: int = 32, columns: int = 40) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """A grey box at 1 m before a white wall at 4 m, as the network gets it, and where its depth is."""
    rgb = np.full((rows, columns, 3), 250, np.uint8)
    depth = np.full((rows, columns), 4.0, np.float32)
    rgb[8:24, 12:28], depth[8:24, 12:28] = 90, 1.0
    depth[:3] = 0
    spec = InputSpec(4, rows, columns, depth=DepthEncoding("log", 0.25, 80.0, -1.5))
    return pack_with_mask(rgb, depth, spec)


HOLES = AugmentOptions(drop_holes=1.0)
RANGE = AugmentOptions(drop_range=1.0)


def test_holes_lie_at_steps_and_on_surfaces() -> None:
    image, valid = step_in_depth()
    beside, patches = np.zeros(image.shape[1:]), []
    for seed in range(200):
        missing = pierced(
            image, valid, replace(SPEC, height=32, width=40), HOLES, np.random.default_rng(seed)
        )
        assert missing.shape == valid.shape
        beside += missing
        patches.append(missing[valid].mean())
    share = beside / 200
    # The wall beside the box loses more than the wall elsewhere; the box's own border does not.
    assert share[10:22, [11, 28]].mean() > share[10:22, [13, 26]].mean() + 0.1
    assert share[10:22, [11, 28]].mean() > share[10:22, [6, 33]].mean() + 0.1
    assert 0.02 < np.mean(patches) < 0.4
    assert np.std(patches) > 0.02


def test_a_range_cuts_the_nearest_and_the_farthest() -> None:
    spec = replace(SPEC, height=32, width=40)
    ramp = np.broadcast_to(np.linspace(1, 9, 40, dtype=np.float32), (32, 40))
    image, valid = pack_with_mask(np.zeros((32, 40, 3), np.uint8), np.ascontiguousarray(ramp), spec)
    cut = np.array([pierced(image, valid, spec, RANGE, np.random.default_rng(i))[0] for i in range(200)])
    ends = cut[:, [0, -1]].astype(int)
    assert {tuple(each) for each in ends.tolist()} >= {(1, 0), (0, 1), (1, 1)}
    assert (np.abs(np.diff(cut, axis=1)).sum(1) <= 2).all()  # one piece at each end
    assert cut[:, :8].mean() < cut[:, -16:].mean()
    nothing = np.zeros_like(valid)
    assert not pierced(image, nothing, spec, RANGE, np.random.default_rng(0)).any()


@pytest.mark.parametrize("options", [HOLES, RANGE])
def test_holes_need_no_metres_and_repeat(options: AugmentOptions) -> None:
    spec = InputSpec(4, 32, 40, "minmax", DepthEncoding("minmax"))
    image, valid = step_in_depth()
    got = [pierced(image, valid, spec, options, np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(*got)


def test_options_that_are_off_draw_nothing() -> None:
    image, valid = step_in_depth()
    rng = np.random.default_rng(0)
    assert not pierced(image, valid, SPEC, AugmentOptions(), rng).any()
    assert rng.random() == np.random.default_rng(0).random()


def test_holes_reach_the_input_and_not_the_target(tmp_path: Path, pairs: Path) -> None:
    frames = opened(tmp_path, kind="pairs", path="rooms")
    item = Frames(frames, [0], SPEC, AugmentOptions(drop_holes=1.0, drop_range=1.0), seed=1)[0]
    hidden = item["valid"] & ~item["seen"]
    assert 0 < hidden.sum() < item["valid"].sum()
    assert (item["input"][3][hidden] == -1).all()
    assert (item["target"][3][hidden] > -1).all()


def test_dropped_depth_reaches_the_input_and_not_the_target(tmp_path: Path, pairs: Path) -> None:
    frames = opened(tmp_path, kind="pairs", path="rooms")
    item = Frames(frames, [0], SPEC, AugmentOptions(mirror=0.0, drop_depth=1.0))[0]
    assert (item["input"][3] == -1).all()
    assert item["valid"].sum() > 900
    assert (item["target"][3][item["valid"]] > -1).all()
    assert not item["seen"].any()
    assert torch.equal(item["input"][:3], item["target"][:3])


def module(tmp_path: Path, *sets: SetOptions, **options: Any) -> FramesDataModule:
    options = {"workers": 0, **options}
    data = FramesDataModule(list(sets), str(tmp_path / "data"), str(tmp_path / "cache"), **options)
    data.spec = SPEC
    data.setup("fit")
    return data


def test_weighted_sets_in_one_loader(tmp_path: Path, pairs: Path) -> None:
    write_mat(tmp_path / "data" / "nyu.mat", count=4)
    data = module(
        tmp_path,
        SetOptions("pairs", "rooms", licence="A", hold_out=["hall"]),
        SetOptions("nyu_mat", "nyu.mat", name="nyu", licence="B", weight=9.0),
        batch_size=10,
        epoch_frames=300,
    )
    items = [item for batch in data.train_dataloader() for item in batch["target"]]
    assert len(items) == 300
    # Four frames each: weight 9 takes nine tenths. Their first rows tell them apart: 0.002 m of rounding.
    assert data.names == ["rooms"]
    assert data.held_images == [2]
    assert [len(loader.dataset) for loader in data.val_dataloader()] == [2]
    drawn = np.concatenate([draws.items for draws in data.train_dataloader().sampler])
    assert 0.8 < (drawn >= 4).mean() < 0.97
    assert data.provenance() == [
        {"name": "rooms", "scenes": ["kitchen"], "licence": "A", "pairs": 4},
        {"name": "nyu", "scenes": ["nyu"], "licence": "B", "pairs": 4},
    ]


def test_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVAE_DATA", str(tmp_path))
    assert FramesDataModule([]).root == tmp_path
    assert FramesDataModule([], root="/elsewhere").root == Path("/elsewhere")


def damage_truncated_image(root: Path) -> None:
    path = next((root / "hall" / "color").iterdir())
    path.write_bytes(path.read_bytes()[:40])


def damage_swapped_images(root: Path) -> None:
    (root / "hall" / "depth").rename(root / "hall" / "x")
    (root / "hall" / "color").rename(root / "hall" / "depth")
    (root / "hall" / "x").rename(root / "hall" / "color")


def damage_sizes(root: Path) -> None:
    cv2.imwrite(str(next((root / "hall" / "depth").iterdir())), np.ones((H, W + 1), np.uint16))


def damage_manifest(root: Path) -> None:
    (root / "manifest.csv").write_text("left,right\na.png,b.png\n")


def damage_manifest_row(root: Path) -> None:
    (root / "manifest.csv").write_text("color,depth\na.png,b.png\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_truncated_image, r"1 of 6 pictures .*16\.67%.*picture .*004\.png is truncated.*restore"),
        (damage_swapped_images, "exchanged"),
        (damage_sizes, "same pixel grid"),
        (damage_manifest, "color and depth"),
        (damage_manifest_row, r"none of the 1 pictures .*cannot read picture .*a\.png"),
    ],
)
def test_damaged_pairs(tmp_path: Path, pairs: Path, damage: Any, words: str) -> None:
    damage(pairs)
    with pytest.raises(SourceError, match=words):
        opened(tmp_path, kind="pairs", path="rooms")
    assert not list((tmp_path / "cache").glob(".*")), "nothing half-written may stay"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "pairs", "path": "nowhere"}, "EDGEVAE_DATA"),
        ({"kind": "pairs", "path": "empty"}, "no pairs"),
        ({"kind": "pairs", "path": "text.txt"}, "no folder"),
        ({"kind": "tum", "path": "empty"}, r"rgb\.txt is missing"),
        ({"kind": "tum", "path": "tum"}, "timestamp filename"),
        ({"kind": "tum", "path": "tum-empty"}, "lists no images"),
        ({"kind": "nyu_mat", "path": "text.txt"}, "cannot be read"),
        ({"kind": "nyu_mat", "path": "foreign.mat"}, "cannot be read"),
        ({"kind": "nyu_mat", "path": "shape.mat"}, "wanted"),
        ({"kind": "nyu_mat", "path": "good.mat", "split_file": "text.txt"}, "split file"),
        ({"kind": "nyu_mat", "path": "good.mat", "split_file": "large.mat"}, "wanted 1 to 5"),
        ({"kind": "pairs", "path": "rooms", "crop": [0, 99, 0, 5]}, "crop"),
    ],
)
def test_missing_and_foreign_data(tmp_path: Path, pairs: Path, options: dict[str, Any], words: str) -> None:
    data = tmp_path / "data"
    for folder in ("empty", "tum", "tum-empty"):
        (data / folder).mkdir()
    for name in ("rgb.txt", "depth.txt"):
        (data / "tum" / name).write_text("now rgb/0.png\n")
        (data / "tum-empty" / name).write_text("# nothing\n")
    (data / "text.txt").write_text("hello")
    write_mat(data / "good.mat")
    with h5py.File(data / "foreign.mat", "w") as file:
        file["x"] = 1
    with h5py.File(data / "shape.mat", "w") as file:
        file["images"], file["depths"] = np.zeros((2, 3, 4, 5), np.uint8), np.zeros((2, 5, 4), np.float32)
    with h5py.File(data / "large.mat", "w") as file:
        file["trainNdxs"], file["testNdxs"] = np.array([[1.0, 6.0]]), np.array([[2.0]])
    with pytest.raises(SourceError, match=words):
        opened(tmp_path, **options)


def test_sets_that_cannot_train(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(SourceError, match="hold_out"):
        module(tmp_path, SetOptions("pairs", "rooms"))
    with pytest.raises(SourceError, match="name of its own"):
        module(tmp_path, SetOptions("pairs", "rooms"), SetOptions("pairs", "rooms"))
    with pytest.raises(SourceError, match="every frame is held out"):
        module(tmp_path, SetOptions("pairs", "rooms", hold_out=["*"])).train_dataloader()
    with pytest.raises(ValueError, match="kind"):
        SetOptions("video")
    with pytest.raises(ValueError, match="crop"):
        SetOptions("pairs", crop=[1, 2])


def test_real_data_is_read_whole(data_dir: Path) -> None:
    corpus = open_reader(SetOptions("pairs", "corpus_160x120"), data_dir).entries()
    assert len(corpus) == 663
    assert len({entry.scene for entry in corpus}) == 10
    mat = open_reader(SetOptions("nyu_mat", "nyu_like_mat/nyu_depth_v2_labeled_16.mat"), data_dir)
    rgb, depth_m = mat.read(0)
    assert rgb.shape == (480, 640, 3)
    assert rgb[:5].mean() > 200  # the white frame: on top, so the picture stands upright
    assert depth_m is not None
    assert 0.5 < np.median(depth_m) < 10
    tum = open_reader(SetOptions("tum", "tum_fr1_rpy_100"), data_dir)
    assert len(tum.entries()) == 100


def test_sky_of_a_rendered_frame_is_the_far_end_in_training_only(tmp_path: Path) -> None:
    frames = opened(tmp_path, kind="synthetic", seeds=[1], frames=2, stride=5)
    trained, kept = Frames(frames, [0], SPEC, AugmentOptions(mirror=0.0))[0], Frames(frames, [0], SPEC)[0]
    sky = ~kept["valid"]
    assert 0.02 < sky.float().mean() < 0.5
    assert trained["valid"].all()
    assert (trained["target"][3][sky] == 1).all()  # 80 m
    assert (trained["input"][3][sky] == -1).all()  # the encoder still sees no reading
    assert not trained["seen"][sky].any()
    torch.testing.assert_close(trained["target"][3][~sky], kept["target"][3][~sky])
