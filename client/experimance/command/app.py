"""The command's parts put together."""

from __future__ import annotations

from typing import Annotated

import typer

from experimance.command.compare import compare
from experimance.command.console import result
from experimance.command.estimate import estimate
from experimance.command.generate import generate
from experimance.command.health import health
from experimance.command.loading import preload, unload
from experimance.command.models import models
from experimance.command.redo import redo
from experimance.command.show import show
from experimance.command.watch import watch
from experimance.load.command import load
from experimance.version import __version__

app = typer.Typer(
    name="experimance",
    help="Aerial pictures from depth maps, painted by an experimance-controlnet service.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_MAKING, _LOOKING, _RUNNING = "Paint", "Look into pictures", "Run the service"

for command, panel in (
    (generate, _MAKING),
    (watch, _MAKING),
    (compare, _MAKING),
    (estimate, _MAKING),
    (redo, _LOOKING),
    (show, _LOOKING),
    (models, _RUNNING),
    (health, _RUNNING),
    (preload, _RUNNING),
    (unload, _RUNNING),
    (load, _RUNNING),
):
    app.command(rich_help_panel=panel)(command)


def _tell_version(wanted: bool) -> None:
    if wanted:
        result(f"experimance {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Aerial pictures from depth maps, painted by an experimance-controlnet service."""


def main() -> None:
    """Run the command; ends the process."""
    app(prog_name="experimance")
