"""From one held-out frame to another: a strip, an animation, and how far each step is on its way."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgevae.animation import write_animation
from edgevae.interpolate import line
from edgevae.pictures import Image

from ..figures import interpolation
from ..figures.grid import Block, Row, grid
from .frames import HeldOut, decode, spread
from .material import ANIMATIONS, SEED, Material, depth_words, empty
from .page import Section, moving_picture

_WAYS, _STRIP, _FPS = 4, 16, 10.0


def interpolations(m: Material) -> Section:
    title = "From one frame to another"
    if why := m.lacks():
        return empty("interpolations", title, why)
    if len(m.held) < 2:
        return empty("interpolations", title, "There is one held-out frame; a way needs two.")
    m.say(f"interpolations in {m.steps} steps")
    pairs = parents(m.held)
    ends = [m.held.load(list(pair), m.net.condition_dim) for pair in pairs]
    ways = []
    for (a, b), end in zip(pairs, ends, strict=True):
        # Between classes the condition goes the same straight way as the latent.
        condition = None
        if end.condition is not None:
            condition = line(end.condition[0], end.condition[1], m.steps)
        ways.append(decode(m.net, line(m.latents[a], m.latents[b], m.steps), condition))
    scale = m.scale(*ways)
    tiles = [m.stacked(way, scale) for way in ways]
    names = [f"{m.held.name(a)} to {m.held.name(b)}" for a, b in pairs]
    if m.held.by == "set" and len(m.held.sets) == 1:
        names = [f"way {i + 1}" for i in range(len(pairs))]
    at = spread(m.steps, _STRIP)
    rows = []
    for name, steps, end in zip(names, tiles, ends, strict=True):
        first, last = m.stacked(end.target, scale, end.valid)
        rows.append(Row(name, [first, *(steps[i] for i in at), last]))
    heads = ["frame", *(f"{i / (m.steps - 1):.2f}" for i in at), "frame"]
    words = f"Straight lines between the latents of held-out frames in {m.steps} steps"
    words += f", of which {len(at)} are shown" if len(at) < m.steps else ""
    words += "; the frames themselves stand at either end."
    strip = m.picture(
        "interpolation",
        lambda: grid([Block(rows, "", heads)], 2 * m.tile),
        "Decoded steps between pairs of held-out frames",
        words + depth_words(scale),
    )
    _animate(m, tiles)
    gif = moving_picture(
        m.files["interpolation.gif"],
        "The same ways as an animation",
        f"The same ways, all {m.steps} steps, there and back; also in interpolation.mp4.",
    )
    shares = [interpolation.shares(way) for way in ways]
    farthest = max(float(np.abs(share - np.linspace(0, 1, len(share))).max()) for share in shares)
    distances = m.picture(
        "interpolation_parents",
        lambda: interpolation.parent_shares(shares, names),
        "How far each step is from its first parent, as a part of both distances",
        "How far the decoded picture has gone from its first parent to its second. On the dashed line none "
        f"dominates; the farthest from it is {farthest:.2f}.",
    )
    return Section("interpolations", title, [strip, gif, distances])


def parents(held: HeldOut) -> list[tuple[int, int]]:
    """Pairs of frames, of different groups where there are several; the same in every report."""
    rng = np.random.default_rng(SEED)
    several = len(set(held.groups.tolist())) > 1
    pairs: list[tuple[int, int]] = []
    while len(pairs) < min(_WAYS, len(held) // 2):
        a, b = (int(i) for i in rng.choice(len(held), 2, replace=False))
        if not several or held.groups[a] != held.groups[b]:
            pairs.append((a, b))
    return pairs


def _animate(m: Material, ways: list[list[Image]]) -> None:
    pictures = interpolation.moving(ways, m.tile)
    with tempfile.TemporaryDirectory(prefix="edgevae-report-") as folder:
        for name in ANIMATIONS:
            path = Path(folder) / name
            write_animation(path, pictures, fps=_FPS)
            m.files[name] = path.read_bytes()
