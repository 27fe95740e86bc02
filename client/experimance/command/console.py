"""Where the command writes: results to stdout, everything for people to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters but tab and line feed, and those that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replace what a terminal would obey, and not show, by U+FFFD.

    Servers and pictures say what they like; an escape sequence of theirs could rewrite the screen,
    the title or the clipboard.
    """
    return _CONTROL.sub("\ufffd", text)


class SafeConsole(Console):
    """A console that shows text as text: control characters are replaced wherever it comes from."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does; its own control sequences stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


people = SafeConsole(stderr=True, highlight=False, markup=False, emoji=False)
"""Progress, previews, warnings and errors."""

tables = SafeConsole(highlight=False, markup=False, emoji=False)
"""Tables that are what the command was asked for."""


def result(line: str) -> None:
    """One result on stdout: as it is, or where a terminal shows it, what can be shown of it."""
    print(printable(line) if sys.stdout.isatty() else line, flush=True)


def result_json(content: Any) -> None:
    """One JSON object on one line of stdout."""
    result(json.dumps(content, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))


def warn(message: str) -> None:
    """A warning for people."""
    people.print("warning:", message, style="yellow", markup=False, soft_wrap=True)


def is_screen() -> bool:
    """Whether a person looks at both streams."""
    return people.is_terminal and sys.stdout.isatty()
