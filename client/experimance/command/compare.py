"""experimance compare: a contact sheet over eras, variants, seeds or strengths."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experimance.client import Client
from experimance.command import naming
from experimance.command.axes import NOTHING, Axis, axis
from experimance.command.console import is_screen, people, result, result_json, warn
from experimance.command.contact_sheet import contact_sheet
from experimance.command.failures import told
from experimance.command.grouped import grouped
from experimance.command.painting_options import Painting
from experimance.command.pictures_in import depth_files, depth_or_mock
from experimance.command.prompts import prompt_for
from experimance.command.service_options import Service
from experimance.command.terminal_picture import TerminalPicture, protocol_of

_AXIS = "FIELD=VALUE,…"


@grouped
def compare(
    depth: Annotated[Path | None, typer.Argument(help="A depth map.", show_default=False)] = None,
    mock_depth: Annotated[
        bool, typer.Option("--mock-depth", help="A hill instead of a depth map.")
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns", "-c", metavar=_AXIS,
            help="era, model, seed, strength, controlnet_strength, lora_strength, steps or cfg; "
            "era and model alone mean all.",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", "-r", metavar=_AXIS, help="The same, downwards.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The sheet: .png, .jpg or .webp.")
    ] = Path("sheet.png"),
    cell: Annotated[
        int, typer.Option(min=16, metavar="PIXELS", help="A picture's longer side on the sheet.")
    ] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on stdout.")] = False,
    preview: Annotated[bool, typer.Option(help="Show the sheet in the terminal.")] = True,
    *,
    painting: Painting,
    service: Service,
) -> None:  # fmt: skip
    """Paint a contact sheet over eras, variants, seeds or strengths.

    One of them across, another one down; all else stays the same, the seed too.
    """
    if naming.format_of(output.name) is None:
        raise typer.BadParameter(f"{output} ends neither as .png, .jpg nor .webp")
    with told(), service.client() as client:
        [source] = depth_or_mock(
            depth_files([] if depth is None else [depth])[:1], mock_depth, painting.photo
        )
        across = axis(columns, "--columns", client.models)
        down = axis(rows, "--rows", client.models)
        _check(across, down)
        naming.refuse_taken([output], overwrite)
        fields = {
            "depth": source,
            "image": painting.photo,
            "seed": random.randrange(2**32),
            **painting.fields(),
            "output_format": "png",
        }
        prompts = _prompts(client, painting, across, down)
        cells = _painted(client, fields, prompts, across, down)
        title = painting.prompt or (next(iter(prompts.values())) if len(prompts) == 1 else "")
        sheet = contact_sheet(cells, down.labels(), across.labels(), title, cell)
        output.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(output)
    protocol = protocol_of(people) if preview and is_screen() else None
    if protocol is not None:
        people.print(TerminalPicture(sheet, protocol))
    if as_json:
        size = {"width": sheet.width, "height": sheet.height}
        asked = {"rows": {down.field: down.values}, "columns": {across.field: across.values}}
        result_json({"file": str(output), **size, **asked, "seed": fields["seed"]})
    else:
        result(str(output))


def _check(across: Axis, down: Axis) -> None:
    if across is NOTHING and down is NOTHING:
        raise typer.BadParameter("give one, or both of --columns and --rows")
    if across.field == down.field:
        raise typer.BadParameter(f"{across.field} cannot go both ways", param_hint="--rows")


def _prompts(client: Client, painting: Painting, across: Axis, down: Axis) -> dict[str | None, str]:
    """The prompt for each era on the sheet; one for all where it is given."""
    for each in (across, down):
        if each.field == "era":
            return {era: prompt_for(client, painting.prompt, era) for era in each.values}
    return {painting.era: prompt_for(client, painting.prompt, painting.era)}


def _painted(
    client: Client,
    fields: dict[str, Any],
    prompts: dict[str | None, str],
    across: Axis,
    down: Axis,
) -> list[list[Image.Image]]:
    """The pictures, row by row."""
    warned: set[str] = set()
    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), console=people, transient=True, disable=not people.is_terminal,
    )  # fmt: skip
    cells: list[list[Image.Image]] = []
    with progress:
        task = progress.add_task("painting", total=len(down.values) * len(across.values))
        for below in down.values:
            cells.append([])
            for beside in across.values:
                varied = {down.field: below, across.field: beside}
                given = {**fields, **{name: value for name, value in varied.items() if name}}
                prompt = prompts[given.get("era")]
                picture = client.generate(prompt, **given)
                cells[-1].append(picture.image)
                progress.advance(task)
                for warning in picture.warnings:
                    if warning not in warned:
                        warned.add(warning)
                        warn(warning)
    return cells
