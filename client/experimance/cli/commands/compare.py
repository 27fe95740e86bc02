"""`experimance compare`: contact sheets over eras, variants, seeds or strengths."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experimance.cli import output_paths as naming
from experimance.cli.console import err_console, is_interactive, result, result_json, warn
from experimance.cli.contact_sheet import NO_AXIS, Axis, axis, contact_sheet
from experimance.cli.errors import handle_errors
from experimance.cli.inputs import depth_files, prompt_for, resolve_depth_inputs
from experimance.cli.options import GenerationOptions, Service, expand_option_groups
from experimance.cli.terminal_image import TerminalPicture, detect_protocol
from experimance.client import Client

_AXIS = "FIELD=VALUE,…"


@expand_option_groups
def compare(
    depth: Annotated[Path | None, typer.Argument(help="Depth map.", show_default=False)] = None,
    mock_depth: Annotated[
        bool, typer.Option("--mock-depth", help="Use the built-in hill as depth map.")
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns", "-c", metavar=_AXIS,
            help="era, model, seed, strength, controlnet_strength, lora_strength, steps or cfg; "
            "era or model alone means all values.",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", "-r", metavar=_AXIS, help="Like --columns, for rows.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Contact sheet file: .png, .jpg or .webp.")
    ] = Path("sheet.png"),
    cell: Annotated[
        int, typer.Option(min=16, metavar="PIXELS", help="Longer side of each image on the sheet.")
    ] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object on stdout.")] = False,
    preview: Annotated[bool, typer.Option(help="Show the sheet in the terminal.")] = True,
    *,
    generation: GenerationOptions,
    service: Service,
) -> None:  # fmt: skip
    """Generate a contact sheet over eras, variants, seeds or strengths.

    One field varies across the columns, another one down the rows. All other fields, the seed
    included, stay the same.
    """
    if naming.image_format(output.name) is None:
        raise typer.BadParameter(f"{output} does not end in .png, .jpg or .webp")
    with handle_errors(), service.client() as client:
        [source] = resolve_depth_inputs(
            depth_files([] if depth is None else [depth])[:1], mock_depth, generation.photo
        )
        across = axis(columns, "--columns", client.models)
        down = axis(rows, "--rows", client.models)
        _check_axes(across, down)
        naming.reject_existing([output], overwrite)
        fields = {
            "depth": source,
            "image": generation.photo,
            "seed": random.randrange(2**32),
            **generation.fields(),
            "output_format": "png",
        }
        prompts = _prompts(client, generation, across, down)
        cells = _generate_cells(client, fields, prompts, across, down)
        title = generation.prompt or (next(iter(prompts.values())) if len(prompts) == 1 else "")
        sheet = contact_sheet(cells, down.labels(), across.labels(), title, cell)
        output.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(output)
    protocol = detect_protocol(err_console) if preview and is_interactive() else None
    if protocol is not None:
        err_console.print(TerminalPicture(sheet, protocol))
    if as_json:
        size = {"width": sheet.width, "height": sheet.height}
        axes = {"rows": {down.field: down.values}, "columns": {across.field: across.values}}
        result_json({"file": str(output), **size, **axes, "seed": fields["seed"]})
    else:
        result(str(output))


def _check_axes(across: Axis, down: Axis) -> None:
    if across is NO_AXIS and down is NO_AXIS:
        raise typer.BadParameter("give --columns, --rows or both")
    if across.field == down.field:
        raise typer.BadParameter(
            f"{across.field} is already the field of --columns", param_hint="--rows"
        )


def _prompts(
    client: Client, generation: GenerationOptions, across: Axis, down: Axis
) -> dict[str | None, str]:
    """Return the prompt of each era on the sheet."""
    for each in (across, down):
        if each.field == "era":
            return {era: prompt_for(client, generation.prompt, era) for era in each.values}
    return {generation.era: prompt_for(client, generation.prompt, generation.era)}


def _generate_cells(
    client: Client,
    fields: dict[str, Any],
    prompts: dict[str | None, str],
    across: Axis,
    down: Axis,
) -> list[list[Image.Image]]:
    """Generate the images, row by row."""
    warned: set[str] = set()
    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), console=err_console, transient=True,
        disable=not err_console.is_terminal,
    )  # fmt: skip
    cells: list[list[Image.Image]] = []
    with progress:
        task = progress.add_task("generating", total=len(down.values) * len(across.values))
        for below in down.values:
            cells.append([])
            for beside in across.values:
                varied = {down.field: below, across.field: beside}
                request = {**fields, **{name: value for name, value in varied.items() if name}}
                prompt = prompts[request.get("era")]
                picture = client.generate(prompt, **request)
                cells[-1].append(picture.image)
                progress.advance(task)
                for warning in picture.warnings:
                    if warning not in warned:
                        warned.add(warning)
                        warn(warning)
    return cells
