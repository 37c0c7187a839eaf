"""What latents decode to that no frame gave: samples, one latent at a time, a plane of latents."""

from __future__ import annotations

import numpy as np

from ..figures import images, latent_map
from ..figures.grid import Block, Row, grid
from ..losses import kl_divergence
from .frames import Floats, decode, tensor
from .material import SEED, Material, depth_words, empty
from .page import Section

_CLASSES = 20
_LATENTS, _LATENTS_WITH_DEPTH = 20, 8
_REACH, _STOPS = 3.0, 7  # of a traversal, in deviations


def samples(m: Material) -> Section:
    title = "Samples from the prior"
    if why := m.lacks(data=False):
        return empty("samples", title, why)
    if m.net.posterior is None:
        why = "A plain autoencoder ties its latents to no distribution: there is no prior to sample from."
        return empty("samples", title, why)
    m.say("samples")
    columns, lines = (10, 6) if m.net.input.depth is None else (8, 3)
    names = list(m.class_names[:_CLASSES]) if m.net.condition_dim else [""] * lines
    rng = np.random.default_rng(SEED)
    z = rng.standard_normal((len(names), columns, m.net.latent_dim)).astype(np.float32)
    y = [decode(m.net, part, m.condition(label, columns)) for label, part in enumerate(z)]
    scale = m.scale(*y)
    rows = [Row(name, m.stacked(part, scale)) for name, part in zip(names, y, strict=True)]
    words = "Latents drawn from the standard normal distribution, decoded."
    if m.net.condition_dim:
        words += " One row a class"
        words += f", {_CLASSES} of {m.net.condition_dim}." if m.net.condition_dim > _CLASSES else "."
    drawn = m.picture(
        "generated_samples",
        lambda: grid([Block(rows)], m.tile),
        "Pictures decoded from random latents",
        words + depth_words(scale),
    )
    return Section("samples", title, [drawn])


def traversals(m: Material) -> Section:
    title = "What single latents do"
    if why := m.lacks(data=False):
        return empty("traversals", title, why)
    m.say("traversals")
    order, words_beside = _by_activity(m)
    shown = order[: _LATENTS if m.net.input.depth is None else _LATENTS_WITH_DEPTH]
    centre, deviation = np.zeros(m.net.latent_dim), np.ones(m.net.latent_dim)
    if m.net.posterior is None and m.latents_or_none is not None:
        centre, deviation = m.latents.mean(0), m.latents.std(0)
    base, label, start = centre, 0, "the middle"
    if m.latents_or_none is not None:
        # The frame in the middle of all is the one that changes most readily
        frame = int(np.square(m.latents - m.latents.mean(0)).sum(1).argmin())
        base, label = m.latents[frame], int(m.held.groups[frame])
        start = f"the latent of a held-out frame ({m.held.name(frame)})"
    elif m.net.condition_dim:
        start = f"the middle, for {m.class_names[0]}"
    at = np.linspace(-_REACH, _REACH, _STOPS)
    condition = m.condition(label, _STOPS)
    y = []
    for latent in shown:
        z = np.repeat(base[None], _STOPS, axis=0)
        z[:, latent] = centre[latent] + at * deviation[latent]
        y.append(decode(m.net, z.astype(np.float32), condition))
    scale = m.scale(*y)
    rows = [
        Row(f"z{latent}{words_beside[latent]}", m.stacked(part, scale))
        for latent, part in zip(shown, y, strict=True)
    ]
    heads = [f"{value:+g}" if value else "0" for value in at]
    unit = "its deviations over the held-out frames" if m.net.posterior is None else "deviations of the prior"
    words = f"One latent at a time goes from -3 to +3, in {unit}; the others stay at {start}."
    if len(shown) < m.net.latent_dim:
        words += f" {len(shown)} of {m.net.latent_dim} latents."
    if m.latents_or_none is not None:
        words += " The most active come first."
    drawn = m.picture(
        "latent_variations",
        lambda: grid([Block(rows, "", heads)], m.tile if len(rows) <= 10 else 96),
        "Pictures decoded while one latent changes, one row for each latent",
        words + depth_words(scale),
    )
    return Section("traversals", title, [drawn])


def kl_of_latents(m: Material) -> Floats | None:
    """KL of each latent in nats, (latent_dim,), mean over the held-out frames; None if there is none."""
    if m.latents_or_none is None or m.deviations is None:
        return None
    kl: Floats = kl_divergence(tensor(m.latents), tensor(m.deviations)).mean(0).numpy()
    return kl


def _by_activity(m: Material) -> tuple[list[int], list[str]]:
    """Latents, the most active first, and what to write beside each."""
    kl = kl_of_latents(m)
    if kl is not None:
        return _descending(kl), [f"  {value:.2f} nats" for value in kl]
    if m.latents_or_none is not None:
        deviation = m.latents.std(0)
        return _descending(deviation), [f"  deviation {value:.2g}" for value in deviation]
    return list(range(m.net.latent_dim)), [""] * m.net.latent_dim


def _descending(values: Floats) -> list[int]:
    return [int(i) for i in np.argsort(-values, kind="stable")]


def plane(m: Material) -> Section | None:
    """None unless a latent has two numbers."""
    if m.net_or_none is None or m.net.latent_dim != 2:
        return None
    m.say("plane of latents")
    spec = m.net.input
    count = 15 if max(spec.height, spec.width) <= 64 else 11
    low, high = np.full(2, -2.5), np.full(2, 2.5)
    words = "What each place of the plane decodes to"
    if m.latents_or_none is not None:
        low, high = np.percentile(m.latents, (1, 99), axis=0)
        high = np.maximum(high, low + 1e-3)
        words += ", where held-out frames lie"
    words += f", for {m.class_names[0]}." if m.net.condition_dim else "."
    z1, z2 = (np.linspace(low[i], high[i], count, dtype=np.float32) for i in range(2))
    z = np.stack(np.meshgrid(z1, z2), axis=-1).reshape(-1, 2)
    y = decode(m.net, z, m.condition(0, len(z)))
    scale = m.scale(y)
    height = min(spec.height, 96)
    layers = {"colour" if spec.depth is not None else "": [images.colour(one) for one in y]}
    if spec.depth is not None and scale is not None:
        layers["depth"] = [scale.colours(images.metres(one, spec.depth)) for one in y]
    planes = {
        name: np.array([images.resized(tile, height) for tile in tiles]) for name, tiles in layers.items()
    }
    drawn = m.picture(
        "latent_plane",
        lambda: latent_map.latent_plane(planes, z1, z2),
        "Pictures decoded over the plane of latents",
        words + depth_words(scale),
    )
    return Section("plane", "The plane of latents, decoded", [drawn])
