"""A JSON body without its long strings, which is small if anything but pictures is.

A parser takes seconds, and much memory, for megabytes of brackets or keys; for megabytes of one
string it takes none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_BYTES = 64 * 2**10
"""Of everything in a body but its long strings."""

_LONG = 2048
_QUOTE = b'"'
_NOTE = "\0"
# Parsers take 20 ns for each. Pictures whose slashes and line ends are escaped have 30,000 in a MB.
_MAX_ESCAPES = 2**20


class TooLongError(ValueError):
    """A body that is long beside its long strings."""


def outline(body: bytes) -> Any:
    """What a body says, with a note of its length in the place of every string of more than 2 kB.

    `long_bytes` reads the notes.

    Raises:
        TooLongError: it has more than 64 kB beside them.
        ValueError: it is not JSON.
    """
    # Every string has two quotes; beyond this many the rest is too long in any case.
    if body.count(_QUOTE) > MAX_BYTES or body.count(b"\\") > _MAX_ESCAPES:
        raise TooLongError
    short = b"".join(_shortened(body))
    if len(short) > MAX_BYTES:
        raise TooLongError
    try:
        return json.loads(short)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def long_bytes(value: object) -> int:
    """Bytes of the long string whose place a value of an outline takes; 0 for any other value."""
    if not isinstance(value, str) or not value.startswith(_NOTE):
        return 0
    length = value.removeprefix(_NOTE)
    # A caller who writes such a note himself has his body counted as larger than it is.
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 12 else 0


def _shortened(body: bytes) -> Iterator[bytes]:
    """What lies between strings, and the strings, or notes of them. Looks at no byte twice."""
    rest = 0
    while (start := body.find(_QUOTE, rest)) >= 0:
        yield body[rest:start]
        end = _end_of_string(body, start)
        length = end - start
        yield body[start:end] if length < _LONG else b'"\\u0000%d"' % length
        rest = end
    yield body[rest:]


def _end_of_string(body: bytes, start: int) -> int:
    """Where the string has ended whose first quote is at `start`; raises ValueError if nowhere."""
    seen = start + 1
    while (quote := body.find(_QUOTE, seen)) >= 0:
        before = body[seen:quote]
        escapes = len(before) - len(before.rstrip(b"\\"))
        seen = quote + 1
        if escapes % 2 == 0:
            return seen
    raise ValueError("a string without an end")
