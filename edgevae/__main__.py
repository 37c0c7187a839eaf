"""What ``edgevae`` and ``python -m edgevae`` run. Signals are looked after before all else."""

from __future__ import annotations

import contextlib
import io
import os
import sys

from .ending import Ended, ending_on_signals


def main() -> int:
    """Run the command that the process was started with, and return its exit code."""
    _open_closed_streams()
    try:
        with ending_on_signals():
            from .cli import main as run

            return run()
    except Ended as ended:
        with contextlib.suppress(OSError):  # nobody reads it any more
            print("edgevae:", ended, file=sys.stderr, flush=True)
        return ended.exit_code


def _open_closed_streams() -> None:
    """Have standard input, output and error lead nowhere where they are closed.

    Otherwise the next file that is opened would be one of them, and a record would take what libraries print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be of any bytes


if __name__ == "__main__":
    sys.exit(main())
