"""`experimance health`: state of the service."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from experimance.cli.console import out_console, result_json
from experimance.cli.errors import FAILED, handle_errors
from experimance.cli.options import Service, expand_option_groups


@expand_option_groups
def health(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the service's complete response as JSON.")
    ] = False,
    *,
    service: Service,
) -> None:
    """Print the state of the service; exit status 0 if it is ready, 1 if not."""
    with handle_errors(), service.client() as client:
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
        for what, reason in now.load_errors.items():
            table.add_row("Not loaded", f"{what}: {reason}")
        table.add_row("Device", now.device)
        table.add_row("In memory", ", ".join(now.models_loaded) or "nothing")
        queue = f"{now.running} running, {now.waiting} waiting"
        table.add_row("Queue", f"{queue}, {now.estimated_seconds:.1f} s of work")
        table.add_row("Up for", f"{now.uptime:.0f} s")
        out_console.print(table)
    if not now.ready:
        raise typer.Exit(FAILED)
