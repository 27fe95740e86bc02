"""A JSON body without its long strings, which is small if anything but pictures is.

A parser takes seconds, and much memory, for megabytes of brackets or keys; for megabytes of one
string it takes none.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_BYTES = 64 * 2**10
"""Of everything in a body but its long strings."""

_LONG = 2048
# Every quote that is reached begins a match, to the end of the body if nothing closes it, so that
# no byte is looked at twice.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z)', re.DOTALL)
# Each takes some 70 ns. Pictures whose slashes and line ends are escaped have 30,000 in a megabyte.
_MAX_ESCAPES = 2**20


class TooLongError(ValueError):
    """A body that is long beside its long strings."""


def outline(body: bytes) -> Any:
    """What a body says, with "" in the place of every string of more than 2 kB.

    Raises:
        TooLongError: it has more than 64 kB beside them.
        ValueError: it is not JSON.
    """
    # Every string has two quotes; beyond this many the rest is too long in any case.
    if body.count(b'"') > MAX_BYTES or body.count(b"\\") > _MAX_ESCAPES:
        raise TooLongError
    short = _STRING.sub(lambda match: match[0] if len(match[0]) < _LONG else b'""', body)
    if len(short) > MAX_BYTES:
        raise TooLongError
    try:
        return json.loads(short)
    except RecursionError:
        raise ValueError("nested too deeply") from None
