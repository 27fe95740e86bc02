"""Output streams: results on stdout, messages on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters except tab and line feed, and bidirectional formatting characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replace control characters by U+FFFD.

    Text from servers and image files is untrusted: an escape sequence could rewrite the screen,
    the title or the clipboard.
    """
    return _CONTROL.sub("\ufffd", text)


class SafeConsole(Console):
    """A console that replaces control characters in all text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does, with its own control sequences unchanged."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


err_console = SafeConsole(stderr=True, highlight=False, markup=False, emoji=False)
"""Progress, previews, warnings and errors."""

out_console = SafeConsole(highlight=False, markup=False, emoji=False)
"""Tables that are the result of a command."""


def result(line: str) -> None:
    """Print one result on stdout; on a terminal, with control characters replaced."""
    print(printable(line) if sys.stdout.isatty() else line, flush=True)


def result_json(content: Any) -> None:
    """Print one JSON object as one line on stdout."""
    result(json.dumps(content, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))


def warn(message: str) -> None:
    """Print a warning on stderr."""
    err_console.print("warning:", message, style="yellow", markup=False, soft_wrap=True)


def is_interactive() -> bool:
    """Return whether stdout and stderr are both terminals."""
    return err_console.is_terminal and sys.stdout.isatty()
