"""`experimance preload` and `experimance unload`: weights in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from experimance.cli import completion
from experimance.cli.console import err_console
from experimance.cli.errors import handle_errors
from experimance.cli.options import Service, expand_option_groups
from experimance.client import Client
from experimance.status import Loaded

Model = Annotated[
    str | None,
    typer.Argument(help="Variant.", show_default=False, autocompletion=completion.models),
]
ControlNet = Annotated[
    str | None,
    typer.Option("--controlnet", help="ControlNet.", autocompletion=completion.controlnets),
]


@expand_option_groups
def preload(model: Model = None, controlnet: ControlNet = None, *, service: Service) -> None:
    """Load a variant ahead of its first request; without a name, the service's default variant."""
    _print_loaded(service, lambda client: client.preload(model, controlnet))


@expand_option_groups
def unload(model: Model = None, controlnet: ControlNet = None, *, service: Service) -> None:
    """Unload a variant or a ControlNet; requests that use it finish first."""
    if model is None and controlnet is None:
        raise typer.BadParameter("name a variant, or a ControlNet with --controlnet")
    _print_loaded(service, lambda client: client.unload(model, controlnet))


def _print_loaded(service: Service, ask: Callable[[Client], Loaded]) -> None:
    with handle_errors(), service.client() as client:
        outcome = ask(client)
    in_memory = ", ".join((*outcome.models, *outcome.controlnets)) or "nothing"
    err_console.print(
        f"{outcome.message} in {outcome.seconds:.2f} s; in memory: {in_memory}", markup=False
    )
