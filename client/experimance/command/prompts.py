"""The prompt of who gives none: the era's example."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from experimance.client import Client


def prompt_for(client: Client, prompt: str | None, era: str | None) -> str:
    """The given prompt, else the example that the service has for the era.

    Raises:
        typer.BadParameter: neither is given, or there is no example.
    """
    require_one(prompt, era)
    return example(client.models().era_prompts, era) if prompt is None else prompt


def require_one(prompt: str | None, era: str | None) -> None:
    """Raise typer.BadParameter where there is neither."""
    if prompt is None and era is None:
        raise typer.BadParameter("needed, unless --era brings its own", param_hint="--prompt")


def example(prompts: Mapping[str, str], era: str | None) -> str:
    """An era's example among those of the service."""
    if era is None or era not in prompts:
        known = ", ".join(prompts)
        raise typer.BadParameter(f"{era!r} is none of {known}", param_hint="--era")
    return prompts[era]
