"""Media types of requests and responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from api.errors import InvalidRequest
from api.http.json_bounds import PICTURE_FIELDS, TOO_LONG
from api.http.json_outline import MAX_BYTES

_JSON_OR_ANYTHING = {"application/json", "*/*"}
FORM = "multipart/form-data"
_JSON = "application/json"
_MAX_PARTS = 64


def preferred_image_type(http: Request, offered: Collection[str]) -> str | None:
    """Return the offered image type that the Accept header prefers, or None for JSON.

    The highest quality value wins, the first of equal ones; a type of quality 0 is refused
    (RFC 9110, section 12.5.1).

    Args:
        http: the request.
        offered: media types in lower case, e.g. `image/png`.
    """
    items = [_quality(item) for item in http.headers.get("accept", "").split(",")]
    for media_type, quality in sorted(items, key=lambda item: -item[1]):
        if quality > 0 and media_type in offered:
            return media_type
        if quality > 0 and media_type in _JSON_OR_ANYTHING:
            return None
    return None


def _quality(item: str) -> tuple[str, float]:
    """The media type of an item of an Accept header, and its quality from 0 to 1."""
    media_type, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_type, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return media_type, 0.0
    return media_type, 1.0


async def multipart_to_json(scope: Scope, receive: Receive, max_part: int) -> tuple[Scope, Receive]:
    """Convert a form request to the same request with a flat JSON object.

    A value that is valid JSON is parsed, any other is text. A file counts as its content. The
    media types of the parts are ignored.

    Args:
        scope: scope of a request whose media type is `FORM`.
        receive: channel of its body.
        max_part: maximum bytes of one part.

    Raises:
        InvalidRequest: the body is not a form, has too many parts, a part that is not text, or
            more than 64 KiB without the image fields.
    """
    contents = await _read_form(Request(scope, receive), max_part)
    if sum(len(part) for name, part in contents.items() if name not in PICTURE_FIELDS) > MAX_BYTES:
        raise InvalidRequest(TOO_LONG)
    body = await asyncio.to_thread(_to_json, contents)
    headers = MutableHeaders(raw=list(scope["headers"]))
    headers["content-type"] = _JSON
    headers["content-length"] = str(len(body))
    del headers["transfer-encoding"]
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return {**scope, "headers": headers.raw}, replay


async def _read_form(request: Request, max_part: int) -> dict[str, bytes]:
    try:
        async with request.form(
            max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=max_part
        ) as form:
            return {name: await _read_part(part) for name, part in form.items()}
    except (MultiPartException, HTTPException, KeyError, ValueError):
        raise InvalidRequest(f"body: not a form of at most {_MAX_PARTS} parts") from None


async def _read_part(part: UploadFile | str) -> bytes:
    return part.encode() if isinstance(part, str) else await part.read()


def _to_json(contents: Mapping[str, bytes]) -> bytes:
    """Return a JSON object; building it in pieces lets the event loop's thread run between."""
    pieces = (
        f"{json.dumps(name)}: {json.dumps(_parse_value(name, content))}".encode()
        for name, content in contents.items()
    )
    return b"{" + b", ".join(pieces) + b"}"


def _parse_value(name: str, content: bytes) -> Any:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest.for_field(name, "must be text") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
