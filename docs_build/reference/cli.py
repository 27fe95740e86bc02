"""Generator of the command line reference, from the typer application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from docs_build.markdown import code, page, table

_INTRODUCTION = """\
`make setup` puts `experimance` into `.venv/bin`; elsewhere it comes with `pip install ./client`.
[Client and command line](../client.md) shows it at work."""


def commands_page(app: typer.Typer) -> str:
    """Return the page.

    Args:
        app: the application; each subcommand becomes a section.
    """
    command: Any = get_command(app)
    context = command.make_context("experimance", [], resilient_parsing=True)
    return page("Command line", _INTRODUCTION, *_sections(command, context, "experimance"))


def _sections(command: Any, context: Any, name: str) -> Iterator[str]:
    if not command.hidden:
        yield f"## {name}"
        yield _dedent(command.help or "")
        yield f"```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```"
        records = (parameter.get_help_record(context) for parameter in command.params)
        rows = [[code(left), right] for left, right in filter(None, records)]
        yield table(["name", "meaning"], rows)
    for child_name, child in getattr(command, "commands", {}).items():
        yield from _sections(child, context, f"{name} {child_name}")


def _dedent(text: str) -> str:
    return "\n".join(line.strip() for line in text.replace("\f", "").strip().splitlines())
