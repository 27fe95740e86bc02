"""experimance preload, experimance unload: what is in memory before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from experimance.client import Client
from experimance.command import completion
from experimance.command.console import people
from experimance.command.failures import told
from experimance.command.grouped import grouped
from experimance.command.service_options import Service
from experimance.states import Loaded

Model = Annotated[
    str | None,
    typer.Argument(help="A variant.", show_default=False, autocompletion=completion.models),
]
ControlNet = Annotated[
    str | None,
    typer.Option("--controlnet", help="A ControlNet.", autocompletion=completion.controlnets),
]


@grouped
def preload(model: Model = None, controlnet: ControlNet = None, *, service: Service) -> None:
    """Load a variant before it is needed; the service's default one if none is named."""
    _tell(service, lambda client: client.preload(model, controlnet))


@grouped
def unload(model: Model = None, controlnet: ControlNet = None, *, service: Service) -> None:
    """Forget a variant or a ControlNet; requests that use it finish first."""
    if model is None and controlnet is None:
        raise typer.BadParameter("name a variant, or a ControlNet with --controlnet")
    _tell(service, lambda client: client.unload(model, controlnet))


def _tell(service: Service, ask: Callable[[Client], Loaded]) -> None:
    with told(), service.client() as client:
        outcome = ask(client)
    there = ", ".join((*outcome.models, *outcome.controlnets)) or "nothing"
    people.print(f"{outcome.message} in {outcome.seconds:.2f} s; in memory: {there}", markup=False)
