"""What every HTTP request passes: an id, access, limits, and one error body."""

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

from api.access import Access
from api.account import ACCOUNTED_ROUTES, Account
from api.body_budget import BodyBudget, Holding
from api.browsers import CrossOrigin, Sites
from api.errors import (
    ApiError,
    FieldProblem,
    Internal,
    InvalidRequest,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    from_status,
)
from api.forms import FORM, form_as_json
from api.json_bounds import JsonReader
from api.requests import REQUEST_ID
from api.rest import Rest
from api.settings import load_settings

log = structlog.get_logger(__name__)

MAX_BODY = 32 * 2**20
_READINESS = "/readyz"
_READINESS_SECONDS = 1.0
_MAX_HEADERS = 100
_BODY_SECONDS = 60.0
_MEDIA_TYPES = {"application/json", FORM}

_current: ContextVar[Request] = ContextVar("request")


class ContractMiddleware:
    """Keeps the wire contract for every route, BentoML's own and unknown ones included.

    It gives each request an id (its `X-Request-Id` if well-formed), refuses what exceeds the
    limits or lacks the token before anything reads it, and turns every error that is not in the
    contract's form into that form.
    """

    def __init__(self, app: ASGIApp) -> None:
        settings = load_settings()
        self._app = app
        self._access = Access(settings)
        self._sites = Sites(settings)
        self._outermost = CrossOrigin(self._handle, self._sites)
        self._rest = Rest()
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
        given = headers.get("x-request-id", "")
        request_id = given if re.fullmatch(REQUEST_ID, given) else uuid.uuid4().hex
        limited = _Limited(receive, self._budget)
        request = Request(scope, limited)
        request.state.id = request_id
        request.state.error = None
        request.state.owner = self._access.owner(headers)
        request.state.manages = self._access.manages(headers)
        counts = scope["path"] in ACCOUNTED_ROUTES and scope["method"] == "POST"
        request.state.account = Account(headers, scope["path"]) if counts else None
        _current.set(request)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _Answer(send, request)
        with limited:
            if not counts:
                await self._answer(scope, limited, answer, headers)
                return
            with self._rest:
                try:
                    await self._answer(scope, limited, answer, headers)
                finally:
                    request.state.account.close(request.state.id)

    async def _answer(
        self, scope: Scope, limited: _Limited, answer: _Answer, headers: Headers
    ) -> None:
        request = current_request()
        receive: Receive = limited
        try:
            media_type = self._check(scope, headers)
            limited.expect(headers)
            if media_type == FORM:
                scope, receive = await form_as_json(scope, receive, MAX_BODY)
            if media_type and scope["method"] == "POST":
                receive = await self._json.bounded(receive)
            # BentoML waits for a runner that is being started; who asks wants to know now.
            patience = _READINESS_SECONDS if scope["path"] == _READINESS else None
            async with asyncio.timeout(patience):
                await self._app(scope, receive, answer)
        except ApiError as error:
            request.state.error = error
            if isinstance(error, Overloaded):
                await limited.discard()
        except Exception:
            if scope["path"] == _READINESS and not answer.started:
                # BentoML asks the runner, which cannot answer while it imports, or after a crash.
                silent = "the runner does not answer yet"
                request.state.error = Unavailable(silent, retry_after=_READINESS_SECONDS)
                await answer.refuse(scope, receive)
                return
            log.exception("request failed", path=scope["path"])
            if answer.started:
                # Too late for an error body; the server closes the connection, which tells.
                raise
            request.state.error = Internal()
        if not answer.started:
            await answer.refuse(scope, receive)

    def _check(self, scope: Scope, headers: Headers) -> str:
        """Refuse what is not to be read, or give its media type."""
        self._sites.check(scope["method"], scope["path"], headers)
        if scope["method"] == "OPTIONS":
            return ""
        if len(headers.raw) > _MAX_HEADERS:
            raise InvalidRequest(f"headers: more than the limit of {_MAX_HEADERS}")
        if not self._access.allows(scope["path"], headers):
            raise Unauthorized("a bearer token is needed in the Authorization header")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise TooLarge(f"body: {length} bytes exceed the limit of 32 MiB")
        has_body = length != "0" or "transfer-encoding" in headers
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if (has_body or media_type) and media_type not in _MEDIA_TYPES:
            raise UnsupportedMediaType(
                "Content-Type: application/json or multipart/form-data is accepted"
            )
        return media_type


