"""`experimance models`: the service's catalog."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from experimance.cli.console import out_console, result_json
from experimance.cli.errors import handle_errors
from experimance.cli.options import Service, expand_option_groups

_MB = 1e6
_NUMBERS = {"steps", "cfg", "pixels", "MB"}


@expand_option_groups
def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the service's complete response as JSON.")
    ] = False,
    *,
    service: Service,
) -> None:
    """List variants, eras, LoRAs and all other names that requests accept."""
    with handle_errors(), service.client() as client:
        info = client.models()
    if as_json:
        result_json(info.answer)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("variant", "steps", "cfg", "pixels", "MB", "in memory", "licence"):
        table.add_column(column, justify="right" if column in _NUMBERS else "left")
    names = Table(show_header=False, box=None, pad_edge=False)
    names.add_column(style="bold")
    names.add_column()
    for name, each in info.details.items():
        table.add_row(
            f"{name} *" if name == info.default_model else name,
            str(each.steps),
            f"{each.cfg:g}",
            str(each.native_size),
            f"{each.size_bytes / _MB:.0f}",
            "yes" if each.resident else "no",
            each.licence,
        )
        names.add_row(name, each.description)
    for label, values, default in (
        ("ControlNets", info.controlnets, info.default_controlnet),
        ("LoRAs", info.loras, None),
        ("Eras", info.eras, None),
        ("Schedulers", info.schedulers, None),
        ("Depth estimators", info.depth_estimators, info.default_depth_estimator),
    ):
        marked = (f"{name} *" if name == default else name for name in values)
        names.add_row(label, ", ".join(marked) or "none")
    out_console.print(table)
    out_console.print(names)
    out_console.print("* default", style="dim")
