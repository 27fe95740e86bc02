"""`experimance show`: the parameters embedded in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, UnidentifiedImageError
from rich.table import Table
from rich.text import Text

from experimance.cli.console import out_console, result_json
from experimance.cli.errors import CommandFailed, handle_errors
from experimance.image_metadata import (
    DEPTH_CHUNK,
    INIT_IMAGE_CHUNK,
    embedded_inputs,
    read_parameters,
)
from experimance.results import FORMATS


def show(
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the parameters as JSON.")] = False,
) -> None:
    """Print the parameters embedded in an image, without contacting a service."""
    with handle_errors():
        image, parameters = open_with_parameters(picture)
    if as_json:
        result_json(parameters)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("file", Text(f"{picture} ({image.format}, {image.width}x{image.height})"))
    for name, value in parameters.items():
        table.add_row(name, Text(_format_value(value)))
    inside = embedded_inputs(image)
    labels = {DEPTH_CHUNK: "its depth map", INIT_IMAGE_CHUNK: "its init image"}
    embedded = [label for chunk, label in labels.items() if chunk in inside]
    table.add_row("inside", " and ".join(embedded) or "none")
    out_console.print(table)


def open_with_parameters(path: Path) -> tuple[Image.Image, dict[str, Any]]:
    """Open an image file and read its parameters.

    Raises:
        CommandFailed: The file is not an image, is damaged, or contains no parameters.
        OSError: The file cannot be read.
    """
    try:
        image = Image.open(path, formats=FORMATS)
        image.load()
        parameters = read_parameters(image)
    except UnidentifiedImageError:
        raise CommandFailed(f"{path}: not an image") from None
    except (SyntaxError, ValueError, EOFError) as error:
        raise CommandFailed(f"{path}: damaged image ({error})") from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise CommandFailed(f"{path}: damaged image ({error})") from None
    if parameters is None:
        raise CommandFailed(
            f"{path}: contains no parameters",
            "the service embeds them unless embed_parameters is false; other programs often drop "
            "them on saving",
        )
    return image, parameters


def _format_value(value: Any) -> str:
    if value in (None, "", [], {}):
        return "none"
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(_format_value(each) for each in value)
        case {"name": name, "strength": strength}:
            return f"{name} {strength:g}"
        case dict():
            return ", ".join(f"{name} {_format_value(each)}" for name, each in value.items())
    return str(value)
