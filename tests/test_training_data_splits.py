"""Which frames train, validate and test."""

from __future__ import annotations

from collections import Counter

import pytest

from edgevae.errors import SourceError
from training.data import SetOptions
from training.data.readers import Entry
from training.data.splits import split


def frames(count: int, scene: str = "s", label: str = "") -> list[Entry]:
    return [Entry(f"{scene}/{i}", scene, "", label, scene) for i in range(count)]


def test_shares_of_each_class() -> None:
    entries = frames(70, "boots", "boots") + frames(20, "shoes", "shoes") + frames(3, "rare", "rare")
    options = SetOptions("classes", parts=[0.7, 0.2, 0.1])
    parts = split(entries, options)
    counts = [Counter(entries[i].label for i in part) for part in parts]
    assert counts[0] == {"boots": 49, "shoes": 14, "rare": 1}
    assert counts[1] == {"boots": 14, "shoes": 4, "rare": 1}
    assert counts[2] == {"boots": 7, "shoes": 2, "rare": 1}
    assert sorted(i for part in parts for i in part) == list(range(93))
    assert split(entries, options) == parts
    assert split(entries, SetOptions("classes", parts=[0.7, 0.2, 0.1], split_seed=1)) != parts
    single = split(frames(50, "a", "a") + frames(1, "b", "b"), options)
    assert 50 in single.train, "a picture alone of its class trains"


def test_a_picture_less_moves_few_others() -> None:
    entries = frames(1000)
    options = SetOptions("images", parts=[0.8, 0.2])
    whole = {entries[i].name for i in split(entries, options).validation}
    fewer = entries[:300] + entries[310:]
    after = {fewer[i].name for i in split(fewer, options).validation}
    assert len(whole ^ after) <= 8


@pytest.mark.parametrize("sizes", [[30] * 10, [1, 2, 300, 4, 5, 50], [5, 5], [1000, 1]])
def test_scenes_never_leak(sizes: list[int]) -> None:
    entries = [entry for i, size in enumerate(sizes) for entry in frames(size, f"scene{i}")]
    for seed in range(20):
        parts = split(entries, SetOptions("pairs", parts=[0.8, 0.2], split_seed=seed))
        scenes = [{entries[i].scene for i in part} for part in parts]
        assert scenes[0]
        assert scenes[1]
        assert not scenes[0] & scenes[1]
        assert not parts.test
    if len(sizes) == 10:
        assert len(scenes[0]) == 8


def test_patterns_go_before_shares() -> None:
    entries = frames(100, "train") + frames(20, "test")
    parts = split(entries, SetOptions("mnist", test=["test"], parts=[0.9, 0.1]))
    assert [len(part) for part in parts] == [90, 10, 20]
    assert parts.test == list(range(100, 120))
    parts = split(entries, SetOptions("mnist", leave_out=["test"], hold_out_last=5))
    assert [len(part) for part in parts] == [95, 5, 0]


@pytest.mark.parametrize("parts", [[0.8, 0.2], [0.7, 0.2, 0.1], [0.98, 0.01, 0.01], [0.1, 0.1, 0.8]])
@pytest.mark.parametrize("count", [3, 4, 5, 17])
def test_no_part_is_empty(parts: list[float], count: int) -> None:
    for seed in range(10):
        found = split(frames(count), SetOptions("frey", parts=parts, split_seed=seed))
        assert all(found[: len(parts)])


def test_splits_that_cannot_be() -> None:
    with pytest.raises(SourceError, match=r"'x' has 1 scene to draw parts .*hold_out_last"):
        split(frames(10), SetOptions("tum", name="x", parts=[0.8, 0.2]))
    with pytest.raises(SourceError, match="has 2 frames to draw parts"):
        split(frames(2), SetOptions("frey", parts=[0.7, 0.2, 0.1]))
    with pytest.raises(SourceError, match=r"has no scene 'hal', .*its scenes are hall, kitchen\."):
        split(frames(3, "hall") + frames(3, "kitchen"), SetOptions("pairs", hold_out=["hal"]))
    for parts in ([1.0], [0.5, 0.6], [0.5, 0.5, 0.0], [0.25] * 4):
        with pytest.raises(ValueError, match="parts is"):
            SetOptions("frey", parts=parts)
