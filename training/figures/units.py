"""Which latents carry something: the KL term, latent by latent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from ..metrics import ACTIVE_VARIANCE
from .style import colours, new_figure

_EACH = 60  # so many bars have their number below


def kl_per_latent(kl: npt.ArrayLike, variance: npt.ArrayLike) -> Figure:
    """Bars of the KL term of each latent, the largest first, coloured by whether the latent is active.

    A latent is active if its posterior mean varies by more than 0.01 over the data (Burda, Grosse,
    Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, section 5.2).

    Args:
        kl: (D,) nats, mean over frames.
        variance: (D,) of the posterior mean over frames.
    """
    kl, variance = np.asarray(kl, np.float64), np.asarray(variance, np.float64)
    order = np.argsort(-kl, kind="stable")
    active = variance[order] > ACTIVE_VARIANCE
    on, off = colours()[0], colours()[1]
    figure = new_figure(10, 3.6)
    axes = figure.subplots()
    places = np.arange(len(kl))
    for which, colour, name in ((active, on, "active"), (~active, off, "not active")):
        axes.bar(
            places[which],
            kl[order][which],
            width=1.0 if len(kl) > _EACH else 0.8,
            color=colour,
            label=f"{int(which.sum())} {name}",
        )
    axes.set_xlim(-0.7, len(kl) - 0.3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("KL, nats per image")
    axes.set_title(f"{int(active.sum())} of {len(kl)} latents are active; {kl.sum():.1f} nats in all")
    if len(kl) <= _EACH:
        axes.set_xticks(places, [str(number) for number in order], fontsize=8 if len(kl) <= 40 else 6)
        axes.set_xlabel("number of the latent")
    else:
        axes.set_xlabel("latents by rank")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")
    return figure
