"""Depth files that a command is given."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from experimance.command.failures import CommandFailed

_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def depth_files(paths: Iterable[Path]) -> list[Path]:
    """The files, and for folders the pictures in them, by name.

    Raises:
        CommandFailed: a folder has no picture.
        FileNotFoundError: there is no such file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in _ENDINGS)
            if not inside:
                kinds = ", ".join(sorted(ending.removeprefix(".") for ending in _ENDINGS))
                raise CommandFailed(f"{path}: no picture in it ({kinds})")
            found += inside
        else:
            with path.open("rb"):
                found.append(path)
    return found


def depth_or_mock(files: list[Path], mock: bool, photo: Path | None) -> list[Path | str | None]:
    """What to paint from: files, "mock", or None where the photo is all there is.

    Raises:
        typer.BadParameter: none of them, or two at once.
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
