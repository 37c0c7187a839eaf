"""The command line. Each command checks its arguments, calls one function of the package, prints a result.

A user's mistake ends in one line on standard error and exit code 2; a fault of edgevae's own in exit code 1.
Heavy imports happen inside the commands, so that ``edgevae --help`` is quick.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from ..ending import check_ended
from ..errors import EdgevaeError
from . import archives, machine, models, records, run
from .common import complain, with_value

__all__ = ["main"]

app = typer.Typer(
    help="RGB-D camera frames to compact latents and back, without PyTorch.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> int:
    """Run ``edgevae ARGUMENTS`` and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("edgevae").handlers = [_Warnings()]
    debug = "--debug" in arguments  # accepted anywhere on the line, as it is added after something failed
    arguments = [argument for argument in arguments if argument != "--debug"]
    arguments = with_value(arguments or ["--help"], "--view", "window")
    try:
        return int(app(args=arguments, prog_name="edgevae", standalone_mode=False) or 0)
    except typer.Abort:
        return _fail("interrupted.", 130)
    except _NobodyReads:
        _print_nowhere()
        return 0
    except Exception as error:
        check_ended()  # an import that is broken off, for one, may fail with any error
        if debug:
            raise
        if isinstance(error, EdgevaeError):
            return _fail(str(error), 2)
        if isinstance(error, OSError) and _output_fails():
            return _fail(f"cannot write standard output: {error.strerror or error}.", 2)
        if hasattr(error, "format_message"):  # a usage error of typer, wherever its classes live
            command = getattr(getattr(error, "ctx", None), "command_path", "edgevae")
            return _fail(f"{error.format_message().rstrip('.')}{_got(error)}. Run '{command} --help'.", 2)
        return _fail(f"{type(error).__name__}: {error}; --debug shows where.", 1)


class _NobodyReads(Exception):
    """Standard output was closed by who read it, as ``| head`` does."""


def _past_typer(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, with what typer would end in silence: Ctrl-C with code 130, a closed pipe with code 1."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        check_ended()
        try:
            command(*arguments, **options)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Abort from None
        except BrokenPipeError:
            raise _NobodyReads from None
        except SystemExit as error:  # rich turns it into exit code 1
            raise _NobodyReads if isinstance(error.__context__, BrokenPipeError) else error from None

    return run


def _output_fails() -> bool:
    """Whether standard output takes nothing, as on a full disk; tries it with a line's end."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        _print_nowhere()
        return True
    return False


def _print_nowhere() -> None:
    """Turn standard output away: Python flushes it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Warnings(logging.Handler):
    """Prints what the package has to say beside its errors, each sentence once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        sentence = record.getMessage()
        if sentence not in self._said:
            self._said.add(sentence)
            complain(f"warning: {sentence}.")


def _fail(sentence: str, code: int) -> int:
    complain(sentence)
    return code


def _got(error: Exception) -> str:
    """The value of an option that typer refused, where typer says only what it wanted."""
    details: list[dict[str, object]] = getattr(
        error.__cause__ or error.__context__, "errors", list
    )()  # pydantic's, which typer uses
    return "".join(f", got '{detail['input']}'" for detail in details[:1])


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"edgevae {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")
    ] = False,
) -> None:
    """RGB-D camera frames to compact latents and back, without PyTorch."""


for command in (  # in the order of --help
    run.stream,
    archives.embed,
    records.decode,
    records.reconstruct,
    records.repair,
    records.interpolate,
    records.similar,
    records.novelty,
    records.keyframes,
    models.info,
    models.export,
    models.quantize,
    machine.cameras,
    machine.bench,
    machine.doctor,
):
    app.command()(_past_typer(command))
