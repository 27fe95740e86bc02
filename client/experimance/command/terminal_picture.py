"""Pictures in a terminal: by the protocols of kitty and iTerm2, else two pixels a character."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping
from typing import Literal

from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import ControlType, Segment
from rich.style import Style

Protocol = Literal["kitty", "iterm2", "blocks"]

_COLUMNS, _NARROWEST = 48, 24
_LINES_BESIDE = 4
_CHUNK = 4096
_PIXELS_A_COLUMN = 10


def protocol_of(console: Console, environment: Mapping[str, str] = os.environ) -> Protocol | None:
    """How to show pictures on a terminal; None where that is not possible, or not wanted."""
    if not console.is_terminal or console.is_dumb_terminal or console.no_color:
        return None
    if console.width < _NARROWEST:
        return None
    # A multiplexer keeps both protocols to itself.
    if not {"TMUX", "STY"} & environment.keys():
        program = environment.get("TERM_PROGRAM", "")
        if environment.get("TERM") in {"xterm-kitty", "xterm-ghostty"} or program == "ghostty":
            return "kitty"
        if program in {"iTerm.app", "WezTerm"} or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    has_blocks = console.encoding.startswith("utf")
    return "blocks" if has_blocks and console.color_system in {"truecolor", "256"} else None


class TerminalPicture:
    """A picture that rich prints, some lines high; printed again it takes its own place."""

    def __init__(self, image: Image.Image, protocol: Protocol) -> None:
        self._image = image.convert("RGB")
        self._protocol = protocol

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(_COLUMNS, options.max_width)
        lines = max(1, round(columns * self._image.height / self._image.width / 2))
        # What scrolls out of the window cannot be drawn over.
        highest = max(1, console.height - _LINES_BESIDE)
        if lines > highest:
            columns = max(1, round(columns * highest / lines))
            lines = highest
        if self._protocol == "blocks":
            yield from self._blocks(columns, lines)
            return
        drawn = self._kitty if self._protocol == "kitty" else self._iterm2
        # Both leave the cursor where they end; text goes on below, over empty lines.
        yield Segment(f"\x1b7{drawn(columns, lines)}\x1b8", None, [(ControlType.BELL,)])
        for _ in range(lines):
            yield Segment(" " * columns)
            yield Segment.line()

    def _blocks(self, columns: int, lines: int) -> Iterator[Segment]:
        """The upper half of each character is its colour, the lower its background."""
        pixels = self._image.resize((columns, 2 * lines), Image.Resampling.BOX).tobytes()
        width = 3 * columns
        for line in range(lines):
            top, bottom = (pixels[width * row :][:width] for row in (2 * line, 2 * line + 1))
            for at in range(0, width, 3):
                colours = (Color.from_rgb(*half[at : at + 3]) for half in (top, bottom))
                yield Segment("▀", Style.from_color(*colours))
            yield Segment.line()

    def _kitty(self, columns: int, lines: int) -> str:
        """One image under one id, so that the next one takes its place; the cursor stays."""
        data = base64.b64encode(self._png(columns)).decode("ascii")
        chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
        first = f"a=T,f=100,i=1,p=1,q=2,C=1,c={columns},r={lines},"
        return "".join(
            f"\x1b_G{first if index == 0 else ''}m={int(index + 1 < len(chunks))};{chunk}\x1b\\"
            for index, chunk in enumerate(chunks)
        )

    def _iterm2(self, columns: int, lines: int) -> str:
        data = self._png(columns)
        size = f"size={len(data)};width={columns};height={lines};preserveAspectRatio=0"
        return f"\x1b]1337;File=inline=1;{size}:{base64.b64encode(data).decode('ascii')}\x07"

    def _png(self, columns: int) -> bytes:
        small = self._image.copy()
        side = columns * _PIXELS_A_COLUMN
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
