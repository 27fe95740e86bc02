"""Bound a JSON body before a parser sees it: pictures may be long, everything else may not."""

from __future__ import annotations

from starlette.types import Message, Receive

from api.errors import FieldProblem, InvalidRequest
from api.json_outline import MAX_BYTES, TooLongError, outline

MAX_FIELDS = 100


def check_json(body: bytes) -> None:
    """Check that what a body says beside its long strings is small.

    Raises:
        InvalidRequest: it is not, has too many fields, or is not JSON at all.
    """
    try:
        content = outline(body)
    except TooLongError:
        raise InvalidRequest(
            f"body: more than {MAX_BYTES // 2**10} kB beside the pictures"
        ) from None
    except ValueError:
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
