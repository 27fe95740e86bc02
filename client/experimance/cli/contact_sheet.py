"""Contact sheets: images arranged along two axes, each a request field with its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from PIL import Image, ImageDraw, ImageFont

from experimance.status import ModelsInfo

_VALUE_TYPES: dict[str, Callable[[str], Any]] = {
    "era": str,
    "model": str,
    "seed": int,
    "strength": float,
    "controlnet_strength": float,
    "lora_strength": float,
    "steps": int,
    "cfg": float,
}
_CATALOG_VALUES: dict[str, Callable[[ModelsInfo], tuple[str, ...]]] = {
    "era": lambda info: info.eras,
    "model": lambda info: info.models,
}
_GAP, _MARGIN, _TEXT = 8, 16, 15
_PAPER, _INK, _FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"
_WIDEST_LABEL = 220


@dataclass(frozen=True)
class Axis:
    """One request field and its values, in order."""

    field: str
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        """Return the label of each value."""
        if not self.field:
            return [""]
        if self.field in _CATALOG_VALUES:
            return [str(value) for value in self.values]
        return [f"{self.field.replace('_', ' ')} {value:g}" for value in self.values]


NO_AXIS = Axis("", (None,))
"""Axis without variation."""


def axis(text: str | None, option: str, known: Callable[[], ModelsInfo]) -> Axis:
    """Parse an axis of the form `FIELD=VALUE,VALUE,…`; `era` or `model` alone means all values.

    Args:
        text: Value of the option; None without one.
        option: Name of the option for error messages.
        known: Function that fetches the service's catalog.

    Raises:
        typer.BadParameter: `text` has another form.
    """
    if text is None:
        return NO_AXIS
    name, _, value_list = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in _VALUE_TYPES:
        raise typer.BadParameter(
            f"{name!r} is not one of {', '.join(_VALUE_TYPES)}", param_hint=option
        )
    if value_list.strip() in {"", "all"}:
        if name not in _CATALOG_VALUES:
            raise typer.BadParameter(f"give its values: {name}=1,2,3", param_hint=option)
        return Axis(name, _CATALOG_VALUES[name](known()))
    try:
        values = tuple(
            _VALUE_TYPES[name](value.strip()) for value in value_list.split(",") if value.strip()
        )
    except ValueError:
        raise typer.BadParameter(
            f"{value_list!r} is not a list of numbers, such as {name}=1,2,3", param_hint=option
        ) from None
    return Axis(name, values)


def contact_sheet(
    cells: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    side: int,
) -> Image.Image:
    """Draw a contact sheet and return it as an RGB image.

    Args:
        cells: Images, row by row.
        rows: Row labels at the left; empty labels take no space.
        columns: Column labels at the top.
        title: Title, wrapped to the width of the sheet.
        side: Longer side of each image on the sheet, in pixels.
    """
    font, small = ImageFont.load_default(_TEXT + 1), ImageFont.load_default(_TEXT)
    images = [[_fit(image, side) for image in row] for row in cells]
    width = max(image.width for row in images for image in row)
    height = max(image.height for row in images for image in row)
    left = min(_WIDEST_LABEL, max(round(small.getlength(label)) for label in rows))
    left = _MARGIN + (left + _MARGIN if left else 0)
    total = left + len(columns) * (width + _GAP) - _GAP + _MARGIN
    lines = _wrap_label(title, font, total - 2 * _MARGIN)
    line_height = _TEXT + 7
    heads = [_wrap_label(label, small, width) for label in columns]
    top = _MARGIN + len(lines) * line_height + _GAP
    top += max(len(head) for head in heads) * line_height
    sheet = Image.new("RGB", (total, top + len(rows) * (height + _GAP) - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + index * line_height), line, _INK, font)
    for column, head in enumerate(heads):
        x = left + column * (width + _GAP)
        for index, line in enumerate(reversed(head)):
            draw.text((x, top - (index + 1) * line_height), line, _FAINT, small)
    for row, label in enumerate(rows):
        y = top + row * (height + _GAP)
        for index, line in enumerate(_wrap_label(label, small, _WIDEST_LABEL)):
            draw.text((_MARGIN, y + index * line_height), line, _FAINT, small)
        for column, image in enumerate(images[row]):
            sheet.paste(image, (left + column * (width + _GAP), y))
    return sheet


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Convert an image to RGB and shrink it to `side` pixels, without enlarging it."""
    fitted = image.convert("RGB")
    fitted.thumbnail((side, side), Image.Resampling.LANCZOS)
    return fitted


def _wrap_label(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> list[str]:
    """Split a label into lines of at most `width` pixels, except for longer words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
