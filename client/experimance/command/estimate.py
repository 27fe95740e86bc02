"""experimance estimate: a depth map from a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experimance.command import completion, naming
from experimance.command.console import is_screen, people, result, result_json, warn
from experimance.command.failures import told
from experimance.command.grouped import grouped
from experimance.command.service_options import Service
from experimance.command.terminal_picture import TerminalPicture, protocol_of


@grouped
def estimate(
    photo: Annotated[Path, typer.Argument(help="A photograph.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A PNG file.", show_default="STEM-depth.png"),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help="What estimates it.", autocompletion=completion.estimators),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; the photo's own size else.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    invert_depth: Annotated[
        bool, typer.Option("--invert-depth", help="Turn near and far round.")
    ] = False,
    normalize_depth: Annotated[
        bool, typer.Option("--normalize-depth", help="Stretch depth over the whole range.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on stdout.")] = False,
    preview: Annotated[bool, typer.Option(help="Show the map in the terminal.")] = True,
    *,
    service: Service,
) -> None:
    """Estimate the depth of a photograph; near is bright."""
    path = output or Path(f"{photo.stem}-depth.png")
    if path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path}: a depth map is a .png", param_hint="--output")
    with told(), service.client() as client:
        naming.refuse_taken([path], overwrite)
        depth = client.estimate_depth(
            photo,
            depth_estimator=estimator,
            width=width,
            height=height,
            invert_depth=invert_depth,
            normalize_depth=normalize_depth,
        )
        depth.save(path)
    for warning in depth.warnings:
        warn(warning)
    protocol = protocol_of(people) if preview and is_screen() else None
    if protocol is not None:
        people.print(TerminalPicture(depth.image, protocol))
    if as_json:
        told_of = {"file": str(path), "depth_estimator": depth.estimator, "seconds": depth.seconds}
        size = dict(zip(("width", "height"), depth.image.size, strict=True))
        result_json({**told_of, **size, "warnings": list(depth.warnings)})
        return
    result(str(path))
    people.print(f"{depth.estimator} · {depth.seconds:.2f} s", style="dim", markup=False)
