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
            "--number", "-N", min=1, help="Pictures per depth map, of seeds one after another.",
            rich_help_panel=_OUTPUT,
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
        plan = _plan(client, sources, seed, painting, output)
        naming.refuse_taken([planned.path for planned in plan], output.overwrite)
        fields = {
            "prompt": prompt_for(client, painting.prompt, painting.era),
            "image": painting.photo,
            **painting.fields(),
            **output.fields(),
        }
        failed = False
        for index, planned in enumerate(plan, 1):
            title = f"{planned.path.name} ({index} of {len(plan)})"
            try:
                picture = painted(
                    client.stream, title, output.protocol(), depth=planned.source,
                    **fields | {"seed": planned.seed},
                )  # fmt: skip
            except InvalidPicture as error:
                # The next file may be a picture.
                say(error)
                failed = True
                continue
            for warning in picture.warnings:
                warn(warning)
            _write(picture, planned, output)
    if failed:
        raise typer.Exit(FAILED)


@dataclass(frozen=True)
class _Planned:
    """One picture: what it is painted from, with which seed, and where it goes."""

    source: Path | str | None
    seed: int
    path: Path


def _plan(
    client: Client,
    sources: list[Path | str | None],
    seed: int,
    painting: Painting,
    output: Output,
) -> list[_Planned]:
    """A request for each picture, also for several of one depth map.

    Pictures that are computed in one batch differ from those computed alone by the rounding of a
    few pixels, and these are to be painted again bit for bit.
    """
    model = painting.model
    if model is None and naming.asks_for(output.output, "model"):
        model = client.models().default_model
    known = {
        "era": painting.era or "",
        "model": model or "",
        "ext": naming.suffix(output.format()),
    }
    plan = []
    for source in sources:
        named_after = painting.photo if source is None else source
        stem = named_after.stem if isinstance(named_after, Path) else str(named_after)
        for each in range(seed, seed + output.number):
            path = naming.named(output.output, known | {"stem": stem, "seed": str(each)})
            plan.append(_Planned(source, each, path))
    return plan


def _write(picture: Picture, planned: _Planned, output: Output) -> None:
    final(picture, output.protocol())
    planned.path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(planned.path)
    if output.as_json:
        result_json(told_of(picture, planned.path, planned.source))
    else:
        result(str(planned.path))
    people.print(summary(picture))


def told_of(picture: Picture, path: Path, source: Path | str | None) -> dict[str, Any]:
    """What --json says of one picture."""
    return {
        "file": str(path),
        "depth": None if source is None else str(source),
        "seed": picture.seed,
        "model": picture.model,
        "request_id": picture.request_id,
        "seconds": picture.seconds,
        **picture.metadata,
    }
