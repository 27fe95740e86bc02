"""What a contact sheet varies: an axis is a field and its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

from experimance.states import ModelsInfo

_KINDS: dict[str, Callable[[str], Any]] = {
    "era": str,
    "model": str,
    "seed": int,
    "strength": float,
    "controlnet_strength": float,
    "lora_strength": float,
    "steps": int,
    "cfg": float,
}
_ALL: dict[str, Callable[[ModelsInfo], tuple[str, ...]]] = {
    "era": lambda info: info.eras,
    "model": lambda info: info.models,
}


@dataclass(frozen=True)
class Axis:
    """A field of the request, and the values that it takes one after the other."""

    field: str
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        """What the sheet says beside each value."""
        if not self.field:
            return [""]
        if self.field in _ALL:
            return [str(value) for value in self.values]
        return [f"{self.field.replace('_', ' ')} {value:g}" for value in self.values]


NOTHING = Axis("", (None,))
"""The axis of who varies nothing in this direction."""


def axis(text: str | None, option: str, known: Callable[[], ModelsInfo]) -> Axis:
    """An axis from `FIELD=VALUE,VALUE,…`, or `era` and `model` alone for all there are.

    Args:
        text: what the caller gave, None for nothing.
        option: its name, for messages.
        known: asks the service what there is.

    Raises:
        typer.BadParameter: it is not of that form.
    """
    if text is None:
        return NOTHING
    name, _, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in _KINDS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(_KINDS)}", param_hint=option)
    if listed.strip() in {"", "all"}:
        if name not in _ALL:
            raise typer.BadParameter(f"say which: {name}=1,2,3", param_hint=option)
        return Axis(name, _ALL[name](known()))
    try:
        values = tuple(_KINDS[name](value.strip()) for value in listed.split(",") if value.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{listed!r} is not a list of numbers, such as {name}=1,2,3", param_hint=option
        ) from None
    return Axis(name, values)
