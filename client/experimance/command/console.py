"""Where the command writes: results to stdout, everything for people to stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

people = Console(stderr=True, highlight=False)
"""Progress, previews, warnings and errors."""

tables = Console(highlight=False)
"""Tables that are what the command was asked for."""


def result(line: str) -> None:
    """One result on stdout, as it is."""
    print(line, flush=True)


def result_json(content: Any) -> None:
    """One JSON object on one line of stdout."""
    result(json.dumps(content, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))


def warn(message: str) -> None:
    """A warning for people."""
    people.print("warning:", message, style="yellow", markup=False, soft_wrap=True)


def is_screen() -> bool:
    """Whether a person looks at both streams."""
    return people.is_terminal and sys.stdout.isatty()
