"""``python -m training report RUN``: pictures of a run, and one page that shows them all.

``material`` is what there is to show, ``facts`` the top of the page, ``curves``, ``pairs``, ``decoded``,
``maps`` and ``ways`` are its sections, ``page`` its HTML. The figures themselves are in ``training.figures``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml

import edgevae
from edgevae.errors import EdgevaeError
from edgevae.files import ready_folder, refuse_existing, write_whole

from ..runs import METRICS, Run, RunError, open_run
from . import curves, decoded, facts, maps, pairs, ways
from .frames import HeldOut, spread
from .material import ANIMATIONS, PICTURES, Material
from .page import Section, folded, page

PAGE = "report.html"
_FRAMES = 1000  # held-out frames whose latents are looked at: a t-SNE of them takes some 8 s of one core
_EPOCHS = 4  # whose latents are mapped

SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    curves.losses,
    pairs.reconstructions,
    pairs.depths,
    curves.epochs,
    decoded.samples,
    decoded.traversals,
    maps.latent_space,
    decoded.plane,
    ways.interpolations,
    maps.active,
)


def parser() -> argparse.ArgumentParser:
    """The arguments of ``python -m training report``."""
    made = argparse.ArgumentParser(
        prog="python -m training report",
        description="Write pictures of a run as PNG, GIF and MP4, and one self-contained page, report.html.",
    )
    made.add_argument("run", type=Path, help="the folder of a run, such as runs/default")
    made.add_argument("-o", "--output", type=Path, help="where to write; RUN/report by default")
    made.add_argument("--overwrite", action="store_true", help="replace a report that is in --output")
    made.add_argument(
        "--checkpoint",
        default="best",
        help="the model that is shown: best, last, or the number of a kept epoch (default: %(default)s)",
    )
    made.add_argument(
        "--images",
        type=int,
        default=8,
        help="held-out frames of each set in a picture (default: %(default)s)",
    )
    made.add_argument("--steps", type=int, default=16, help="of an interpolation (default: %(default)s)")
    made.add_argument(
        "--epochs",
        type=int,
        nargs="+",
        metavar="N",
        help=f"kept epochs whose latents are mapped (default: {_EPOCHS}, spread over the run)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report as the command line says, and give the exit code.

    Raises:
        EdgevaeError: the user can mend it.
    """
    given = parser().parse_args(arguments)
    path = write(
        given.run,
        given.output,
        overwrite=given.overwrite,
        which=int(given.checkpoint) if given.checkpoint.isdecimal() else given.checkpoint,
        images=given.images,
        steps=given.steps,
        epochs=given.epochs,
        say=lambda words: print(f"report: {words}", file=sys.stderr),
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), and its pictures beside it")
    return 0


def write(
    run_folder: str | Path,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    which: str | int = "best",
    images: int = 8,
    steps: int = 16,
    epochs: Sequence[int] | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Path:
    """Write the report of a run, and give the path of its page.

    What there is no data or no checkpoint for is left out, and the page says so. Files appear when all of
    them are made, each whole, the page last; pictures of an earlier report that are not made again go away.

    Args:
        run_folder: of the run.
        output: the folder to write to; ``report`` in the run's by default, where a new report replaces the
            earlier one.
        overwrite: replace files of these names in ``output``, too.
        which: the checkpoint that is shown: "best" (the last, where there is none), "last", or a kept epoch.
        images: held-out frames of each set in a picture.
        steps: of an interpolation, at least 2.
        epochs: kept epochs whose latents are mapped; None for some, spread over the run.
        say: is told what is going on, a line at a time.

    Raises:
        EdgevaeError: there is no run, nothing to report of it, or the report cannot be written.
    """
    if images < 1 or steps < 2:
        raise RunError(f"got --images {images} --steps {steps}, wanted at least 1 image and 2 steps.")
    run = open_run(run_folder)
    m = Material(run, images, steps, say, unit=facts.loss_unit(run.config))
    m.epochs = _chosen_epochs(run, epochs)
    folder = Path(output) if output is not None else run.folder / "report"
    names = [*(f"{name}.png" for name in PICTURES), *ANIMATIONS, PAGE]
    for name in names:
        refuse_existing(folder / name, overwrite=overwrite or output is None)
    ready_folder(folder)
    _find_net(m, which)
    if m.net_or_none is None and not (run.folder / METRICS).is_file():
        raise RunError(f"{run.folder} has neither {METRICS} nor a checkpoint; let its first epoch end.")
    if m.net_or_none is not None:
        _find_latents(m)
    sections = [section for make in SECTIONS if (section := make(m)) is not None]
    content = _page(m, sections).encode()
    for name, picture in m.files.items():
        write_whole(folder / name, picture)
    for name in set(names) - set(m.files) - {PAGE}:
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / PAGE, content)
    return folder / PAGE


def _chosen_epochs(run: Run, wanted: Sequence[int] | None) -> list[int]:
    kept = list(run.epochs())
    if wanted is None:
        return [kept[i] for i in spread(len(kept), _EPOCHS)]
    if unknown := sorted(set(wanted) - set(kept)):
        here = f"those of {', '.join(map(str, kept))}" if kept else "none"
        raise RunError(f"{run.folder} kept no checkpoint of epoch {unknown[0]}, it kept {here}.")
    return sorted(set(wanted))


def _find_net(m: Material, which: str | int) -> None:
    """Fill in the model that is shown, or why there is none."""
    m.best_epoch = facts.epochs_behind(m.run, "best")
    if which != "best":
        m.net_or_none, m.which = m.run.net(which), f"epoch {which}" if isinstance(which, int) else which
        return
    for name in ("best", "last"):
        try:
            m.net_or_none, m.which = m.run.net(name), name
            return
        except EdgevaeError as error:
            m.notes.append(str(error))
    m.no_net = "There is no model to show; the note on top says why."


def _find_latents(m: Material) -> None:
    """Fill in held-out frames and their latents, or why there are none."""
    m.say("latents of held-out frames")
    try:
        held = HeldOut(m.run.datamodule(m.net), _FRAMES)
        latents, deviations = held.encode(m.net)
    except EdgevaeError as error:
        m.no_data = "The held-out frames cannot be read; the note on top says why."
        m.notes.append(f"Held-out frames cannot be read: {error}")
        return
    if not all(np.isfinite(part).all() for part in (latents, deviations) if part is not None):
        m.no_data = "The latents of this model are not finite; its training has diverged."
        m.notes.append(m.no_data)
        return
    m.held_or_none, m.latents_or_none, m.deviations = held, latents, deviations


def _page(m: Material, sections: list[Section]) -> str:
    m.say("page")
    config = yaml.safe_dump(m.run.config, sort_keys=False, allow_unicode=True)
    end = Section("config", "Configuration", [folded("Everything that was set", config)])
    foot = f"Written by edgevae {edgevae.__version__}. Its pictures lie beside this page as files."
    return page(m.run.name, facts.lead(m), facts.top(m), m.notes, [*sections, end], foot)
