"""Resolution of depth file and prompt arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import typer

from experimance.cli.errors import CommandFailed
from experimance.client import Client

_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def depth_files(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, with folders replaced by their image files in name order.

    Raises:
        CommandFailed: A folder contains no images.
        FileNotFoundError: A file does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in _ENDINGS)
            if not inside:
                kinds = ", ".join(sorted(ending.removeprefix(".") for ending in _ENDINGS))
                raise CommandFailed(f"{path}: contains no images ({kinds})")
            found += inside
        else:
            with path.open("rb"):
                found.append(path)
    return found


def resolve_depth_inputs(
    files: list[Path], mock: bool, photo: Path | None
) -> list[Path | str | None]:
    """Return the depth sources: the files, "mock", or None if there is only a photograph.

    Args:
        files: Depth files.
        mock: Whether to use the built-in hill.
        photo: Photograph for depth estimation.

    Raises:
        typer.BadParameter: No source is given, or both files and the hill.
    """
    if files and mock:
        raise typer.BadParameter("give depth files or --mock-depth, not both")
    if files:
        return list(files)
    if mock:
        return ["mock"]
    if photo is None:
        raise typer.BadParameter("give a depth file, a folder of them, --mock-depth or --photo")
    return [None]


def prompt_for(client: Client, prompt: str | None, era: str | None) -> str:
    """Return the given prompt, or the service's example prompt for the era.

    Args:
        client: Client that fetches the example prompts.
        prompt: Prompt from the command line.
        era: Era from the command line.

    Raises:
        typer.BadParameter: Neither is given, or the era has no example prompt.
    """
    require_one(prompt, era)
    return example(client.models().era_prompts, era) if prompt is None else prompt


def require_one(prompt: str | None, era: str | None) -> None:
    """Require a prompt or an era.

    Raises:
        typer.BadParameter: Neither is given.
    """
    if prompt is None and era is None:
        raise typer.BadParameter("required without --era", param_hint="--prompt")


def example(prompts: Mapping[str, str], era: str | None) -> str:
    """Return the example prompt of an era.

    Raises:
        typer.BadParameter: The era is unknown or has no example prompt.
    """
    if era is None or era not in prompts:
        known = ", ".join(prompts)
        raise typer.BadParameter(f"{era!r} is not one of {known}", param_hint="--era")
    return prompts[era]
