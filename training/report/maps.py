"""Where the latents of held-out frames lie, and which of them carry something."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from edgevae.errors import EdgevaeError

from ..figures import latent_map, units
from ..figures.latent_map import Map
from ..metrics import ACTIVE_VARIANCE
from .decoded import kl_of_latents
from .frames import Floats
from .material import Material, empty
from .page import Section, absent

_ANCHOR, _TITLE = "latent-space", "The latent space in two dimensions"


def latent_space(m: Material) -> Section:
    if why := m.lacks():
        return empty(_ANCHOR, _TITLE, why)
    if len(m.held) < 3:
        return empty(_ANCHOR, _TITLE, f"There are {len(m.held)} held-out frames, too few for a map.")
    groups, names, by = m.held.groups, m.held.names, m.held.by
    words = f"Each point is a held-out frame, coloured by {by}."
    if m.held.total > len(m.held):
        words += f" {len(m.held):,} of {m.held.total:,} frames, spread evenly."
    if m.net.latent_dim == 1:
        drawn = m.picture(
            "latent_space_2d",
            lambda: latent_map.latent_line(m.latents, groups, names),
            f"Histogram of the latent by {by}",
            f"How often each value of the one latent occurs, coloured by {by}.",
        )
        return Section(_ANCHOR, _TITLE, [drawn])
    series = _by_epoch(m)
    m.say("maps of the latent space")
    if m.net.latent_dim == 2:
        final, rows = [Map("posterior means", m.latents, "z1", "z2")], {"": list(series.values())}
    else:
        final, rows = _projected(m.latents, list(series.values()))
        words += _method_words(len(m.held), len(final))
    drawn = m.picture(
        "latent_space_2d",
        lambda: latent_map.latent_maps([final], groups, names),
        f"Map of latents by {by}",
        words,
    )
    if len(series) < 2:
        why = (
            f"How the map came about is not shown: the run kept {len(series) or 'no'} "
            f"checkpoint{'s' if not series else ''} of its epochs. run.keep_every in its config keeps more."
        )
        return Section(_ANCHOR, _TITLE, [drawn, absent(why)])
    return Section(_ANCHOR, _TITLE, [drawn, _history(m, list(series), rows)])


def _by_epoch(m: Material) -> dict[int, Floats]:
    """The latents of the same frames in each kept checkpoint that can be read."""
    series: dict[int, Floats] = {}
    for epoch in m.epochs:
        m.say(f"latents of epoch {epoch}")
        try:
            net = m.run.net(epoch)
            if net.latent_dim != m.net.latent_dim or net.input != m.net.input:
                m.notes.append(f"The checkpoint of epoch {epoch} is of another model and is left out.")
                continue
            series[epoch] = m.held.encode(net)[0]
        except EdgevaeError as error:
            m.notes.append(f"The checkpoint of epoch {epoch} is left out: {error}")
    return series


def _projected(latents: Floats, series: list[Floats]) -> tuple[list[Map], dict[str, list[Floats]]]:
    """Maps of the model shown, and of each epoch by each method."""
    pca = PCA(2, svd_solver="full").fit(latents)
    shares = pca.explained_variance_ratio_
    x, y = (f"PC {i + 1} ({shares[i]:.0%} of the variance)" for i in range(2))
    final = [Map("PCA", pca.transform(latents), x, y)]
    rows: dict[str, list[Floats]] = {"PCA": [pca.transform(part) for part in series]}
    if len(latents) < latent_map.FEWEST_POINTS:
        return final, rows
    # Often the model shown is the last of the series, and a t-SNE takes seconds
    same = bool(series) and np.array_equal(series[-1], latents)
    for name, method in (("t-SNE", latent_map.tsne), ("UMAP", latent_map.umap)):
        maps: list[Floats] = []
        for part in series if same else [*series, latents]:
            found = method(part, maps[-1] if maps else None)
            if found is None:
                break
            maps.append(found)
        else:
            rows[name] = maps[: len(series)]
            final.append(Map(name, maps[-1]))
    return final, rows


def _method_words(count: int, maps: int) -> str:
    if count < latent_map.FEWEST_POINTS:
        return f" {count} frames are too few for t-SNE and UMAP."
    words = " t-SNE keeps neighbours together; its distances between groups mean little."
    return words if maps == 3 else words + " UMAP joins where umap-learn is installed."


def _history(m: Material, epochs: list[int], rows: dict[str, list[Floats]]) -> str:
    """The maps of several epochs, one row a method; "" is the plane of a latent of two numbers itself."""
    axes = {"": ("z1", "z2"), "PCA": ("PC 1", "PC 2")}
    lines = []
    for method, maps in rows.items():
        x, y = axes.get(method, ("", ""))
        limits = latent_map.common_limits(maps) if x else None
        titles = [f"{method}, epoch {epoch}" if method else f"epoch {epoch}" for epoch in epochs]
        lines.append([Map(title, map_, x, y, limits) for title, map_ in zip(titles, maps, strict=True)])
    words = "The same frames after several epochs, on one scale."
    if "PCA" in rows:
        words = (
            "The same frames after several epochs. PCA has the axes of the model shown above, and one scale."
        )
    if "t-SNE" in rows:
        words += " Each t-SNE begins where that of the epoch before ended."
    return m.picture(
        "latent_space_epochs",
        lambda: latent_map.latent_maps(lines, m.held.groups, m.held.names),
        "Maps of latents at several epochs",
        words,
    )


def active(m: Material) -> Section:
    title = "Which latents are alive"
    if why := m.lacks():
        return empty("active", title, why)
    kl = kl_of_latents(m)
    if kl is None:
        return empty("active", title, "A plain autoencoder has no KL term that would switch latents off.")
    drawn = m.picture(
        "kl_per_latent",
        lambda: units.kl_per_latent(kl, m.latents.var(0)),
        "Bars of the KL term of each latent",
        "The KL term of each latent, mean over held-out frames. A latent is active where its posterior mean "
        f"varies by more than {ACTIVE_VARIANCE:g} over them (Burda et al. 2016).",
    )
    return Section("active", title, [drawn])
