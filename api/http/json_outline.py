"""Outlines of JSON bodies: the parsed body with long strings replaced by their lengths.

Parsing megabytes of brackets or keys takes seconds and much memory. Parsing megabytes of a single
string costs little.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_BYTES = 64 * 2**10
"""Maximum bytes of a body without its long strings."""

_LONG = 2048
_QUOTE = b'"'
_NOTE = "\0"
# A parser takes 20 ns per escape. Base64 with escaped slashes and newlines has 30,000 per MB.
_MAX_ESCAPES = 2**20


class TooLongError(ValueError):
    """Body that is too long even without its long strings."""


def outline(body: bytes) -> Any:
    """Parse a body, with each string of 2 KiB or more replaced by a note of its length.

    `long_bytes` reads the notes.

    Raises:
        TooLongError: the body has more than 64 KiB without its long strings.
        ValueError: the body is not JSON.
    """
    # Each quote costs at least one byte, so more quotes than this exceed the limit in any case.
    if body.count(_QUOTE) > MAX_BYTES or body.count(b"\\") > _MAX_ESCAPES:
        raise TooLongError
    short = b"".join(_iterate_shortened(body))
    if len(short) > MAX_BYTES:
        raise TooLongError
    try:
        return json.loads(short)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def long_bytes(value: object) -> int:
    """Return the bytes of the string that a note replaces; 0 for any other value."""
    if not isinstance(value, str) or not value.startswith(_NOTE):
        return 0
    length = value.removeprefix(_NOTE)
    # A forged note only makes its body count as larger than it is.
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 12 else 0


def _iterate_shortened(body: bytes) -> Iterator[bytes]:
    """Yield the body in pieces, with notes for long strings, in linear time."""
    rest = 0
    while (start := body.find(_QUOTE, rest)) >= 0:
        yield body[rest:start]
        end = _end_of_string(body, start)
        length = end - start
        yield body[start:end] if length < _LONG else b'"\\u0000%d"' % length
        rest = end
    yield body[rest:]


def _end_of_string(body: bytes, start: int) -> int:
    """Return the index after the string whose first quote is at `start`.

    Raises:
        ValueError: the string does not end.
    """
    position = start + 1
    while (quote := body.find(_QUOTE, position)) >= 0:
        before = body[position:quote]
        escapes = len(before) - len(before.rstrip(b"\\"))
        position = quote + 1
        if escapes % 2 == 0:
            return position
    raise ValueError("unterminated string")
