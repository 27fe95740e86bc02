"""Middleware for every HTTP request: id, access, limits and error bodies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from contextvars import ContextVar
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import (
    ApiError,
    FieldError,
    Internal,
    InvalidRequest,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    from_status,
)
from api.http.access_log import AccessLog
from api.http.auth import Access
from api.http.body_budget import SMALL_BODY, BodyBudget, Holding
from api.http.json_bounds import JsonReader
from api.http.media_types import FORM, multipart_to_json
from api.http.origins import CrossOrigin, Sites
from api.request_metrics import ACCOUNTED_ROUTES, RequestRecorder
from api.schemas.known_fields import describe_unknown_field
from api.schemas.requests import REQUEST_ID
from common.limits import MAX_BODY_BYTES
from common.process_memory import IdleHeapTrimmer
from common.settings import load_settings

log = structlog.get_logger(__name__)

BODY_SECONDS = 60.0
"""Time within which a body must be complete."""

_READINESS = "/readyz"
_READINESS_SECONDS = 1.0
_SMALL_BODY_SECONDS = 1.0
_MAX_HEADERS = 100
_MEDIA_TYPES = {"application/json", FORM}

_current: ContextVar[Request] = ContextVar("request")


class ApiMiddleware:
    """Middleware that enforces the wire contract on every route, including BentoML's own.

    Each request gets an id, its `X-Request-Id` if well-formed. A request beyond the limits or
    without its token is rejected before anything reads its body. Errors in other forms are
    converted to the error body of the contract.
    """

    def __init__(self, app: ASGIApp) -> None:
        settings = load_settings()
        self._app = app
        self._access = Access(settings)
        self._sites = Sites(settings)
        self._outermost = AccessLog(CrossOrigin(self._handle, self._sites))
        self._heap_trimmer = IdleHeapTrimmer()
        self._budget = BodyBudget()
        self._json = JsonReader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; other protocols pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._outermost(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        sent_id = headers.get("x-request-id", "")
        request_id = sent_id if re.fullmatch(REQUEST_ID, sent_id) else uuid.uuid4().hex
        limited = _BodyLimiter(receive, self._budget)
        request = Request(scope, limited)
        request.state.id = request_id
        request.state.error = None
        request.state.owner = self._access.owner(headers)
        request.state.is_admin = self._access.is_admin(headers)
        is_recorded = scope["path"] in ACCOUNTED_ROUTES and scope["method"] == "POST"
        request.state.account = RequestRecorder(headers, scope["path"]) if is_recorded else None
        _current.set(request)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _ErrorRewriter(send, request)
        with limited:
            if not is_recorded:
                await self._answer(scope, limited, answer, headers)
                return
            with self._heap_trimmer:
                try:
                    await self._answer(scope, limited, answer, headers)
                finally:
                    request.state.account.close(request.state.id)

    async def _answer(
        self, scope: Scope, limited: _BodyLimiter, answer: _ErrorRewriter, headers: Headers
    ) -> None:
        request = current_request()
        receive: Receive = limited
        try:
            media_type = self._check(scope, headers)
            limited.expect(headers)
            if media_type == FORM:
                scope, receive = await multipart_to_json(scope, receive, MAX_BODY_BYTES)
            if media_type and scope["method"] == "POST":
                receive = await self._json.bounded(receive)
            # BentoML waits for a starting runner, but a probe needs an immediate result.
            timeout = _READINESS_SECONDS if scope["path"] == _READINESS else None
            async with asyncio.timeout(timeout):
                await self._app(scope, receive, answer)
        except ApiError as error:
            request.state.error = error
            if isinstance(error, Overloaded):
                await limited.discard()
            elif limited.announces_small_body(headers):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SMALL_BODY_SECONDS):
                        await limited.discard()
        except Exception:
            if scope["path"] == _READINESS and not answer.started:
                # BentoML polls the runner, which cannot respond during imports or after a crash.
                message = "the runner does not respond yet"
                request.state.error = Unavailable(message, retry_after=_READINESS_SECONDS)
                await answer.send_error(scope, receive)
                return
            log.exception("request failed", path=scope["path"])
            if answer.started:
                # Too late for an error body; the server closes the connection instead.
                raise
            request.state.error = Internal()
        if not answer.started:
            await answer.send_error(scope, receive)

    def _check(self, scope: Scope, headers: Headers) -> str:
        """Check a request before its body is read; return its media type.

        Raises:
            ApiError: the origin, the headers, the token, the length or the type is not accepted.
        """
        self._sites.check(scope["method"], scope["path"], headers)
        if scope["method"] == "OPTIONS":
            return ""
        if len(headers.raw) > _MAX_HEADERS:
            raise InvalidRequest(f"headers: more than the limit of {_MAX_HEADERS}")
        if not self._access.allows(scope["path"], headers):
            raise Unauthorized("a bearer token is needed in the Authorization header")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            raise TooLarge(f"body: {length} bytes exceed the limit of 32 MiB")
        has_body = length != "0" or "transfer-encoding" in headers
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if (has_body or media_type) and media_type not in _MEDIA_TYPES:
            raise UnsupportedMediaType(
                "Content-Type: application/json or multipart/form-data is accepted"
            )
        return media_type


class _BodyLimiter:
    """Receive channel that limits the size and the duration of a body.

    The received bytes count, not the Content-Length. They count in the budget until the context
    exits, because their reader keeps them in memory.
    """

    def __init__(self, receive: Receive, budget: BodyBudget) -> None:
        self._receive = receive
        self._budget = budget
        self._holding: Holding | None = None
        self._received = 0
        self._complete = False
        self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS

    def __enter__(self) -> _BodyLimiter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._holding is not None:
            self._holding.close()

    def expect(self, headers: Headers) -> None:
        """Reserve room for the body that the headers announce.

        Raises:
            Overloaded: the budget has no room.
        """
        length = headers.get("content-length")
        known = int(length) if length is not None and length.isdecimal() else None
        self._holding = self._budget.open(known)

    def announces_small_body(self, headers: Headers) -> bool:
        """Return whether the rest of a body is at most `SMALL_BODY` bytes, and was not received."""
        length = headers.get("content-length", "0")
        return not self._complete and length.isdecimal() and 0 < int(length) <= SMALL_BODY

    async def discard(self) -> None:
        """Receive and discard the rest of a rejected body.

        A client that is still sending when the connection closes never reads the response.
        """
        if self._holding is not None:
            self._holding.close()
            self._holding = None
        with contextlib.suppress(ApiError):
            while not self._complete:
                message = await self()
                await self._budget.pace(len(message.get("body", b"")))

    async def __call__(self) -> Message:
        if self._complete:
            # The only remaining message is the disconnect of the client.
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            message_text = f"body: not complete within {BODY_SECONDS:.0f} s"
            raise defer_error(InvalidRequest(message_text)) from None
        self._complete = not message.get("more_body", False)
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > MAX_BODY_BYTES:
                raise defer_error(TooLarge("body: more than the limit of 32 MiB"))
            if self._holding is not None:
                try:
                    self._holding.grow(self._received)
                except Overloaded as error:
                    raise defer_error(error) from None
        return message


class _ErrorRewriter:
    """Send channel that forwards good responses and holds errors back for the contract's body."""

    def __init__(self, send: Send, request: Request) -> None:
        self.started = False
        self._send = send
        self._request = request
        self._status = 500
        self._body: bytes | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            if message["status"] >= 400 and "x-request-id" not in headers:
                self._status, self._body = message["status"], b""
                return
            headers.setdefault("X-Request-Id", self._request.state.id)
            message["headers"] = headers.raw
            self.started = True
        if self._body is not None:
            self._body += message.get("body", b"")
            return
        await self._send(message)

    async def send_error(self, scope: Scope, receive: Receive) -> None:
        """Send the raised error, or the one held back, in the contract's form."""
        error = self._request.state.error
        if error is None:
            error = self._request.state.error = _to_api_error(self._status, self._body or b"")
        if self._request.state.account is not None:
            self._request.state.account.mark_failure(error.code)
        if isinstance(error, Internal):
            log.error("internal error answered", path=scope["path"], status=self._status)
        await error.response(self._request.state.id)(scope, receive, self._send)


