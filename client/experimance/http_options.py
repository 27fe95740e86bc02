"""Base URL and headers shared by all requests."""

from __future__ import annotations

from typing import Any

import httpx2

from experimance.errors import InvalidInput
from experimance.version import __version__

DEFAULT_URL = "http://127.0.0.1:3000"


def options(url: str, token: str | None) -> dict[str, Any]:
    """Return the arguments of a synchronous or asynchronous HTTP client.

    Raises:
        InvalidInput: The URL is invalid, or the token is not a valid header value.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InvalidInput(f"url: {url!r}: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InvalidInput(f"url: {url!r} is not http(s)://HOST[:PORT], e.g. {DEFAULT_URL}")
    headers = {"User-Agent": f"experimance-client/{__version__}"}
    if token is not None:
        if not token.isascii() or not token.isprintable() or not token.strip():
            raise InvalidInput("token: must be printable ASCII characters")
        headers["Authorization"] = f"Bearer {token.strip()}"
    return {"base_url": parsed, "headers": headers}
