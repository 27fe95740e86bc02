"""Pictures in rows and columns on one sheet, with labels."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP, _MARGIN, _TEXT = 8, 16, 15
_PAPER, _INK, _FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"
_WIDEST_LABEL = 220


def contact_sheet(
    cells: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    side: int,
) -> Image.Image:
    """A sheet, RGB.

    Args:
        cells: pictures, row by row.
        rows: labels, at the left; empty ones take no room.
        columns: labels, on top.
        title: above all; lines that are too long are broken.
        side: the longer side of a picture on the sheet, in pixels.
    """
    font, small = ImageFont.load_default(_TEXT + 1), ImageFont.load_default(_TEXT)
    pictures = [[_fitted(picture, side) for picture in row] for row in cells]
    width = max(picture.width for row in pictures for picture in row)
    height = max(picture.height for row in pictures for picture in row)
    left = min(_WIDEST_LABEL, max(round(small.getlength(label)) for label in rows))
    left = _MARGIN + (left + _MARGIN if left else 0)
    total = left + len(columns) * (width + _GAP) - _GAP + _MARGIN
    lines = _broken(title, font, total - 2 * _MARGIN)
    line_height = _TEXT + 7
    heads = [_broken(label, small, width) for label in columns]
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
        for index, line in enumerate(_broken(label, small, _WIDEST_LABEL)):
            draw.text((_MARGIN, y + index * line_height), line, _FAINT, small)
        for column, picture in enumerate(pictures[row]):
            sheet.paste(picture, (left + column * (width + _GAP), y))
    return sheet


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """Made smaller where it is larger; never larger."""
    fitted = picture.convert("RGB")
    fitted.thumbnail((side, side), Image.Resampling.LANCZOS)
    return fitted


def _broken(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> list[str]:
    """Lines no wider than asked, where words allow it."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