def current_request() -> Request:
    """Return the current HTTP request; its `state.id` is the request id."""
    return _current.get()


def defer_error(error: ApiError) -> ApiError:
    """Store an error for the middleware, because BentoML would replace it; return it."""
    current_request().state.error = error
    return error


def _to_api_error(status: int, body: bytes) -> ApiError:
    """Return the contract's error for an error response of BentoML, FastAPI or Starlette."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        content = None
    problems = content.get("detail") if isinstance(content, dict) else None
    if status in {400, 422} and isinstance(problems, list):
        return InvalidRequest.from_problems(
            [_to_field_error(item) for item in problems if isinstance(item, dict)]
        )
    return from_status(status)


def _to_field_error(item: dict[str, Any]) -> FieldError:
    """Convert one entry of pydantic's error list."""
    kind = item.get("type", "")
    field = ".".join(str(part) for part in item.get("loc", ()) if not _is_internal(part))
    message = str(item.get("msg", "not valid")).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message = describe_unknown_field(field.rpartition(".")[2])
    elif kind == "json_invalid":
        field, message = "", "the body is not valid JSON"
    elif kind == "missing":
        message = "required"
    elif not field and ": " in message:
        field, _, message = message.partition(": ")
    return FieldError(field, message)


def _is_internal(part: object) -> bool:
    """Return whether a part of a location names a pydantic type, not a request field."""
    return isinstance(part, str) and ("[" in part or part in {"int", "float", "str", "bool"})
