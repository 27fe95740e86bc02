"""How one request for pictures ended, for metrics and traces."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TypeVar

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response

from api.errors import STATUSES, ApiError, Internal
from api.metrics import NO_MODEL, REQUEST_SECONDS, REQUESTS, SUCCESS
from api.tracing import RequestSpan

log = structlog.get_logger(__name__)

T = TypeVar("T")

ACCOUNTED_ROUTES = {"/generate", "/generate_stream", "/estimate_depth"}
_FAULTS = {code for status, codes in STATUSES.items() if status >= 500 for code in codes}


class Account:
    """Opened when a request arrives, told what becomes of it, closed when its answer is out.

    A request of which nothing was told has been left by its caller.
    """

    def __init__(self, headers: Headers, route: str) -> None:
        self._started = time.monotonic()
        self._model = NO_MODEL
        self._outcome = "cancelled"
        self._span = RequestSpan(headers, route)

    @property
    def traceparent(self) -> str:
        """For whoever does a part of the work; empty without tracing."""
        return self._span.traceparent

    def resolved(self, model: str) -> None:
        """The request's model, or the estimator of a photograph's depth, exists."""
        self._model = model

    def succeeded(self) -> None:
        """The pictures are there."""
        self._outcome = SUCCESS

    def failed(self, code: str) -> None:
        """It ends with an error of the wire contract."""
        self._outcome = code

    async def settle(self, work: Awaitable[T], request_id: str) -> T | Response:
        """What some work answers, or its error as an answer; the account learns which it was."""
        try:
            answer = await work
        except ApiError as error:
            log.info("refused", error=error.code, message=error.message)
            self.failed(error.code)
            return error.response(request_id)
        except Exception:
            log.exception("request failed")
            self.failed(Internal.code)
            return Internal().response(request_id)
        self.succeeded()
        return answer

    def close(self, request_id: str) -> None:
        """The answer is out."""
        REQUESTS.labels(self._outcome, self._model).inc()
        if self._outcome == SUCCESS:
            REQUEST_SECONDS.labels(self._model).observe(time.monotonic() - self._started)
        attributes = {"request_id": request_id, "model": self._model, "outcome": self._outcome}
        self._span.end(attributes, is_fault=self._outcome in _FAULTS)