class _Limited:
    """Counts the received body, whatever its length header says, and how long it takes.

    Its bytes count in the budget until the context is left: what reads them keeps them.
    """

    def __init__(self, receive: Receive, budget: BodyBudget) -> None:
        self._receive = receive
        self._budget = budget
        self._holding: Holding | None = None
        self._received = 0
        self._complete = False
        self._deadline = asyncio.get_running_loop().time() + _BODY_SECONDS

    def __enter__(self) -> _Limited:
        return self

    def __exit__(self, *_: object) -> None:
        if self._holding is not None:
            self._holding.close()

    def expect(self, headers: Headers) -> None:
        """Take room for the body that the headers announce; raises Overloaded."""
        length = headers.get("content-length")
        known = int(length) if length is not None and length.isdecimal() else None
        self._holding = self._budget.open(known)

    async def discard(self) -> None:
        """Receive the rest of a refused body and keep none of it.

        Who is still sending when the connection is closed never reads the answer.
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
            # What comes now is that the caller has left, whenever that is.
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            late = f"body: not complete within {_BODY_SECONDS:.0f} s"
            raise stashed(InvalidRequest(late)) from None
        self._complete = not message.get("more_body", False)
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > MAX_BODY:
                raise stashed(TooLarge("body: more than the limit of 32 MiB"))
            if self._holding is not None:
                try:
                    self._holding.grow(self._received)
                except Overloaded as error:
                    raise stashed(error) from None
        return message


class _Answer:
    """Passes good responses on as they come; holds errors back to give them the one body."""

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

    async def refuse(self, scope: Scope, receive: Receive) -> None:
        """Send the error that was raised, or the one held back, in the contract's form."""
        error = self._request.state.error
        if error is None:
            error = _in_contract_form(self._status, self._body or b"")
        if self._request.state.account is not None:
            self._request.state.account.failed(error.code)
        if isinstance(error, Internal):
            log.error("internal error answered", path=scope["path"], status=self._status)
        await error.response(self._request.state.id)(scope, receive, self._send)


def current_request() -> Request:
    """The HTTP request that is being answered; its `state.id` is the request id."""
    return _current.get()


def stashed(error: ApiError) -> ApiError:
    """Keep an error for the middleware where BentoML would make another of it; returns it."""
    current_request().state.error = error
    return error


def _in_contract_form(status: int, body: bytes) -> ApiError:
    """The contract's error for a status and a body of BentoML's, FastAPI's or Starlette's."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        content = None
    problems = content.get("detail") if isinstance(content, dict) else None
    if status in {400, 422} and isinstance(problems, list):
        return InvalidRequest.of([_problem(item) for item in problems if isinstance(item, dict)])
    return from_status(status)


def _problem(item: dict[str, Any]) -> FieldProblem:
    """One entry of pydantic's error list."""
    kind = item.get("type", "")
    field = ".".join(str(part) for part in item.get("loc", ()) if not _internal(part))
    message = str(item.get("msg", "not valid")).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message = "unknown field"
    elif kind == "json_invalid":
        field, message = "", "the body is not valid JSON"
    elif kind == "missing":
        message = "required"
    elif not field and ": " in message:
        field, _, message = message.partition(": ")
    return FieldProblem(field, message)


def _internal(part: object) -> bool:
    """Parts of a location that name pydantic's types, not fields of ours."""
    return isinstance(part, str) and ("[" in part or part in {"int", "float", "str", "bool"})
