"""How the run went: its loss, and pictures of the same frames as it went on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edgevae.errors import EdgevaeError
from edgevae.pictures import Image

from ..figures import loss
from ..figures.epochs import by_epoch
from ..figures.grid import grid
from .frames import spread
from .material import Material, empty
from .page import Section

_EPOCHS, _SETS = 6, 3


def losses(m: Material) -> Section:
    title = "Loss, term by term"
    m.say("loss curves")
    try:
        metrics = m.run.metrics()
    except EdgevaeError as error:
        return empty("loss", title, f"There is no curve: {error}")
    if not loss.drawable(metrics):
        return empty("loss", title, "The run has logged no loss, so there is no curve.")
    words = "Every term over the epochs, for training and for held-out frames."
    if m.best_epoch is not None:
        words += f" The dashed line is the best checkpoint, after {m.best_epoch} epochs."
    curves = m.picture(
        "loss_curve",
        lambda: loss.loss_curve(metrics, m.best_epoch, m.unit),
        "Curves of each term of the loss over the epochs",
        words,
    )
    return Section("loss", title, [curves])


def epochs(m: Material) -> Section:
    title = "Validation pictures by epoch"
    found: dict[str, dict[int, Path]] = {}
    for path in sorted((m.run.folder / "pictures").glob("*-epoch-*.png")):
        name, _, number = path.stem.rpartition("-epoch-")
        if number.isdigit():
            found.setdefault(name, {})[int(number)] = path
    if not found:
        why = "The run kept no pictures of held-out frames; run.pictures_every in its config asks for them."
        return empty("epochs", title, why)
    if why := m.lacks(data=False):
        return empty("epochs", title, why)
    m.say("validation pictures")
    blocks = []
    for name, paths in list(found.items())[:_SETS]:
        numbers = [sorted(paths)[i] for i in spread(len(paths), _EPOCHS)]
        pictures = {number: _read(paths[number]) for number in numbers}
        whole = {number: picture for number, picture in pictures.items() if picture is not None}
        block = by_epoch(whole, m.net.input, name, m.images) if whole else None
        if block is not None:
            blocks.append(block)
    if not blocks:
        return empty("epochs", title, "The pictures of the run are damaged, or of another model.")
    words = "The same held-out frames as the run went on, drawn while it trained."
    if len(found) > len(blocks):
        words += f" Sets: {len(blocks)} of {len(found)}."
    drawn = m.picture(
        "validation_by_epoch", lambda: grid(blocks), "Originals, and their reconstructions by epoch", words
    )
    return Section("epochs", title, [drawn])


def _read(path: Path) -> Image | None:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if picture is None else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
