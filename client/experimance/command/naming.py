"""Names of the files that pictures are written to."""

from __future__ import annotations

import os
import string
from pathlib import Path

import typer

from experimance.command.failures import CommandFailed

FIELDS = ("stem", "era", "model", "seed", "ext")
_SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def suffix(output_format: str) -> str:
    """How names of a format end, without a dot."""
    return _SUFFIXES[output_format]


def format_of(output: str | None) -> str | None:
    """The output format that a name asks for by its ending; None where it has none of these."""
    ending = Path(output or "").suffix.lower().removeprefix(".")
    return {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.get(ending)


def asks_for(output: str | None, field: str) -> bool:
    """Whether a template has a field."""
    return any(name == field for _, name, _, _ in _parsed(output or ""))


def named(output: str | None, values: dict[str, str]) -> Path:
    """The file for one picture.

    Args:
        output: a template such as `out/{stem}-{seed}.{ext}`, which may lack its ending; a folder;
            or None for `STEM-ERA-SEED.EXT` here.
        values: of FIELDS.

    Raises:
        typer.BadParameter: the template names a field that there is not.
    """
    usual = "-".join(part for part in (values["stem"], values["era"], values["seed"]) if part)
    if not output:
        return Path(f"{usual}.{values['ext']}")
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        return Path(output, f"{usual}.{values['ext']}")
    for _, name, spec, conversion in _parsed(output):
        if name is not None and (name not in FIELDS or spec or conversion):
            raise _bad(output)
    path = Path(output.format(**values))
    return path if format_of(path.name) else path.with_name(f"{path.name}.{values['ext']}")


def refuse_taken(paths: list[Path], overwrite: bool) -> None:
    """Before anything is painted: two pictures of one name, or files that are there already."""
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise typer.BadParameter(
            f"several pictures would be written to {twice[0]}; add {{stem}} or {{seed}}",
            param_hint="--output",
        )
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        more = f", and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise CommandFailed(
            f"{taken[0]} exists{more}", "--overwrite replaces it; --output writes elsewhere"
        )


def _parsed(output: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(output))
    except ValueError:
        raise _bad(output) from None


def _bad(output: str) -> typer.BadParameter:
    fields = ", ".join(f"{{{name}}}" for name in FIELDS)
    return typer.BadParameter(f"{output!r}; its fields are {fields}", param_hint="--output")
