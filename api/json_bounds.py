"""Bound a JSON body before a parser sees it: pictures may be long, everything else may not.

A parser takes seconds, and much memory, for megabytes of brackets or keys; for megabytes of one
string it takes none.
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.types import Message, Receive

from api.errors import FieldProblem, InvalidRequest

MAX_BYTES = 64 * 2**10
"""Of everything in a body but its long strings."""

MAX_FIELDS = 100
_LONG = 2048
# Every quote that is reached begins a match, to the end of the body if nothing closes it, so that
# no byte is looked at twice.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z)', re.DOTALL)
# Each takes some 70 ns. Pictures whose slashes and line ends are escaped have 30,000 in a megabyte.
_MAX_ESCAPES = 2**20


def check_json(body: bytes) -> None:
    """Check that what a body says beside its long strings is small.

    Raises:
        InvalidRequest: it is not, has too many fields, or is not JSON at all.
    """
    # Every string has two quotes; beyond this many the rest is too long in any case.
    if body.count(b'"') > MAX_BYTES or body.count(b"\\") > _MAX_ESCAPES:
        raise _too_long()
    outline = _STRING.sub(lambda match: match[0] if len(match[0]) < _LONG else b'""', body)
    if len(outline) > MAX_BYTES:
        raise _too_long()
    try:
        content: Any = json.loads(outline)
    except (ValueError, RecursionError):
        raise InvalidRequest.of([FieldProblem("", "the body is not valid JSON")]) from None
    if isinstance(content, dict) and len(content) > MAX_FIELDS:
        raise InvalidRequest(f"body: {len(content)} fields, {MAX_FIELDS} are accepted")


async def bounded_json(receive: Receive) -> Receive:
    """Receive a JSON body and check it; returns a channel that gives it once more, in one piece.

    Raises:
        InvalidRequest: see `check_json`.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            # The caller has left in the middle.
            break
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = b"".join(parts)
    parts.clear()
    if body and message["type"] == "http.request":
        check_json(body)
    first: list[Message] = [message]
    if message["type"] == "http.request":
        first = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _too_long() -> InvalidRequest:
    return InvalidRequest(f"body: more than {MAX_BYTES // 2**10} kB beside the pictures")
