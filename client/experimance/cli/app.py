"""Typer application with all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from experimance.cli.commands.compare import compare
from experimance.cli.commands.estimate import estimate
from experimance.cli.commands.generate import generate
from experimance.cli.commands.health import health
from experimance.cli.commands.models import models
from experimance.cli.commands.preload import preload, unload
from experimance.cli.commands.redo import redo
from experimance.cli.commands.show import show
from experimance.cli.commands.watch import watch
from experimance.cli.console import result
from experimance.load.cli import load
from experimance.version import __version__

app = typer.Typer(
    name="experimance",
    help="Generate aerial images from depth maps with an experimance-controlnet service.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_GENERATE, _INSPECT, _OPERATE = "Generate", "Inspect images", "Operate the service"

for command, panel in (
    (generate, _GENERATE),
    (watch, _GENERATE),
    (compare, _GENERATE),
    (estimate, _GENERATE),
    (redo, _INSPECT),
    (show, _INSPECT),
    (models, _OPERATE),
    (health, _OPERATE),
    (preload, _OPERATE),
    (unload, _OPERATE),
    (load, _OPERATE),
):
    app.command(rich_help_panel=panel)(command)


def _print_version(requested: bool) -> None:
    if requested:
        result(f"experimance {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Generate aerial images from depth maps with an experimance-controlnet service."""


def main() -> None:
    """Run the command line and end the process."""
    app(prog_name="experimance")
