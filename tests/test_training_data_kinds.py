"""Every kind of set, on files made here and on the real ones where they are."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch

from edgevae.errors import SourceError
from edgevae.preprocess import DepthEncoding, InputSpec, pack
from training.data import FramesDataModule, SetOptions, open_set
from training.data.draws import Draws
from training.data.frames import Frames
from training.data.sets import FrameSet

GREY = InputSpec(1, 28, 28)


def opened(tmp_path: Path, **options: Any) -> FrameSet:
    return open_set(SetOptions(**options), tmp_path, tmp_path / "cache")


def module(tmp_path: Path, spec: InputSpec, *sets: SetOptions, stage: str = "fit", **options: Any) -> Any:
    options = {"workers": 0, **options}
    data = FramesDataModule(list(sets), str(tmp_path), str(tmp_path / "cache"), **options)
    data.spec = spec
    data.setup(stage)
    return data


def write_idx(path: Path, values: np.ndarray) -> None:
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(root: Path, train: int = 20, test: int = 10, suffix: str = "") -> np.ndarray:
    root.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (train + test, 28, 28), np.uint8)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    for prefix, part in (("train", slice(0, train)), ("t10k", slice(train, None))):
        write_idx(root / f"{prefix}-images-idx3-ubyte{suffix}", images[part])
        write_idx(root / f"{prefix}-labels-idx1-ubyte{suffix}", labels[part])
    return images


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist(tmp_path: Path, suffix: str) -> None:
    images = write_mnist(tmp_path / "mnist", suffix=suffix)
    frames = opened(tmp_path, kind="mnist", path="mnist")
    assert frames.color.shape == (30, 28, 28)  # no copy in colour
    assert frames.depth is None
    np.testing.assert_array_equal(frames.color, images)
    assert [entry.scene for entry in frames.entries] == ["train"] * 20 + ["test"] * 10
    data = module(tmp_path, GREY, SetOptions("mnist", "mnist", hold_out=["test"]))
    assert data.classes == [str(digit) for digit in range(10)]
    assert (data.names, data.held_images) == (["mnist"], [10])
    batch = data.held("mnist")[Draws(0, np.arange(4), np.array([0, 3, 3, 9]))]
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "input": ((4, 1, 28, 28), torch.float32),
        "target": ((4, 1, 28, 28), torch.float32),
        "valid": ((4, 28, 28), torch.bool),
        "seen": ((4, 28, 28), torch.bool),
        "label": ((4,), torch.int64),
    }
    assert batch["label"].tolist() == [0, 3, 3, 9]
    assert batch["valid"].all()
    assert batch["seen"].all()
    expected = pack(np.repeat(images[23][..., None], 3, 2), None, GREY)
    np.testing.assert_allclose(batch["input"][1].numpy(), expected, atol=1e-6)
    assert (
        module(tmp_path, GREY, SetOptions("mnist", "mnist", hold_out=["test"]), labels="none").classes == []
    )


def test_one_part_of_mnist_will_do(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    for path in (tmp_path / "mnist").glob("t10k*"):
        path.unlink()
    frames = opened(tmp_path, kind="mnist", path="mnist")
    assert {entry.scene for entry in frames.entries} == {"train"}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def foreign(path: Path) -> None:
    path.write_bytes(b"hello, world")


def too_few(path: Path) -> None:
    write_idx(path, np.zeros((3, 28, 28), np.uint8))


def other_size(path: Path) -> None:
    write_idx(path, np.zeros((20, 14, 14), np.uint8))


@pytest.mark.parametrize(
    ("damage", "suffix", "words"),
    [
        (cut, "", "holds 15675 bytes, wanted 20 x 28 x 28"),
        (cut, ".gz", "train-images.*cannot be read.*download it again"),
        (foreign, "", "begins with 68 65 6c 6c"),
        (lambda path: path.write_bytes(b""), "", "begins with nothing"),
        (too_few, "", "holds 3 pictures, .* 20 labels"),
        (other_size, "", "wanted one size"),
        (Path.unlink, "", r"train-labels-idx1-ubyte has no train-images-idx3-ubyte beside it"),
    ],
)
def test_damaged_mnist(tmp_path: Path, damage: Any, suffix: str, words: str) -> None:
    write_mnist(tmp_path / "mnist", suffix=suffix)
    damage(tmp_path / "mnist" / f"train-images-idx3-ubyte{suffix}")
    with pytest.raises(SourceError, match=words):
        opened(tmp_path, kind="mnist", path="mnist")
    assert not list(tmp_path.glob("cache/.*"))


def write_frey(path: Path, count: int = 40, **variables: Any) -> np.ndarray:
    from scipy.io import savemat

    faces = np.random.default_rng(1).integers(0, 256, (560, count), np.uint8)
    savemat(path, variables or {"ff": faces})
    return faces


def test_frey(tmp_path: Path) -> None:
    faces = write_frey(tmp_path / "frey.mat")
    data = module(
        tmp_path, InputSpec(1, 28, 20), SetOptions("frey", "frey.mat", name="frey", parts=[0.8, 0.2])
    )
    assert data.held_images == [8]
    assert len(data.trained("frey")) == 32
    frames = opened(tmp_path, kind="frey", path="frey.mat")
    np.testing.assert_array_equal(frames.color[7], faces[:, 7].reshape(28, 20))
    assert data.classes == []
    assert "label" not in data.held("frey")[0]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"gg": np.zeros(3)}, "has no variable ff"),
        ({"ff": np.zeros((560, 3))}, r"has ff float64 \(560, 3\)"),
        ({"ff": np.zeros((28, 20), np.uint8)}, r"has ff uint8 \(28, 20\)"),
    ],
)
def test_another_mat_for_frey(tmp_path: Path, variables: dict[str, Any], words: str) -> None:
    write_frey(tmp_path / "frey.mat", **variables)
    with pytest.raises(SourceError, match=words):
        opened(tmp_path, kind="frey", path="frey.mat")


def test_damaged_mat_for_frey(tmp_path: Path) -> None:
    write_frey(tmp_path / "frey.mat")
    whole = (tmp_path / "frey.mat").read_bytes()
    for content in (b"", b"hello", whole[:100], whole[:300], whole[: len(whole) // 2]):
        (tmp_path / "frey.mat").write_bytes(content)
        with pytest.raises(SourceError, match=r"frey\.mat cannot be read as a MATLAB v5 file"):
            opened(tmp_path, kind="frey", path="frey.mat")
    with h5py.File(tmp_path / "frey.mat", "w", userblock_size=512) as file:
        file["ff"] = np.zeros((3, 560), np.uint8)
    with (tmp_path / "frey.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(SourceError, match=r"MATLAB v7\.3 file, wanted v5"):
        opened(tmp_path, kind="frey", path="frey.mat")


def write_picture(path: Path, height: int = 20, width: int = 20, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((height, width, 3), 255, np.uint8)
    image[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = (value, 30, 200)  # B, G, R
    assert cv2.imwrite(str(path), image)


def write_shoes(root: Path) -> None:
    """UT Zappos50K in small: classes, kinds and brands one below the other."""
    for number, (kind, below) in enumerate(
        [("Boots", "Ankle/Nike"), ("Sandals", "Flat/A B"), ("Shoes", "Oxfords/x"), ("Slippers", "Boot/y")]
    ):
        for i in range(10):
            write_picture(root / kind / below / f"{7000000 + i}.{i}.jpg", value=20 * number)


def test_class_folders(tmp_path: Path) -> None:
    write_shoes(tmp_path / "shoes")
    (tmp_path / "shoes" / ".hidden").mkdir()
    write_picture(tmp_path / "shoes" / "__MACOSX" / "a.png")
    options = SetOptions("classes", "shoes", size=[16, 16], parts=[0.7, 0.2, 0.1])
    data = module(tmp_path, InputSpec(3, 16, 16), options)
    assert data.classes == ["Boots", "Sandals", "Shoes", "Slippers"]
    assert np.bincount(data.trained("shoes").labels).tolist() == [7, 7, 7, 7]
    assert np.bincount(data.held("shoes").labels).tolist() == [2, 2, 2, 2]
    tested = module(tmp_path, InputSpec(3, 16, 16), options, stage="test")
    assert tested.held_images == [4]
    assert np.bincount(tested.held("shoes").labels).tolist() == [1, 1, 1, 1]
    frames = opened(tmp_path, kind="classes", path="shoes", size=[16, 16])
    assert frames.color.shape == (40, 16, 16, 3)
    red, green, _ = frames.color[0, 8, 8]
    assert red > 150 > green  # R, G, B
    item = data.held("shoes")[0]
    index = int(data.held("shoes").indices[0])
    expected = pack(frames.color[index], None, InputSpec(3, 16, 16))
    np.testing.assert_allclose(item["input"].numpy(), expected, atol=1e-6)


def loose(root: Path) -> None:
    write_picture(root / "a.png")


def empty_class(root: Path) -> None:
    (root / "Heels").mkdir()


def one_level_up(root: Path) -> None:
    root.rename(root.with_name("x"))
    root.mkdir()
    root.with_name("x").rename(root / "ut-zap50k-images")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (loose, r"beside the folders of classes \(1, such as a\.png\).*kind: images"),
        (empty_class, "Heels holds no pictures"),
        (one_level_up, "one folder 'ut-zap50k-images'.*one level too high"),
    ],
)
def test_wrong_class_layout(tmp_path: Path, damage: Any, words: str) -> None:
    write_shoes(tmp_path / "shoes")
    damage(tmp_path / "shoes")
    with pytest.raises(SourceError, match=words):
        opened(tmp_path, kind="classes", path="shoes")


def test_images_of_mixed_sizes_become_one(tmp_path: Path) -> None:
    write_picture(tmp_path / "photos" / "a.png", 40, 40)
    write_picture(tmp_path / "photos" / "b" / "wide.png", 20, 80)
    write_picture(tmp_path / "photos" / "b" / "tall.png", 60, 30)
    options: dict[str, Any] = {"kind": "images", "path": "photos"}
    stretched = opened(tmp_path, **options)
    assert [entry.name for entry in stretched.entries] == ["a.png", "b/tall.png", "b/wide.png"]
    assert [entry.scene for entry in stretched.entries] == ["photos", "b", "b"]
    assert stretched.color.shape == (3, 40, 40, 3)  # of the first
    boxed = opened(tmp_path, **options, size=[20, 20], fit="letterbox").color
    assert (boxed[2, :7] == 255).all()  # 80 x 20 becomes 20 x 5 between white bars
    assert (boxed[2, 9:11, 8:12] != 255).any()
    assert (boxed[1, :, :5] == 255).all()
    assert (boxed[1, :, 15:] == 255).all()
    cropped = opened(tmp_path, **options, size=[20, 20], fit="crop").color
    assert (cropped[2, 5:15] != 255).any(2).all()  # the coloured middle, 40 wide, is all that is left
    grey = opened(tmp_path, **options, grey=True)
    assert grey.color.shape == (3, 40, 40)
    assert abs(int(grey.color[0, 20, 20]) - (0.299 * 200 + 0.587 * 30 + 0.114 * 90)) <= 1


def test_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.txt").write_text("hello")
    for kind in ("images", "classes"):
        with pytest.raises(SourceError, match="holds no pictures"):
            opened(tmp_path, kind=kind, path="photos")
        with pytest.raises(SourceError, match="is no folder"):
            opened(tmp_path, kind=kind, path="photos/text.txt")


def test_grey_and_colour_on_networks_of_other_channels(tmp_path: Path) -> None:
    images = write_mnist(tmp_path / "mnist")
    grey = opened(tmp_path, kind="mnist", path="mnist")
    three = Frames(grey, [5], InputSpec(3, 28, 28))[0]["input"]
    assert three.shape == (3, 28, 28)
    assert torch.equal(three[0], three[2])
    for spec in (InputSpec(1, 32, 40), InputSpec(3, 28, 28, color="minmax")):
        x = Frames(grey, [5], spec)[0]["input"].numpy()
        np.testing.assert_array_equal(x, pack(np.repeat(images[5][..., None], 3, 2), None, spec))
    depth = InputSpec(4, 32, 32, depth=DepthEncoding("log", 0.25, 80.0))
    item = Frames(grey, [5], depth)[0]
    assert (item["input"][3] == -1).all()
    assert not item["valid"].any()
    write_picture(tmp_path / "photos" / "a.png", 28, 28)
    colour = opened(tmp_path, kind="images", path="photos")
    np.testing.assert_array_equal(Frames(colour, [0], GREY)[0]["input"], pack(colour.color[0], None, GREY))


def write_nyu(path: Path, version: str, count: int = 6) -> None:
    from scipy.io import savemat

    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (count, 3, 16, 12), np.uint8)
    depths = rng.random((count, 16, 12), np.float32) + 1
    scenes = [f"kitchen_000{i // 2}" if i < 4 else "office_0001" for i in range(count)]
    types = [scene.split("_")[0] for scene in scenes]
    if version == "5":
        cells = {"scenes": scenes, "sceneTypes": types}
        columns = {key: np.array(texts, dtype=object)[:, None] for key, texts in cells.items()}
        savemat(path, {"images": images.T, "depths": depths.T, **columns})
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        file["images"], file["depths"] = images, depths
        for key, texts in (("scenes", scenes), ("sceneTypes", types)):
            for i, text in enumerate(texts):
                file[f"#refs#/{key}{i}"] = np.array([[ord(letter)] for letter in text], np.uint16)
            references = [file[f"#refs#/{key}{i}"].ref for i in range(count)]
            file.create_dataset(key, (1, count), h5py.ref_dtype)
            for i, reference in enumerate(references):
                file[key][0, i] = reference


@pytest.mark.parametrize("version", ["7.3", "5"])
def test_scenes_and_their_types_of_nyu(tmp_path: Path, version: str) -> None:
    write_nyu(tmp_path / "nyu.mat", version)
    frames = opened(tmp_path, kind="nyu_mat", path="nyu.mat", split_seed=1)
    assert [entry.label for entry in frames.entries] == ["kitchen"] * 4 + ["office"] * 2
    assert [entry.scene for entry in frames.entries] == ["kitchen_0000"] * 2 + ["kitchen_0001"] * 2 + [
        "office_0001"
    ] * 2
    spec = InputSpec(4, 32, 32, depth=DepthEncoding("log", 0.25, 80.0))
    options = SetOptions("nyu_mat", "nyu.mat", name="nyu", parts=[0.6, 0.4])
    data = module(tmp_path, spec, options, labels="scene")
    assert data.classes == ["kitchen_0000", "kitchen_0001", "office_0001"]
    train, held = ({int(i) for i in part.indices} for part in (data.trained("nyu"), data.held("nyu")))
    assert train | held == set(range(6))
    assert not {i // 2 for i in train} & {i // 2 for i in held}  # whole scenes


def test_a_recorded_stream(tmp_path: Path, tiny_model_path: Path) -> None:
    pytest.importorskip("mcap")
    import edgevae
    from edgevae import stream
    from edgevae.sinks import open_record

    model = edgevae.load(tiny_model_path, threads=1)
    path = tmp_path / "run.mcap"
    stream.run(
        edgevae.open_source("synthetic:3?frames=6&size=64x48"),
        model,
        [open_record(path, pictures=["color", "depth"])],
    )
    frames = opened(tmp_path, kind="source", path="run.mcap", name="drive", licence="ours", stride=2)
    assert frames.color.shape == (3, 48, 64, 3)
    assert frames.depth is not None
    assert (frames.depth > 0).any((1, 2)).all()
    assert [entry.name for entry in frames.entries] == ["0", "2", "4"]
    assert {(entry.scene, entry.licence) for entry in frames.entries} == {("drive", "ours")}
    with edgevae.open_source(str(path)) as source:
        recorded = list(source)
    np.testing.assert_array_equal(frames.color[2], recorded[4].rgb)


def test_a_folder_as_a_source(tmp_path: Path) -> None:
    for i in range(7):
        write_picture(tmp_path / "walk" / "color" / f"{i}.png", value=10 * i)
        (tmp_path / "walk" / "depth").mkdir(exist_ok=True)
        depth = np.full((20, 20), 1000 + i, np.uint16)
        assert cv2.imwrite(str(tmp_path / "walk" / "depth" / f"{i}.png"), depth)
    frames = opened(tmp_path, kind="source", path="walk", frames=3, stride=2)
    assert [entry.name for entry in frames.entries] == ["0", "2", "4"]
    assert frames.depth is not None
    np.testing.assert_array_equal(frames.depth[2], 502)
    assert len(opened(tmp_path, kind="source", path="synthetic:3?frames=2", height=60).color) == 2
    with pytest.raises(SourceError, match="does not end"):
        opened(tmp_path, kind="source", path="synthetic:3")
    with pytest.raises(SourceError, match=r"set 'nowhere.mcap': .*nowhere\.mcap.*--data\.root"):
        opened(tmp_path, kind="source", path="nowhere.mcap")


@pytest.mark.parametrize(
    ("kind", "home"),
    [
        ("mnist", "yann.lecun.com"),
        ("frey", "roweis"),
        ("classes", "utzap50k"),
        ("nyu_mat", "nyu_depth_v2"),
        ("tum", "cvg.cit.tum.de"),
        ("pairs", "place the set here"),
    ],
)
def test_a_missing_set_says_where_it_comes_from(tmp_path: Path, kind: str, home: str) -> None:
    with pytest.raises(SourceError, match=rf"nowhere does not exist .*{home}.*EDGEVAE_DATA"):
        opened(tmp_path, kind=kind, path="nowhere")


def test_real_mnist_and_frey(tmp_path: Path, data_dir: Path) -> None:
    for options, shape in (
        (SetOptions("mnist", "mnist"), (70000, 28, 28)),
        (SetOptions("frey", "frey/frey_rawface.mat"), (1965, 28, 20)),
    ):
        frames = open_set(options, data_dir, tmp_path)
        assert frames.color.shape == shape
        assert frames.skipped == 0
    digits = open_set(SetOptions("mnist", "mnist"), data_dir, tmp_path)
    assert digits.entries[0].label == "5"  # the first training picture of MNIST
    assert digits.entries[60000].label == "7"
    assert 30 < digits.color.mean() < 36
