"""What others have written, as it may stand in a log: one short line without control characters.

Paths, headers and texts of callers, names in files of weights, messages of libraries that quote
them: none of it may make a line of its own, address a terminal, or look like the ready line.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from api.ready import READY_LINE

if TYPE_CHECKING:
    # Not in the environment of the serverless worker.
    from structlog.types import EventDict, WrappedLogger

MAX_CHARACTERS = 2_000
"""Of a message or a value; a traceback has ten times as many."""

_NOT_READY = READY_LINE.replace(" ", "_")
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    # C0, DEL and C1; line and paragraph separators; what turns the direction of writing.
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F),
                 *range(0x2066, 0x206A))
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}  # fmt: skip
_TRACE_CONTROLS = {code: text for code, text in _CONTROLS.items() if code != ord("\n")}


def printable(text: str) -> str:
    """The text on one line, its control characters escaped, its middle left out if it is long."""
    return _shortened(text, MAX_CHARACTERS).translate(_CONTROLS).replace(READY_LINE, _NOT_READY)


def printable_trace(text: str) -> str:
    """A traceback, every line indented: none of it can be taken for a line of the log's own."""
    lines = _shortened(text, 10 * MAX_CHARACTERS).translate(_TRACE_CONTROLS).splitlines()
    return "\n".join(f"  {line}" for line in lines).replace(READY_LINE, _NOT_READY)


def escape_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor: every text of an event as it may stand in a log."""
    return {
        name: (printable_trace if name == "exception" else printable)(value)
        if isinstance(value, str)
        else value
        for name, value in event.items()
    }


def escape_records(*dropped: type[BaseException]) -> None:
    """Have the standard library's logging of this process escape every record that it makes.

    Args:
        dropped: exceptions whose records a filter drops; to make their tracebacks may take long.
    """
    original = logging.getLogRecordFactory()
    if getattr(original, "escapes", False):
        return

    def escaped(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = original(*arguments, **options)
        try:
            record.msg, record.args = printable(record.getMessage()), ()
        except (TypeError, ValueError):
            # A message whose arguments do not fit: logging itself tells of it.
            return record
        kind = record.exc_info[0] if record.exc_info else None
        if record.exc_info and kind is not None and not issubclass(kind, dropped):
            lines = traceback.format_exception(*record.exc_info)
            record.exc_text = printable_trace("".join(lines))
        return record

    escaped.escapes = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(escaped)


class GuardedStream:
    """A text stream on which nothing that is printed looks like the ready line."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        self.unguarded.write(text.replace(READY_LINE, _NOT_READY))
        return len(text)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} [{len(text) - limit} characters left out] {text[-half:]}"
