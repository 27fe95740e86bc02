"""experimance show: what a picture says about how it was painted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, UnidentifiedImageError
from rich.table import Table
from rich.text import Text

from experimance.command.console import result_json, tables
from experimance.command.failures import CommandFailed, told
from experimance.parameters import DEPTH_CHUNK, START_CHUNK, embedded_inputs, read_parameters
from experimance.picture import FORMATS


def show(
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="The parameters as JSON on stdout.")
    ] = False,
) -> None:
    """Print the parameters that a picture carries. No service is asked."""
    with told():
        image, parameters = opened(picture)
    if as_json:
        result_json(parameters)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("file", Text(f"{picture} ({image.format}, {image.width}x{image.height})"))
    for name, value in parameters.items():
        table.add_row(name, Text(_readable(value)))
    inside = embedded_inputs(image)
    parts = {DEPTH_CHUNK: "its depth map", START_CHUNK: "the picture it started from"}
    carried = [words for chunk, words in parts.items() if chunk in inside]
    table.add_row("inside", " and ".join(carried) or "none")
    tables.print(table)


def opened(path: Path) -> tuple[Image.Image, dict[str, Any]]:
    """A picture file and its parameters.

    Raises:
        CommandFailed: it is no picture, or says nothing of how it was painted.
    """
    try:
        image = Image.open(path, formats=FORMATS)
        image.load()
        parameters = read_parameters(image)
    except UnidentifiedImageError:
        raise CommandFailed(f"{path}: not a picture") from None
    except (SyntaxError, ValueError, EOFError) as error:
        raise CommandFailed(f"{path}: a damaged picture ({error})") from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise CommandFailed(f"{path}: a damaged picture ({error})") from None
    if parameters is None:
        raise CommandFailed(
            f"{path}: no parameters in it",
            "the service writes them unless embed_parameters is false; other programs that save a "
            "picture again often drop them",
        )
    return image, parameters


def _readable(value: Any) -> str:
    if value in (None, "", [], {}):
        return "none"
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(_readable(each) for each in value)
        case {"name": name, "strength": strength}:
            return f"{name} {strength:g}"
        case dict():
            return ", ".join(f"{name} {_readable(each)}" for name, each in value.items())
    return str(value)
