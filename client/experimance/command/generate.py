"""experimance generate: pictures from depth files."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from experimance.client import Client
from experimance.command import naming
from experimance.command.console import is_screen, people, result, result_json, warn
from experimance.command.failures import FAILED, say, told
from experimance.command.following import final, painted, summary
from experimance.command.grouped import grouped
from experimance.command.painting_options import Painting
from experimance.command.pictures_in import depth_files, depth_or_mock
from experimance.command.prompts import prompt_for
from experimance.command.service_options import Service
from experimance.command.terminal_picture import Protocol, protocol_of
from experimance.errors import InvalidPicture
from experimance.picture import Picture

_OUTPUT = "Output"
# Short enough to be typed; the service takes any up to 2^63 - 1.
_SEEDS = 2**32


@dataclass
class Output:
    """Where pictures go, and how much is shown meanwhile."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o",
            help="A name, a folder, or a template of {stem}, {era}, {model}, {seed}, {ext}.",
            show_default="STEM-ERA-SEED.EXT", rich_help_panel=_OUTPUT,
        ),
    ] = None  # fmt: skip
    output_format: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        typer.Option(
            "--format", help="Else by the output's name.", show_default="png",
            rich_help_panel=_OUTPUT,
        ),
    ] = None  # fmt: skip
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Of JPEG and WebP.", rich_help_panel=_OUTPUT),
    ] = None
    number: Annotated[
        int,
        typer.Option(
            "--number", "-N", min=1, max=4, help="Pictures per depth map, of seeds one after "
            "another.", rich_help_panel=_OUTPUT,
        ),
    ] = 1  # fmt: skip
    embed_inputs: Annotated[
        bool,
        typer.Option(
            help="Write depth and photo into PNGs too, so that `redo` needs nothing else.",
            rich_help_panel=_OUTPUT,
        ),
    ] = True
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files.", rich_help_panel=_OUTPUT)
    ] = False
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object per picture on stdout.", rich_help_panel=_OUTPUT
        ),
    ] = False
    preview: Annotated[
        bool,
        typer.Option(help="Show pictures in the terminal.", rich_help_panel=_OUTPUT),
    ] = True

    def format(self) -> str:
        """As asked for, else by the name's ending, else PNG."""
        by_name = naming.format_of(self.output)
        if by_name is not None and self.output_format not in {None, by_name}:
            raise typer.BadParameter(
                f"{self.output_format}, but --output ends as {by_name} does", param_hint="--format"
            )
        return by_name or self.output_format or "png"

    def fields(self) -> dict[str, Any]:
        """As keyword arguments of a client's `generate`."""
        given: dict[str, Any] = {"output_format": self.format()}
        if self.quality is not None:
            given["quality"] = self.quality
        if self.number > 1:
            given["num_images"] = self.number
        if self.embed_inputs and self.format() == "png":
            given["embed_inputs"] = True
        return given

    def protocol(self) -> Protocol | None:
        """How pictures are shown."""
        return protocol_of(people) if self.preview and is_screen() else None


@grouped
def generate(
    depth: Annotated[
        list[Path] | None,
        typer.Argument(help="Depth maps, near = bright, or folders of them.", show_default=False),
    ] = None,
    mock_depth: Annotated[
        bool, typer.Option("--mock-depth", help="A hill instead of a depth map.")
    ] = False,
    *,
    painting: Painting,
    output: Output,
    service: Service,
) -> None:
    """Paint pictures from depth maps.

    Prints the names of the files that were written. Files are never replaced unless --overwrite
    says so. PNGs carry all that `experimance redo` needs.
    """
    with told(), service.client() as client:
        sources = depth_or_mock(depth_files(depth or []), mock_depth, painting.photo)
        seed = random.randrange(_SEEDS) if painting.seed is None else painting.seed
        plan = [(source, _targets(client, source, seed, painting, output)) for source in sources]
        naming.refuse_taken([path for _, paths in plan for path in paths], output.overwrite)
        fields = {
            "prompt": prompt_for(client, painting.prompt, painting.era),
            "image": painting.photo,
            **painting.fields(),
            **output.fields(),
            "seed": seed,
        }
        failed = False
        for source, paths in plan:
            title = paths[0].name if len(plan) == 1 else f"{paths[0].name} ({len(plan)} in all)"
            try:
                picture = painted(client.stream, title, output.protocol(), depth=source, **fields)
            except InvalidPicture as error:
                # The next file may be a picture.
                say(error)
                failed = True
                continue
            for warning in picture.warnings:
                warn(warning)
            _write(picture, paths, source, output)
    if failed:
        raise typer.Exit(FAILED)


def _targets(
    client: Client, source: Path | str | None, seed: int, painting: Painting, output: Output
) -> list[Path]:
    """The files for one depth map's pictures."""
    model = painting.model
    if model is None and naming.asks_for(output.output, "model"):
        model = client.models().default_model
    stem = source.stem if isinstance(source, Path) else source
    if stem is None:
        assert painting.photo is not None
        stem = painting.photo.stem
    return [
        naming.named(
            output.output,
            {
                "stem": stem,
                "era": painting.era or "",
                "model": model or "",
                "seed": str(seed + index),
                "ext": naming.suffix(output.format()),
            },
        )
        for index in range(output.number)
    ]


def _write(picture: Picture, paths: list[Path], source: Path | str | None, output: Output) -> None:
    final(picture, output.protocol())
    for index, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, index)
        if output.as_json:
            result_json(told_of(picture, path, index, source))
        else:
            result(str(path))
    people.print(summary(picture))


def told_of(picture: Picture, path: Path, index: int, source: Path | str | None) -> dict[str, Any]:
    """What --json says of one picture."""
    return {
        "file": str(path),
        "depth": None if source is None else str(source),
        "seed": picture.seed + index,
        "model": picture.model,
        "request_id": picture.request_id,
        "seconds": picture.seconds,
        **picture.metadata,
    }
