"""Held-out frames beside what the model makes of them."""

from __future__ import annotations

import numpy as np
import torch

from edgevae.mapping.views import View, decoded_view
from edgevae.model import Decoded
from edgevae.preprocess import DepthEncoding

from ..figures import depth, images, points
from ..figures.grid import Block, Row, grid
from ..losses import squared_error
from .frames import Floats, Shown, decode, encode, spread
from .material import Material, empty
from .page import Section, absent

_SETS, _PAIRS, _CLOUDS = 4, 8, 4


def reconstructions(m: Material) -> Section:
    title = "Originals over reconstructions"
    if why := m.lacks():
        return empty("reconstructions", title, why)
    m.say("reconstructions")
    blocks = []
    for number, name in list(enumerate(m.held.sets))[:_SETS]:
        frames = m.held.of_set(number, m.images)
        shown, y = _decoded(m, frames)
        blocks.append(_block(m, name, frames, shown, y))
    scaled = ", scaled for missing depth" if m.net.input.depth is not None else ""
    words = (
        "Held-out frames, and what their posterior means decode to. The number is the squared error summed "
        f"over the image, in units of [-1, 1]{scaled}."
    )
    if len(m.held.sets) > _SETS:
        words += f" {_SETS} of {len(m.held.sets)} sets."
    drawn = m.picture(
        "reconstructions",
        lambda: grid(blocks, m.tile),
        "Held-out frames above their reconstructions",
        words,
    )
    return Section("reconstructions", title, [drawn])


def _decoded(m: Material, frames: list[int]) -> tuple[Shown, Floats]:
    shown = m.held.load(frames, m.net.condition_dim)
    return shown, decode(m.net, encode(m.net, shown)[0], shown.condition)


def _block(m: Material, name: str, frames: list[int], shown: Shown, y: Floats) -> Block:
    """One set: originals over what they decode to, with the error of each."""
    spec = m.net.input
    arrays = (torch.from_numpy(array) for array in (y, shown.target, shown.valid))
    errors = squared_error(*arrays).tolist()
    originals, decoded = [], []
    for want, got, valid in zip(shown.target, y, shown.valid, strict=True):
        scale = None
        if spec.depth is not None:
            scale = images.scale_of(spec.depth, images.metres(want, spec.depth, valid))
        originals.append(images.stacked(want, spec, scale, valid))
        decoded.append(images.stacked(got, spec, scale))
    heads = [] if m.held.by == "set" else [m.held.name(frame) for frame in frames]
    captions = [f"{error:.1f}" if error < 100 else f"{error:.0f}" for error in errors]
    return Block([Row("original", originals), Row("decoded", decoded, captions)], name, heads)


def depths(m: Material) -> Section | None:
    """None for a model without depth."""
    if m.net_or_none is None or m.net.input.depth is None:
        return None
    title = "Depth"
    if why := m.lacks():
        return empty("depth", title, why)
    m.say("depth and points")
    encoding = m.net.input.depth
    each = [m.held.of_set(number, m.images) for number in range(len(m.held.sets))]
    frames = [frame for part in each for frame in part]
    frames = [frames[i] for i in spread(len(frames), min(m.images, _PAIRS))]
    shown, y = _decoded(m, frames)
    pairs = [
        depth.DepthPair(
            images.colour(want),
            images.colour(got),
            images.metres(want, encoding, valid),
            images.metres(got, encoding),
            m.held.name(frame),
        )
        for frame, want, got, valid in zip(frames, shown.target, y, shown.valid, strict=True)
    ]
    share = "the measured distance" if encoding.metric else "the image's own range of depth"
    drawn = m.picture(
        "depth_errors",
        lambda: depth.depth_errors(pairs, metric=encoding.metric),
        "Colour and depth, measured and decoded, and maps of the error of depth",
        f"Depth as measured and as decoded, and its error as a part of {share}. Grey has no reading.",
    )
    return Section("depth", title, [drawn, _point_clouds(m, pairs, encoding)])


def _point_clouds(m: Material, pairs: list[depth.DepthPair], encoding: DepthEncoding) -> str:
    if not encoding.metric:
        return absent("Depth of this model is relative to each image: without metres there are no points.")
    chosen = [pair for pair in pairs if np.isfinite(pair.measured).any()]
    chosen = [chosen[i] for i in spread(len(chosen), _CLOUDS)]
    if not chosen:
        return absent("None of these frames has a depth reading: there are no points.")
    height, width = chosen[0].measured.shape
    camera = points.assumed_camera(width, height)
    rows = []
    for side in points.SIDES:
        measured, decoded = [], []
        for pair in chosen:
            view = View(pair.color, np.nan_to_num(pair.measured), camera)
            farthest_m = float(np.nanmax(pair.measured))
            got = decoded_view(Decoded(pair.decoded_color, pair.decoded), camera, encoding, farthest_m)
            measured.append(points.render(view, side, view))
            decoded.append(points.render(got, side, view))
        rows += [Row(f"measured, {side.name}", measured), Row(f"decoded, {side.name}", decoded)]
    return m.picture(
        "point_cloud",
        lambda: grid([Block(rows, "", [pair.name for pair in chosen])], 240),
        "Points in space, measured and decoded, from two sides",
        "The same frames as points in space, from two sides. Decoded points at the edges of things, where "
        "depth is neither near nor far, are left out. A set does not say what its camera saw; here it is "
        f"{points.WIDE_DEGREES:g}° by {points.HIGH_DEGREES:g}°.",
    )
