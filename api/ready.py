"""What a supervisor may rely on: the line that says ready, the status that says do not retry."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

READY_LINE = "experimance-controlnet ready"
"""Printed to stdout exactly once in the life of a runner, when requests would start at once."""

CONFIGURATION_ERROR = os.EX_CONFIG
"""The exit status (78) of a start that would fail again until somebody changes a setting."""


def announce_ready() -> None:
    """Print the ready line, at once, whatever stdout is."""
    # A full disk does not make it less ready.
    with contextlib.suppress(OSError):
        # In one write, newline included, so that no other process's line gets into it.
        stream = getattr(sys.stdout, "unguarded", sys.stdout)
        stream.write(f"{READY_LINE}\n")
        stream.flush()


def refuse_start(reason: object) -> NoReturn:
    """End the process with `CONFIGURATION_ERROR` and one line on stderr.

    Raises:
        SystemExit: always.
    """
    print(f"cannot start: {reason}", file=sys.stderr, flush=True)
    raise SystemExit(CONFIGURATION_ERROR)
