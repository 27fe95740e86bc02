"""The response type selected by the Accept header."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from api.http.media_types import preferred_image_type

OFFERED = {"image/jpeg", "image/png", "image/webp"}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", None),
        ("*/*", None),
        ("application/json, image/png", None),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/avif, image/webp, */*;q=0.8", "image/webp"),
        ("image/png;q=0", None),
        ("image/png;q=0, image/jpeg;q=0.1", "image/jpeg"),
        ("application/json;q=0.5, image/png;q=0.9", "image/png"),
        ("image/png;q=0.5, application/json", None),
        ("image/png;q=0.5, image/webp;q=0.7", "image/webp"),
        ("*/*;q=0.1, image/png; q=0.2", "image/png"),
        ("image/png;q=nan", None),
        ("image/png;q=many", None),
        ("text/html", None),
    ],
)
def test_the_preferred_type_is_chosen(accept: str, expected: str | None) -> None:
    headers = [(b"accept", accept.encode())] if accept else []
    request = Request({"type": "http", "headers": headers})
    assert preferred_image_type(request, OFFERED) == expected
