"""Images in a terminal: kitty or iTerm2 protocol, else half blocks of two pixels per character."""

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

_COLUMNS, _MIN_WIDTH = 48, 24
_RESERVED_LINES = 4
_CHUNK = 4096
_PIXELS_PER_COLUMN = 10


def detect_protocol(
    console: Console, environment: Mapping[str, str] = os.environ
) -> Protocol | None:
    """Return the best image protocol of a terminal, or None without support or colour."""
    if not console.is_terminal or console.is_dumb_terminal or console.no_color:
        return None
    if console.width < _MIN_WIDTH:
        return None
    # Multiplexers do not pass either protocol to the terminal.
    if not {"TMUX", "STY"} & environment.keys():
        program = environment.get("TERM_PROGRAM", "")
        if environment.get("TERM") in {"xterm-kitty", "xterm-ghostty"} or program == "ghostty":
            return "kitty"
        if program in {"iTerm.app", "WezTerm"} or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    has_blocks = console.encoding.startswith("utf")
    return "blocks" if has_blocks and console.color_system in {"truecolor", "256"} else None


class TerminalPicture:
    """A rich renderable of an image that redraws in place."""

    def __init__(self, image: Image.Image, protocol: Protocol) -> None:
        self._image = image.convert("RGB")
        self._protocol = protocol

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(_COLUMNS, options.max_width)
        lines = max(1, round(columns * self._image.height / self._image.width / 2))
        # Lines that have scrolled out of the window cannot be redrawn.
        max_lines = max(1, console.height - _RESERVED_LINES)
        if lines > max_lines:
            columns = max(1, round(columns * max_lines / lines))
            lines = max_lines
        if self._protocol == "blocks":
            yield from self._blocks(columns, lines)
            return
        encode = self._kitty if self._protocol == "kitty" else self._iterm2
        # Both protocols move the cursor, so it is restored, and empty lines reserve the space.
        yield Segment(f"\x1b7{encode(columns, lines)}\x1b8", None, [(ControlType.BELL,)])
        for _ in range(lines):
            yield Segment(" " * columns)
            yield Segment.line()

    def _blocks(self, columns: int, lines: int) -> Iterator[Segment]:
        """Draw the upper pixel of each character as foreground, the lower one as background."""
        pixels = self._image.resize((columns, 2 * lines), Image.Resampling.BOX).tobytes()
        width = 3 * columns
        for line in range(lines):
            top, bottom = (pixels[width * row :][:width] for row in (2 * line, 2 * line + 1))
            for at in range(0, width, 3):
                colours = (Color.from_rgb(*half[at : at + 3]) for half in (top, bottom))
                yield Segment("▀", Style.from_color(*colours))
            yield Segment.line()

    def _kitty(self, columns: int, lines: int) -> str:
        """Encode the image under a fixed id, so that the next one replaces it in place."""
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
        side = columns * _PIXELS_PER_COLUMN
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
