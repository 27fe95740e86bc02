"""`experimance generate`: images from depth files."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from experimance.cli import output_paths as naming
from experimance.cli.console import err_console, is_interactive, result, result_json, warn
from experimance.cli.errors import FAILED, handle_errors, print_error
from experimance.cli.inputs import depth_files, prompt_for, resolve_depth_inputs
from experimance.cli.options import GenerationOptions, Service, expand_option_groups
from experimance.cli.progress import generate_with_progress, show_result, summary
from experimance.cli.terminal_image import Protocol, detect_protocol
from experimance.client import Client
from experimance.errors import InvalidPicture
from experimance.results import Picture

_OUTPUT = "Output"
# The service accepts seeds up to 2^63 - 1; shorter ones are easier to type.
_SEEDS = 2**32


@dataclass
class Output:
    """Output files, formats and terminal output."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o",
            help="File name, folder, or template of {stem}, {era}, {model}, {seed}, {ext}.",
            show_default="STEM-ERA-SEED.EXT", rich_help_panel=_OUTPUT,
        ),
    ] = None  # fmt: skip
    output_format: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        typer.Option(
            "--format", help="Image format; --output may also set it.", show_default="png",
            rich_help_panel=_OUTPUT,
        ),
    ] = None  # fmt: skip
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Quality of JPEG and WebP.", rich_help_panel=_OUTPUT),
    ] = None
    number: Annotated[
        int,
        typer.Option(
            "--number", "-N", min=1, help="Images per depth map, with consecutive seeds.",
            rich_help_panel=_OUTPUT,
        ),
    ] = 1  # fmt: skip
    embed_inputs: Annotated[
        bool,
        typer.Option(
            help="Embed depth map and photo in PNGs, so that `redo` needs no other file.",
            rich_help_panel=_OUTPUT,
        ),
    ] = True
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files.", rich_help_panel=_OUTPUT)
    ] = False
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object per image on stdout.", rich_help_panel=_OUTPUT
        ),
    ] = False
    preview: Annotated[
        bool,
        typer.Option(help="Show images in the terminal.", rich_help_panel=_OUTPUT),
    ] = True

    def format(self) -> str:
        """Return the output format: that of the name's suffix, of --format, or PNG.

        Raises:
            typer.BadParameter: The suffix and --format differ.
        """
        by_name = naming.image_format(self.output)
        if by_name is not None and self.output_format not in {None, by_name}:
            raise typer.BadParameter(
                f"{self.output_format} contradicts the {by_name} suffix of --output",
                param_hint="--format",
            )
        return by_name or self.output_format or "png"

    def fields(self) -> dict[str, Any]:
        """Return keyword arguments of a client's `generate`."""
        values: dict[str, Any] = {"output_format": self.format()}
        if self.quality is not None:
            values["quality"] = self.quality
        if self.embed_inputs and self.format() == "png":
            values["embed_inputs"] = True
        return values

    def protocol(self) -> Protocol | None:
        """Return the terminal protocol for images; None if they are not shown."""
        return detect_protocol(err_console) if self.preview and is_interactive() else None


@expand_option_groups
def generate(
    depth: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Depth maps, near = bright, or folders with depth maps.", show_default=False
        ),
    ] = None,
    mock_depth: Annotated[
        bool, typer.Option("--mock-depth", help="Use the built-in hill as depth map.")
    ] = False,
    *,
    generation: GenerationOptions,
    output: Output,
    service: Service,
) -> None:
    """Generate images from depth maps.

    Prints the names of the files written. Existing files are replaced only with --overwrite. PNGs
    contain everything that `experimance redo` needs.
    """
    with handle_errors(), service.client() as client:
        sources = resolve_depth_inputs(depth_files(depth or []), mock_depth, generation.photo)
        seed = random.randrange(_SEEDS) if generation.seed is None else generation.seed
        plan = _plan(client, sources, seed, generation, output)
        naming.reject_existing([planned.path for planned in plan], output.overwrite)
        fields = {
            "prompt": prompt_for(client, generation.prompt, generation.era),
            "image": generation.photo,
            **generation.fields(),
            **output.fields(),
        }
        failed = False
        for index, planned in enumerate(plan, 1):
            title = f"{planned.path.name} ({index} of {len(plan)})"
            try:
                picture = generate_with_progress(
                    client.stream, title, output.protocol(), depth=planned.source,
                    **fields | {"seed": planned.seed},
                )  # fmt: skip
            except InvalidPicture as error:
                # An invalid depth map does not prevent the remaining ones.
                print_error(error)
                failed = True
                continue
            for warning in picture.warnings:
                warn(warning)
            _write(picture, planned, output)
    if failed:
        raise typer.Exit(FAILED)


@dataclass(frozen=True)
class _PlannedImage:
    """One image to generate: its depth source, seed and output path."""

    source: Path | str | None
    seed: int
    path: Path


def _plan(
    client: Client,
    sources: list[Path | str | None],
    seed: int,
    generation: GenerationOptions,
    output: Output,
) -> list[_PlannedImage]:
    """Plan one request per image, also for several images of one depth map.

    An image from a batch may differ from one generated alone by rounding in a few pixels.
    Separate requests keep `experimance redo` bit-identical.
    """
    model = generation.model
    if model is None and naming.template_uses(output.output, "model"):
        model = client.models().default_model
    values = {
        "era": generation.era or "",
        "model": model or "",
        "ext": naming.suffix(output.format()),
    }
    plan = []
    for source in sources:
        name_source = generation.photo if source is None else source
        stem = name_source.stem if isinstance(name_source, Path) else str(name_source)
        for each in range(seed, seed + output.number):
            path = naming.output_path(output.output, values | {"stem": stem, "seed": str(each)})
            plan.append(_PlannedImage(source, each, path))
    return plan


def _write(picture: Picture, planned: _PlannedImage, output: Output) -> None:
    show_result(picture, output.protocol())
    planned.path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(planned.path)
    if output.as_json:
        result_json(picture_json(picture, planned.path, planned.source))
    else:
        result(str(planned.path))
    err_console.print(summary(picture))


def picture_json(picture: Picture, path: Path, source: Path | str | None) -> dict[str, Any]:
    """Return the --json object of one image.

    Args:
        picture: Result of the request.
        path: File of the image.
        source: Depth file, "mock", or None for a photograph.
    """
    return {
        "file": str(path),
        "depth": None if source is None else str(source),
        "seed": picture.seed,
        "model": picture.model,
        "request_id": picture.request_id,
        "seconds": picture.seconds,
        **picture.metadata,
    }
