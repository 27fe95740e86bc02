"""Bounds of JSON bodies, checked before parsing: only image fields may be long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.types import Message, Receive

from api.errors import FieldError, InvalidRequest
from api.http.json_outline import MAX_BYTES, TooLongError, long_bytes, outline

MAX_FIELDS = 100
PICTURE_FIELDS = {"depth_map_b64", "image_b64"}
TOO_LONG = f"body: more than {MAX_BYTES // 2**10} kB beside the pictures"
_LARGE = 2**18


def check_json(body: bytes) -> None:
    """Check that a body is small except for its image fields.

    Raises:
        InvalidRequest: the body is too long, has too many fields, or is not JSON.
    """
    too_long = InvalidRequest(TOO_LONG)
    try:
        content = outline(body)
    except TooLongError:
        raise too_long from None
    except ValueError:
        raise InvalidRequest.from_problems([FieldError("", "the body is not valid JSON")]) from None
    if sum(map(long_bytes, _iterate_small_values(content))) > MAX_BYTES:
        raise too_long
    if isinstance(content, dict) and len(content) > MAX_FIELDS:
        raise InvalidRequest(f"body: {len(content)} fields, {MAX_FIELDS} are accepted")


def _iterate_small_values(content: Any) -> Iterator[Any]:
    """Yield every key and value, except those of the image fields."""
    waiting = [content]
    if isinstance(content, dict):
        waiting = [value for name, value in content.items() if name not in PICTURE_FIELDS]
        yield from content
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


class JsonReader:
    """Reader of JSON bodies for an application that parses them on the event loop.

    Large bodies are checked on a thread and delivered one per iteration of the loop. Other tasks
    therefore wait for the parsing of one body at most.
    """

    def __init__(self) -> None:
        self._turns = asyncio.Lock()

    async def bounded(self, receive: Receive) -> Receive:
        """Receive and check a body; return a channel that replays it in one piece.

        Raises:
            InvalidRequest: as for `check_json`.
        """
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                # The client disconnected before the end of the body.
                break
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        is_whole = message["type"] == "http.request"
        is_large = sum(map(len, parts)) > _LARGE
        body = b""
        if is_whole and is_large:
            async with self._turns:
                body = await asyncio.to_thread(_join_and_check, parts)
        elif is_whole:
            body = _join_and_check(parts)
        first: list[Message] = [message]
        if is_whole:
            first = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if not first:
                return await receive()
            if is_large:
                await self._turns.acquire()
                # Runs after the application has parsed the body, which it does without awaiting.
                asyncio.get_running_loop().call_soon(self._turns.release)
            return first.pop()

        return replay


def _join_and_check(parts: list[bytes]) -> bytes:
    """Return the checked body; empty the list of its parts to save memory."""
    body = b"".join(parts)
    parts.clear()
    if body:
        check_json(body)
    return body
