"""Forms as JSON: the one kind of body that BentoML is given to read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from api.errors import InvalidRequest
from api.json_bounds import PICTURE_FIELDS, TOO_LONG
from api.json_outline import MAX_BYTES

FORM = "multipart/form-data"
_JSON = "application/json"
_MAX_PARTS = 64


async def form_as_json(scope: Scope, receive: Receive, max_part: int) -> tuple[Scope, Receive]:
    """The same request with its form as a flat JSON object.

    A value that is JSON is taken as that, any other as text; a file counts as its content. Types
    that parts give themselves are not looked at.

    Args:
        scope: of a request whose media type is `FORM`.
        receive: where its body comes from.
        max_part: bytes of one part.

    Raises:
        InvalidRequest: no form, too many parts, a part that is not text, or more than 64 kB beside
            the pictures.
    """
    contents = await _contents(Request(scope, receive), max_part)
    if sum(len(part) for name, part in contents.items() if name not in PICTURE_FIELDS) > MAX_BYTES:
        raise InvalidRequest(TOO_LONG)
    body = await asyncio.to_thread(_as_json, contents)
    headers = MutableHeaders(raw=list(scope["headers"]))
    headers["content-type"] = _JSON
    headers["content-length"] = str(len(body))
    del headers["transfer-encoding"]
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return {**scope, "headers": headers.raw}, replay


async def _contents(request: Request, max_part: int) -> dict[str, bytes]:
    try:
        async with request.form(
            max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=max_part
        ) as form:
            return {name: await _content(part) for name, part in form.items()}
    except (MultiPartException, HTTPException, KeyError, ValueError):
        raise InvalidRequest(f"body: not a form of at most {_MAX_PARTS} parts") from None


async def _content(part: UploadFile | str) -> bytes:
    return part.encode() if isinstance(part, str) else await part.read()


def _as_json(contents: Mapping[str, bytes]) -> bytes:
    """One object; made in pieces, between which the loop's thread has its turn."""
    pieces = (
        f"{json.dumps(name)}: {json.dumps(_value(name, content))}".encode()
        for name, content in contents.items()
    )
    return b"{" + b", ".join(pieces) + b"}"


def _value(name: str, content: bytes) -> Any:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest.field(name, "must be text") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
