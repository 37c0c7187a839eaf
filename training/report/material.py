"""What a report is made of: the run, a model of it, held-out frames, and the files drawn so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from edgevae.pictures import DepthScale, Image

from ..figures import images, style
from ..figures.loss import NATS
from ..models import VAE, one_hot
from ..runs import Run
from .frames import Floats, HeldOut
from .page import Section, absent, picture

SEED = 0
# Every file that a report may have beside its page: those that are not drawn again go away.
PICTURES = (
    "loss_curve",
    "reconstructions",
    "depth_errors",
    "point_cloud",
    "validation_by_epoch",
    "generated_samples",
    "latent_variations",
    "latent_plane",
    "latent_space_2d",
    "latent_space_epochs",
    "kl_per_latent",
    "interpolation",
    "interpolation_parents",
)
ANIMATIONS = ("interpolation.gif", "interpolation.mp4")
_TALL, _TALLER = 144, 220  # rows of pixels of a picture, and of one with depth below


@dataclass
class Material:
    """What there is to show of a run.

    Attributes:
        run: the run.
        images: how many frames of each set a picture shows.
        steps: of an interpolation.
        say: is told what is going on, a line at a time.
        unit: of the loss.
        notes: what the page says on top.
        best_epoch: of the best checkpoint.
        which: the checkpoint whose model is shown, for people.
        epochs: the kept checkpoints whose latents are mapped.
        no_net, no_data: why there is no model, no frame; empty if there is.
        net_or_none: the model, in eval mode.
        held_or_none: held-out frames.
        latents_or_none: their posterior means, (N, latent_dim).
        deviations: of the posteriors; None also without a posterior.
        files: every file of the report beside its page, by name.
    """

    run: Run
    images: int
    steps: int
    say: Callable[[str], None]
    unit: str = NATS
    notes: list[str] = field(default_factory=list)
    best_epoch: int | None = None
    which: str = ""
    epochs: list[int] = field(default_factory=list)
    no_net: str = ""
    no_data: str = ""
    net_or_none: VAE | None = None
    held_or_none: HeldOut | None = None
    latents_or_none: Floats | None = None
    deviations: Floats | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def net(self) -> VAE:
        assert self.net_or_none is not None
        return self.net_or_none

    @property
    def held(self) -> HeldOut:
        assert self.held_or_none is not None
        return self.held_or_none

    @property
    def latents(self) -> Floats:
        assert self.latents_or_none is not None
        return self.latents_or_none

    def lacks(self, *, data: bool = True) -> str:
        """Why nothing can be decoded (with ``data``: no frame encoded); empty if it can."""
        return self.no_net or (self.no_data if data else "")

    def picture(self, name: str, draw: Callable[[], Figure], alt: str, caption: str) -> str:
        """Draw a picture for both kinds of paper; the light one becomes the file ``name``.png."""
        assert name in PICTURES, name
        light, dark = (style.png(draw, theme) for theme in (style.LIGHT, style.DARK))
        self.files[f"{name}.png"] = light
        return picture(light, dark, alt, caption)

    @property
    def tile(self) -> int:
        """How many rows of pixels a decoded picture gets."""
        return _TALL if self.net.input.depth is None else _TALLER

    def scale(self, *decoded: Floats) -> DepthScale | None:
        """One scale for the depth of all of these, each (N, C, h, w); None without depth."""
        encoding = self.net.input.depth
        if encoding is None:
            return None
        return images.scale_of(encoding, *(images.metres(one, encoding) for part in decoded for one in part))

    def stacked(
        self, decoded: Floats, scale: DepthScale | None, valid: npt.NDArray[np.bool_] | None = None
    ) -> list[Image]:
        """Pictures of (N, C, h, w), each with its depth below, where ``valid`` (N, h, w) says it is one."""
        masks = [None] * len(decoded) if valid is None else list(valid)
        return [
            images.stacked(one, self.net.input, scale, mask) for one, mask in zip(decoded, masks, strict=True)
        ]

    @property
    def class_names(self) -> Sequence[str]:
        """Of a conditional model's classes."""
        if self.held_or_none is not None and self.held.by == "class":
            return self.held.names[: self.net.condition_dim]
        return [f"class {i}" for i in range(self.net.condition_dim)]

    def condition(self, label: int, count: int) -> Floats | None:
        """A class as condition of so many pictures; None for a model without."""
        if not self.net.condition_dim:
            return None
        condition: Floats = one_hot(torch.full((count,), label), self.net.condition_dim).numpy()
        return condition


def empty(anchor: str, title: str, why: str) -> Section:
    """A section that only says why nothing is in it."""
    return Section(anchor, title, [absent(why)], empty=True)


def depth_words(scale: DepthScale | None) -> str:
    """What the colours of depth mean, for a caption."""
    if scale is None:
        return ""
    if scale.relative:
        return " Depth from near (blue) to far (red), in parts of its range."
    return f" Depth from {scale.near:.2g} m (blue) to {scale.far:.2g} m (red)."
