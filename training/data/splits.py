"""Which frames of a set train, which validate, and which are kept for the test."""

from __future__ import annotations

import fnmatch
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from edgevae.errors import SourceError

from .readers import Entry
from .sets import SetOptions


class Split(NamedTuple):
    """Indices of frames, ascending within each part."""

    train: list[int]
    validation: list[int]
    test: list[int]


def split(entries: Sequence[Entry], options: SetOptions) -> Split:
    """The parts of a set: scenes named by patterns first, then ``hold_out_last``, then ``parts`` of the rest.

    The draw orders groups by a hash of their name, so that a picture more or less moves few others to another
    part, and no frame depends on how many came before it.

    Raises:
        SourceError: there are fewer scenes than parts, or a pattern matches no scene.
    """
    _check_patterns(entries, options)
    rest: list[int] = []
    held: list[int] = []
    test: list[int] = []
    for i, entry in enumerate(entries):
        if not _matches(entry.scene, options.leave_out):
            kept = _matches(entry.scene, options.test)
            (test if kept else held if _matches(entry.scene, options.hold_out) else rest).append(i)
    cut = max(0, len(rest) - options.hold_out_last)
    parts = [rest[:cut], held + rest[cut:], test]
    if options.parts:
        drawn = _draw([entries[i] for i in parts[0]], options)
        rest, parts[0] = parts[0], []
        for i, part in zip(rest, drawn, strict=True):
            parts[part].append(i)
    return Split(*(sorted(part) for part in parts))


def _check_patterns(entries: Sequence[Entry], options: SetOptions) -> None:
    scenes = sorted({entry.scene for entry in entries})
    for pattern in (*options.hold_out, *options.test, *options.leave_out):
        if not any(_matches(scene, [pattern]) for scene in scenes):
            shown = ", ".join(scenes[:8]) + ", ..." * (len(scenes) > 8)
            raise SourceError(
                f"set {options.name!r} has no scene {pattern!r}, which its hold_out, test or leave_out "
                f"names; its scenes are {shown}."
            )


def _matches(scene: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(scene, pattern) for pattern in patterns)


def _draw(entries: list[Entry], options: SetOptions) -> list[int]:
    """The part of each frame, by class."""
    whole = options.split_by == "scene"
    keys = [entry.group if whole else f"{entry.group}/{entry.name}" for entry in entries]
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    label_of: dict[str, str] = {}
    for i, (key, entry) in enumerate(zip(keys, entries, strict=True)):
        groups[label_of.setdefault(key, entry.label)][key].append(i)
    if len(label_of) < len(options.parts):
        what = "scene" if whole else "frame"
        cure = (
            "give hold_out_last, or split_by: frame if none resembles another" if whole else "leave parts out"
        )
        raise SourceError(
            f"set {options.name!r} has {len(label_of)} {what}{'s' * (len(label_of) != 1)} to draw parts "
            f"{options.parts} from, wanted one for each at least; {cure}."
        )
    drawn = [0] * len(entries)
    for of_class in groups.values():
        order = sorted(of_class, key=lambda key: _hash(options.split_seed, key))
        sizes = [len(of_class[key]) for key in order]
        for key, part in zip(order, _cut(sizes, options.parts), strict=True):
            for i in of_class[key]:
                drawn[i] = part
    return drawn


def _hash(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()


def _cut(sizes: list[int], shares: list[float]) -> list[int]:
    """The part of each group in a row, by where its middle lies; no part empty if there are groups enough."""
    total, before, previous, last = sum(sizes), 0, -1, len(shares) - 1
    parts = []
    for i, size in enumerate(sizes):
        middle = (before + size / 2) / total
        part = next((p for p in range(last) if middle < sum(shares[: p + 1])), last)
        if len(sizes) > last:
            part = min(max(part, last + 1 - (len(sizes) - i)), previous + 1)
        parts.append(part)
        before, previous = before + size, part
    return parts
