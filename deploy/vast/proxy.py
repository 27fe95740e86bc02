"""Request and response handling of the serverless worker, between a caller and the service.

The platform's package forwards the payload alone. This module also forwards the Accept header and
the request id, and adds the service's token. Responses pass unchanged, except that errors which
would occur on every worker get a status that the platform's client does not retry.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import (
    ClientHandlerType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    TCPConnector,
    web,
)
from vastai.serverless.server.lib.data_types import AuthData, JsonDataException
from yarl import URL

from api.http.json_outline import MAX_BYTES, TooLongError, outline

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LARGEST_BODY = 33 * 2**20
"""Bytes: the service's own limit plus a margin for the platform's envelope."""

_FORWARDED = ("Accept", "X-Request-Id")
_RETURNED = ("Content-Type", "Retry-After", "Cache-Control")
# The platform's client retries every 5xx without limit. These errors would occur on every worker.
_DETERMINISTIC = frozenset({"internal", "out_of_memory", "deadline_exceeded"})
_SERVER_ERROR = 500

_caller: ContextVar[dict[str, str]] = ContextVar("caller")


def wrap_handler(handler: Handler, is_signed: Callable[[AuthData], bool]) -> Handler:
    """Wrap a handler of the platform's package to accept only signed requests of bounded size.

    The package itself would parse a body of any size before it checks the signature.

    Args:
        handler: the package's handler.
        is_signed: whether the router signed a request's authentication data.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        kept = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        _caller.set(kept)
        bounded = request.clone(client_max_size=LARGEST_BODY)
        if (length := bounded.content_length or 0) > LARGEST_BODY:
            raise web.HTTPRequestEntityTooLarge(LARGEST_BODY, length)
        try:
            envelope = outline(await bounded.read())
            auth = AuthData.from_json_msg(envelope["auth_data"])
        except TooLongError:
            return _error(422, f"more than {MAX_BYTES // 2**10} kB beside the pictures")
        except (JsonDataException, ValueError, KeyError, TypeError):
            return _error(422, "JSON with auth_data and payload is needed")
        if not _is_well_formed(auth) or not is_signed(auth):
            return _error(401, "not signed by the router")
        return await handler(bounded)

    return handle


def _is_well_formed(auth: AuthData) -> bool:
    # An outline replaces long texts by placeholders, which cannot be a signature.
    texts = isinstance(auth.url, str) and isinstance(auth.signature, str)
    return texts and type(auth.reqnum) is int and type(auth.request_idx) is int


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


def extract_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the service's part of a payload; set the Accept header from the key `accept`.

    The platform's client cannot send that header.
    """
    body = dict(payload)
    accept = body.pop("accept", None)
    if isinstance(accept, str) and accept.isascii() and accept.isprintable():
        _caller.set({**_caller.get({}), "Accept": accept})
    return body


async def not_found(_: web.Request) -> web.Response:
    """Return 404 without reading the body.

    The package's own routes create sessions for anybody, call an arbitrary address at a session's
    end, read bodies of any size, and mark the worker for an update that this image does not
    perform.
    """
    return _error(404, "not_found")


def service_session(url: str, token: str | None) -> ClientSession:
    """Return the HTTP session from the worker to the service.

    Args:
        url: base URL of the service, e.g. http://127.0.0.1:5001.
        token: one of the service's bearer tokens, if it requires one; sent to `url` alone.
    """
    service = URL(url).origin()

    async def dress(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        request.headers.update(_caller.get({}))
        if token is not None and request.url.origin() == service:
            request.headers["Authorization"] = f"Bearer {token}"
        return await handler(request)

    # Like the package's own session: the duration of a request is unbounded.
    return ClientSession(
        url,
        timeout=ClientTimeout(total=None),
        connector=TCPConnector(force_close=True),
        middlewares=(dress,),
    )


async def forward_response(request: web.Request, served: ClientResponse) -> web.StreamResponse:
    """Return the service's response to the caller: an image, JSON, or an event stream."""
    async with served:
        headers = {
            name: value
            for name, value in served.headers.items()
            if name in _RETURNED or name.lower().startswith("x-")
        }
        if served.content_type == "text/event-stream":
            stream = web.StreamResponse(status=served.status, headers=headers)
            await stream.prepare(request)
            async for piece in served.content.iter_any():
                await stream.write(piece)
            await stream.write_eof()
            return stream
        body = await served.read()
        return web.Response(body=body, status=_status(served.status, body), headers=headers)


def _status(status: int, body: bytes) -> int:
    if status < _SERVER_ERROR:
        return status
    try:
        error = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        return status
    return 422 if error in _DETERMINISTIC else status
