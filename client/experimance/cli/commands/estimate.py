"""`experimance estimate`: a depth map from a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experimance.cli import completion
from experimance.cli import output_paths as naming
from experimance.cli.console import err_console, is_interactive, result, result_json, warn
from experimance.cli.errors import handle_errors
from experimance.cli.options import Service, expand_option_groups
from experimance.cli.terminal_image import TerminalPicture, detect_protocol


@expand_option_groups
def estimate(
    photo: Annotated[Path, typer.Argument(help="Photograph.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Depth map file, a PNG.", show_default="STEM-depth.png"
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help="Depth estimator.", autocompletion=completion.estimators),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width in pixels; default: the photo's.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Height in pixels; default: the photo's.")
    ] = None,
    invert_depth: Annotated[
        bool, typer.Option("--invert-depth", help="Swap near and far.")
    ] = False,
    normalize_depth: Annotated[
        bool, typer.Option("--normalize-depth", help="Stretch depth to the full range.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object on stdout.")] = False,
    preview: Annotated[bool, typer.Option(help="Show the depth map in the terminal.")] = True,
    *,
    service: Service,
) -> None:
    """Estimate the depth of a photograph, near = bright."""
    path = output or Path(f"{photo.stem}-depth.png")
    if path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path}: a depth map must end in .png", param_hint="--output")
    with handle_errors(), service.client() as client:
        naming.reject_existing([path], overwrite)
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
    protocol = detect_protocol(err_console) if preview and is_interactive() else None
    if protocol is not None:
        err_console.print(TerminalPicture(depth.image, protocol))
    if as_json:
        content = {
            "file": str(path),
            "depth_estimator": depth.estimator,
            "seconds": depth.seconds,
        }
        size = dict(zip(("width", "height"), depth.image.size, strict=True))
        result_json({**content, **size, "warnings": list(depth.warnings)})
        return
    result(str(path))
    err_console.print(f"{depth.estimator} · {depth.seconds:.2f} s", style="dim", markup=False)
