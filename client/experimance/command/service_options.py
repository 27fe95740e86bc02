"""Where the service is: options of every command that asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from experimance.async_client import AsyncClient
from experimance.client import Client
from experimance.connection import DEFAULT_URL

_PANEL = "Service"


@dataclass
class Service:
    """Address, token and patience."""

    url: Annotated[
        str,
        typer.Option(envvar="MODEL_SERVER_URL", help="Where it is.", rich_help_panel=_PANEL),
    ] = DEFAULT_URL
    token: Annotated[
        str | None,
        typer.Option(
            envvar="API_TOKEN",
            show_envvar=True,
            help="The bearer token, where it asks for one.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long one call may take, further tries included.",
            rich_help_panel=_PANEL,
        ),
    ] = 120.0
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="How often a call is tried again that found no connection or a full queue.",
            rich_help_panel=_PANEL,
        ),
    ] = 3

    def client(self) -> Client:
        """A client for it."""
        return Client(self.url, token=self.token, timeout=self.timeout, retries=self.retries)

    def async_client(self) -> AsyncClient:
        """An asynchronous client for it."""
        return AsyncClient(self.url, token=self.token, timeout=self.timeout, retries=self.retries)
