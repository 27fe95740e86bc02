"""What a caller accepts as an answer."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

_JSON_OR_ANYTHING = {"application/json", "*/*"}


def accepted_picture(http: Request, offered: Collection[str]) -> str | None:
    """The first of the offered types that the Accept header names before JSON or anything."""
    for item in http.headers.get("accept", "").split(","):
        media_type = item.partition(";")[0].strip().lower()
        if media_type in offered:
            return media_type
        if media_type in _JSON_OR_ANYTHING:
            return None
    return None
