"""Output file names."""

from __future__ import annotations

import os
import string
from pathlib import Path

import typer

from experimance.cli.errors import CommandFailed

FIELDS = ("stem", "era", "model", "seed", "ext")
_SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def suffix(output_format: str) -> str:
    """Return the file name suffix of an output format, without a dot."""
    return _SUFFIXES[output_format]


def image_format(output: str | None) -> str | None:
    """Return the output format of a file name's suffix; None for any other suffix."""
    ending = Path(output or "").suffix.lower().removeprefix(".")
    return {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.get(ending)


def template_uses(output: str | None, field: str) -> bool:
    """Return whether a template contains a field."""
    return any(name == field for _, name, _, _ in _parse_template(output or ""))


def output_path(output: str | None, values: dict[str, str]) -> Path:
    """Return the file path of one image.

    Args:
        output: A template such as `out/{stem}-{seed}.{ext}`, whose suffix is optional, or a folder.
            None means `STEM-ERA-SEED.EXT` in the working folder.
        values: Values of FIELDS.

    Raises:
        typer.BadParameter: The template is invalid or contains an unknown field.
    """
    default_stem = "-".join(
        part for part in (values["stem"], values["era"], values["seed"]) if part
    )
    if not output:
        return Path(f"{default_stem}.{values['ext']}")
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        return Path(output, f"{default_stem}.{values['ext']}")
    for _, name, spec, conversion in _parse_template(output):
        if name is not None and (name not in FIELDS or spec or conversion):
            raise _invalid_template(output)
    path = Path(output.format(**values))
    return path if image_format(path.name) else path.with_name(f"{path.name}.{values['ext']}")


def reject_existing(paths: list[Path], overwrite: bool) -> None:
    """Reject duplicate paths and existing files before any image is generated.

    Raises:
        typer.BadParameter: Two images share a path.
        CommandFailed: A file exists and `overwrite` is False.
    """
    duplicates = sorted({str(path) for path in paths if paths.count(path) > 1})
    if duplicates:
        raise typer.BadParameter(
            f"several images would be written to {duplicates[0]}; add {{stem}} or {{seed}}",
            param_hint="--output",
        )
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        more = f", and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise CommandFailed(
            f"{existing[0]} exists{more}", "--overwrite replaces it; --output sets another name"
        )


def _parse_template(output: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(output))
    except ValueError:
        raise _invalid_template(output) from None


def _invalid_template(output: str) -> typer.BadParameter:
    fields = ", ".join(f"{{{name}}}" for name in FIELDS)
    return typer.BadParameter(
        f"{output!r} is not a valid template; its fields are {fields}", param_hint="--output"
    )
