"""Contract with supervisors: the ready line, and the exit status for invalid configuration."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

READY_LINE = "experimance-controlnet ready"
"""Line on stdout, printed once per runner process when requests can start immediately."""

CONFIGURATION_ERROR = os.EX_CONFIG
"""Exit status (78) of a start that fails until a setting changes."""


def print_ready_line() -> None:
    """Print the ready line to stdout and flush it."""
    # The runner is ready even if the write fails, for example on a full disk.
    with contextlib.suppress(OSError):
        # A single write, newline included, cannot interleave with lines of other processes.
        stream = getattr(sys.stdout, "unguarded", sys.stdout)
        stream.write(f"{READY_LINE}\n")
        stream.flush()


def exit_with_config_error(reason: object) -> NoReturn:
    """End the process with `CONFIGURATION_ERROR` and one line on stderr.

    Raises:
        SystemExit: always.
    """
    print(f"cannot start: {reason}", file=sys.stderr, flush=True)
    raise SystemExit(CONFIGURATION_ERROR)
