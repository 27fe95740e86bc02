"""experimance models: what requests may name."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from experimance.command.console import result_json, tables
from experimance.command.failures import told
from experimance.command.grouped import grouped
from experimance.command.service_options import Service

_MB = 1e6
_NUMBERS = {"steps", "cfg", "pixels", "MB"}


@grouped
def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="The service's whole answer as JSON on stdout.")
    ] = False,
    *,
    service: Service,
) -> None:
    """List variants, eras, LoRAs and all else that requests may name."""
    with told(), service.client() as client:
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
    tables.print(table)
    tables.print(names)
    tables.print("* what is taken where a request names none", style="dim")
