"""The prompt of who gives none: the era's example."""

from __future__ import annotations

import typer

from experimance.client import Client


def prompt_for(client: Client, prompt: str | None, era: str | None) -> str:
    """The given prompt, else the example that the service has for the era.

    Raises:
        typer.BadParameter: neither is given, or there is no example.
    """
    if prompt is not None:
        return prompt
    if era is None:
        raise typer.BadParameter("needed, unless --era brings its own", param_hint="--prompt")
    prompts = client.models().era_prompts
    if era not in prompts:
        known = ", ".join(prompts)
        raise typer.BadParameter(f"{era!r} is none of {known}", param_hint="--era")
    return prompts[era]
