"""Sanitization of untrusted text in logs: short lines without control characters.

Untrusted text includes paths, headers and prompts of callers, names in weight files, and library
messages that quote them. It must not start a line, control a terminal, or imitate the ready line.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from common.lifecycle import READY_LINE

if TYPE_CHECKING:
    # structlog is not installed in the environment of the serverless worker.
    from structlog.types import EventDict, WrappedLogger

MAX_CHARACTERS = 2_000
"""Maximum characters of a message or a value; a traceback may have ten times as many."""

_NOT_READY = READY_LINE.replace(" ", "_")
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    # C0, DEL and C1; line and paragraph separators; bidirectional controls.
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F),
                 *range(0x2066, 0x206A))
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}  # fmt: skip
_TRACE_CONTROLS = {code: text for code, text in _CONTROLS.items() if code != ord("\n")}


def to_printable(text: str) -> str:
    """Return the text on one line, with controls escaped and the middle of a long text removed."""
    return _shorten(text, MAX_CHARACTERS).translate(_CONTROLS).replace(READY_LINE, _NOT_READY)


def printable_trace(text: str) -> str:
    """Return a traceback with every line indented, so that none resembles a log line."""
    lines = _shorten(text, 10 * MAX_CHARACTERS).translate(_TRACE_CONTROLS).splitlines()
    return "\n".join(f"  {line}" for line in lines).replace(READY_LINE, _NOT_READY)


def escape_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Sanitize every text of an event; structlog processor."""
    return {
        name: (printable_trace if name == "exception" else to_printable)(value)
        if isinstance(value, str)
        else value
        for name, value in event.items()
    }


def escape_records(*dropped: type[BaseException]) -> None:
    """Install a log record factory that sanitizes every record of this process.

    Args:
        dropped: exceptions whose records a filter drops; formatting their tracebacks may be slow.
    """
    original = logging.getLogRecordFactory()
    if getattr(original, "escapes", False):
        return

    def make_record(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = original(*arguments, **options)
        try:
            record.msg, record.args = to_printable(record.getMessage()), ()
        except (TypeError, ValueError):
            # The arguments do not match the message; logging reports this itself.
            return record
        kind = record.exc_info[0] if record.exc_info else None
        if record.exc_info and kind is not None and not issubclass(kind, dropped):
            lines = traceback.format_exception(*record.exc_info)
            record.exc_text = printable_trace("".join(lines))
        return record

    make_record.escapes = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_record)


class GuardedStream:
    """Text stream that alters printed text that contains the ready line."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        self.unguarded.write(text.replace(READY_LINE, _NOT_READY))
        return len(text)


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} [{len(text) - limit} characters left out] {text[-half:]}"
