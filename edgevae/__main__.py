"""What ``edgevae`` and ``python -m edgevae`` run. Signals are looked after before all else."""

from __future__ import annotations

import contextlib
import sys

from .ending import Ended, ending_on_signals


def main() -> int:
    """Run the command that the process was started with, and return its exit code."""
    try:
        with ending_on_signals():
            from .cli import main as run

            return run()
    except Ended as ended:
        with contextlib.suppress(OSError):  # nobody reads it any more
            print("edgevae:", ended, file=sys.stderr, flush=True)
        return ended.exit_code


if __name__ == "__main__":
    sys.exit(main())
