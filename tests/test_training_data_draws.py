"""What is drawn when: the same for any number of workers, after a resumption, and divided among processes."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from edgevae.errors import SourceError
from edgevae.preprocess import DepthEncoding, InputSpec
from training.data import AugmentOptions, FramesDataModule, SetOptions
from training.data.draws import BatchSampler, Draws, generators

SPEC = InputSpec(4, 32, 32, depth=DepthEncoding("log", 0.25, 80.0))
AUGMENT = AugmentOptions(crop=0.7, shift=0.1, mirror=0.5, jitter=0.2, drop_depth=0.2, drop_blocks=0.4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    for name, kind in (("color", np.uint8), ("depth", np.uint16)):
        (tmp_path / "rooms" / name).mkdir(parents=True)
        for i in range(11):
            image = (
                rng.integers(500, 4000, (24, 32)) if name == "depth" else rng.integers(0, 256, (24, 32, 3))
            )
            assert cv2.imwrite(str(tmp_path / "rooms" / name / f"{i}.png"), image.astype(kind))
    (tmp_path / "mnist").mkdir()
    for name, content in (
        ("images-idx3", bytes([0, 0, 8, 3, 0, 0, 0, 21, 0, 0, 0, 28, 0, 0, 0, 28])),
        ("labels-idx1", bytes([0, 0, 8, 1, 0, 0, 0, 21])),
    ):
        size = (21, 28, 28) if "images" in name else (21,)
        values = rng.integers(0, 10, size).astype(np.uint8)
        (tmp_path / "mnist" / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(content + values.tobytes()))
    return tmp_path


def module(root: Path, **options: Any) -> FramesDataModule:
    sets = [
        SetOptions("pairs", "rooms", hold_out_last=1),
        SetOptions("mnist", "mnist", hold_out_last=3),
    ]
    options = {"workers": 0, "batch_size": 5, "augment": AUGMENT, "seed": 7} | options
    data = FramesDataModule(options.pop("sets", sets), str(root), str(root / "cache"), **options)
    data.spec = SPEC
    data.setup("fit")
    return data


def epochs(data: FramesDataModule, numbers: list[int]) -> list[dict[str, torch.Tensor]]:
    loader: Any = data.train_dataloader()
    batches = []
    for number in numbers:
        loader.sampler.set_epoch(number)
        batches += list(loader)
    return batches


def same(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)
        for x, y in zip(a, b, strict=True)
    )


# Of the number of cores, and that the parent has threads
@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:This process")
def test_any_number_of_workers_draws_the_same(root: Path) -> None:
    alone = epochs(module(root), [0, 1])
    assert len(alone) == 2 * (28 // 5)
    for workers in (1, 3):
        state = torch.get_rng_state()
        assert same(epochs(module(root, workers=workers), [0, 1]), alone)
        assert torch.equal(torch.get_rng_state(), state), "what the model samples stays the same, too"
    assert not same(epochs(module(root, seed=8), [0, 1]), alone)


def test_workers_that_are_sent_the_data_set_map_its_cache(root: Path) -> None:
    loader: Any = module(root).train_dataloader()
    sent = pickle.dumps(loader.dataset)
    assert len(sent) < 10_000
    draws = next(iter(loader.sampler))
    assert same([pickle.loads(sent)[draws]], [loader.dataset[draws]])


def test_a_resumed_run_draws_what_it_would_have(root: Path) -> None:
    through = epochs(module(root), [0, 1, 2])
    assert same(epochs(module(root), [2]), through[-5:])
    assert not same(through[:5], through[5:10])


@pytest.mark.filterwarnings("ignore:This process")
def test_the_epoch_may_be_told_after_the_loader_was_begun(root: Path) -> None:
    """As Lightning does when a run is resumed."""
    loader: Any = module(root, workers=1).train_dataloader()
    begun = iter(loader)
    loader.sampler.set_epoch(2)
    assert same(list(begun), epochs(module(root), [2]))


def test_a_frame_does_not_depend_on_its_batch(root: Path) -> None:
    dataset: Any = module(root).train_dataloader().dataset
    places, items = np.arange(20), np.arange(20)[::-1].copy()
    whole = dataset[Draws(3, places, items)]
    for i in (0, 7, 19):
        one = dataset[Draws(3, places[i : i + 1], items[i : i + 1])]
        assert all(torch.equal(one[key][0], whole[key][i]) for key in whole)


def test_generators_are_independent() -> None:
    numbers = [rng.random(40) for rng in generators(1, 2, np.arange(100))]
    assert np.unique(np.concatenate(numbers)).size == 4000
    again = [rng.random(40) for rng in generators(1, 2, np.array([5, 99]))]
    np.testing.assert_array_equal(again, [numbers[5], numbers[99]])
    for seed, epoch in ((2, 2), (1, 3), (-1, 2)):
        (other,) = generators(seed, epoch, np.array([5]))
        assert other.random() != numbers[5][0]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("frames", [1, 7, 24, 101])
def test_each_process_has_its_own_part(processes: int, shuffle: bool, frames: int) -> None:
    samplers = [
        BatchSampler(frames, 8, shuffle=shuffle, seed=1, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])}
    items = np.concatenate([draws.items for part in parts for draws in part])
    places = np.concatenate([draws.places for part in parts for draws in part])
    assert len(set(places)) == len(places), "no two frames have the same random numbers"
    padding = -frames % processes
    if shuffle and frames >= 8 * processes:
        assert len(items) == len(set(items)) == frames // processes // 8 * 8 * processes
    else:
        assert set(items) == set(range(frames))
        assert len(items) <= frames + padding
    if not shuffle and processes == 1:
        np.testing.assert_array_equal(items, np.arange(frames))
    samplers[0].set_epoch(1)
    second = np.concatenate([draws.items for draws in samplers[0]])
    first = np.concatenate([draws.items for draws in parts[0]])
    assert np.array_equal(first, second) == (not shuffle or frames == 1)


def test_epochs_of_another_length() -> None:
    short = BatchSampler(100, 8, shuffle=True, epoch_frames=24)
    items = np.concatenate([draws.items for draws in short])
    assert len(set(items)) == 24
    long = BatchSampler(10, 8, shuffle=True, epoch_frames=80)
    assert sum(len(draws.items) for draws in long) == 80
    weighted = BatchSampler(2, 10, shuffle=True, weights=np.array([1.0, 9.0]), epoch_frames=1000)
    assert 0.85 < np.concatenate([draws.items for draws in weighted]).mean() < 0.95


def test_sets_with_classes_and_without(root: Path) -> None:
    data = module(root)
    batch = epochs(data, [0])[0]
    assert set(batch["label"].tolist()) <= {-1, *range(10)}
    assert (batch["label"] == -1).any()
    scenes = module(root, labels="scene")
    assert scenes.classes == ["rooms", "train"]
    assert scenes.held("mnist")[0]["label"] == 1


def test_depth_that_the_model_does_not_reach(root: Path) -> None:
    far = SetOptions("pairs", "rooms", hold_out_last=1, depth_scale=0.00001)
    with pytest.raises(
        SourceError, match=r"0\.00[0-9]* to 0\.04 m in the frames .* 0\.25 to 80 m; .*depth_scale"
    ):
        module(root, sets=[far])
    with pytest.raises(SourceError, match="no set has depth; build it with channels: 3"):
        module(root, sets=[SetOptions("mnist", "mnist", hold_out_last=1)])


def test_sets_by_name(root: Path) -> None:
    data = module(root)
    assert (len(data.held("rooms")), len(data.trained("rooms"))) == (1, 10)
    for ask in (data.held, data.trained):
        with pytest.raises(SourceError, match="'street'"):
            ask("street")
