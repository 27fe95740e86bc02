"""Bound a JSON body before a parser sees it: pictures may be long, everything else may not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.types import Message, Receive

from api.errors import FieldProblem, InvalidRequest
from api.json_outline import MAX_BYTES, TooLongError, long_bytes, outline

MAX_FIELDS = 100
PICTURE_FIELDS = {"depth_map_b64", "image_b64"}
TOO_LONG = f"body: more than {MAX_BYTES // 2**10} kB beside the pictures"
_LARGE = 2**18


def check_json(body: bytes) -> None:
    """Check that what a body says beside its pictures is small.

    Raises:
        InvalidRequest: it is not, has too many fields, or is not JSON at all.
    """
    too_long = InvalidRequest(TOO_LONG)
    try:
        content = outline(body)
    except TooLongError:
        raise too_long from None
    except ValueError:
        raise InvalidRequest.of([FieldProblem("", "the body is not valid JSON")]) from None
    if sum(map(long_bytes, _beside_pictures(content))) > MAX_BYTES:
        raise too_long
    if isinstance(content, dict) and len(content) > MAX_FIELDS:
        raise InvalidRequest(f"body: {len(content)} fields, {MAX_FIELDS} are accepted")


def _beside_pictures(content: Any) -> Iterator[Any]:
    """Every key and value but those of the picture fields."""
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
    """Receives JSON bodies for an application that parses them on the event loop.

    Large ones are checked on a thread and handed over one by one, each in a turn of the loop of its
    own: what else waits for the loop waits for one of them at most.
    """

    def __init__(self) -> None:
        self._turns = asyncio.Lock()

    async def bounded(self, receive: Receive) -> Receive:
        """Receive a body and check it; returns a channel that gives it once more, in one piece.

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
        is_whole = message["type"] == "http.request"
        is_large = sum(map(len, parts)) > _LARGE
        body = b""
        if is_whole and is_large:
            async with self._turns:
                body = await asyncio.to_thread(_checked, parts)
        elif is_whole:
            body = _checked(parts)
        first: list[Message] = [message]
        if is_whole:
            first = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if not first:
                return await receive()
            if is_large:
                await self._turns.acquire()
                # Once what the application does with it now, without a pause, is done.
                asyncio.get_running_loop().call_soon(self._turns.release)
            return first.pop()

        return replay


def _checked(parts: list[bytes]) -> bytes:
    """The body that the parts make; they are taken out of their list."""
    body = b"".join(parts)
    parts.clear()
    if body:
        check_json(body)
    return body
