"""experimance health: how the service is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from experimance.command.console import result_json, tables
from experimance.command.failures import FAILED, told
from experimance.command.grouped import grouped
from experimance.command.service_options import Service


@grouped
def health(
    as_json: Annotated[
        bool, typer.Option("--json", help="The service's whole answer as JSON on stdout.")
    ] = False,
    *,
    service: Service,
) -> None:
    """Tell how the service is; exit status 0 if it would paint now, 1 if not."""
    with told(), service.client() as client:
        now = client.health()
    if as_json:
        result_json(now.answer)
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column()
        table.add_row("Status", Text(now.status, "green" if now.ready else "red"))
        if now.startup_error:
            table.add_row("Problem", now.startup_error)
        table.add_row("Device", now.device)
        table.add_row("In memory", ", ".join(now.models_loaded) or "nothing")
        queue = f"{now.running} running, {now.waiting} waiting"
        table.add_row("Queue", f"{queue}, {now.estimated_seconds:.1f} s in all")
        table.add_row("Up for", f"{now.uptime:.0f} s")
        tables.print(table)
    if not now.ready:
        raise typer.Exit(FAILED)
