"""Metrics and traces of generation and depth estimation requests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from api.errors import CODES_BY_STATUS, ApiError, Internal
from common.metrics_files import keep_metrics_files_bounded
from common.tracing import RequestSpan

log = structlog.get_logger(__name__)

T = TypeVar("T")

ACCOUNTED_ROUTES = {"/generate", "/generate_stream", "/estimate_depth"}
_FAULTS = {code for status, codes in CODES_BY_STATUS.items() if status >= 500 for code in codes}
SUCCESS = "success"
NO_MODEL = "none"
"""Label of requests that ended before their model was resolved."""
_REQUEST_SECONDS = (
    0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 60.0, 120.0,
)  # fmt: skip
REQUESTS = Counter(
    "experimance_requests",
    "Generation and depth requests by outcome: success or an error code",
    ["outcome", "model"],
)
REQUEST_SECONDS = Histogram(
    "experimance_request_seconds",
    "Seconds from arrival to the last byte of successful responses",
    ["model"],
    buckets=_REQUEST_SECONDS,
)
RUNNER_LOST = Counter(
    "experimance_runner_lost", "Calls that failed because the runner ended or did not answer"
)
RUNNER_RESTARTS = Counter(
    "experimance_runner_restarts",
    "Runner restarts, detected by a later start time of its process",
)


class RequestRecorder:
    """Recorder of one request's outcome, from its arrival to the end of its response.

    Without a recorded outcome, the request counts as cancelled.
    """

    def __init__(self, headers: Headers, route: str) -> None:
        self._started = time.monotonic()
        self._model = NO_MODEL
        self._outcome = "cancelled"
        self._span = RequestSpan(headers, route)

    @property
    def traceparent(self) -> str:
        """W3C traceparent of the request's span; empty without tracing."""
        return self._span.traceparent

    def set_model(self, model: str) -> None:
        """Set the label `model`: the variant or the depth estimator of the request."""
        self._model = model

    def mark_success(self) -> None:
        """Record success as the outcome."""
        self._outcome = SUCCESS

    def mark_failure(self, code: str) -> None:
        """Record an error code of the wire contract as the outcome."""
        self._outcome = code

    async def run_and_record(self, work: Awaitable[T], http: Request) -> T | Response:
        """Record the outcome of some work; return its result, or its error as a response.

        Args:
            work: the work, which sets the request's id.
            http: the HTTP request; its `state.error` is set to the error.
        """
        try:
            answer = await work
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("request failed")
            http.state.error = error if isinstance(error, ApiError) else Internal()
            self.mark_failure(http.state.error.code)
            return http.state.error.response(http.state.id)
        self.mark_success()
        return answer

    def close(self, request_id: str) -> None:
        """Count the request and end its span, after the response is sent."""
        REQUESTS.labels(self._outcome, self._model).inc()
        if self._outcome == SUCCESS:
            REQUEST_SECONDS.labels(self._model).observe(time.monotonic() - self._started)
        attributes = {"request_id": request_id, "model": self._model, "outcome": self._outcome}
        self._span.end(attributes, is_fault=self._outcome in _FAULTS)


keep_metrics_files_bounded()


def initialize_labels(models: Iterable[str]) -> None:
    """Export 0 for every outcome and model, so that Prometheus sees each first increment."""
    outcomes = [SUCCESS, *(code for codes in CODES_BY_STATUS.values() for code in codes)]
    names = tuple(models)
    for model in names:
        REQUEST_SECONDS.labels(model)
    for model in (*names, NO_MODEL):
        for outcome in outcomes:
            REQUESTS.labels(outcome, model)
