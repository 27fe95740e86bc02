"""The runner's part of a request's trace."""

from __future__ import annotations

import time

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from api.tracing import tracer

_NANOSECONDS = 1e9


class RequestSpans:
    """Spans of one request, beneath the span that its caller names.

    A phase is written down when it is over, from how long it took: nothing is open while the
    engine works, and a request whose caller is not traced costs one comparison per phase.

    Args:
        traceparent: the caller's span as W3C Trace Context has it; empty when it is not traced.
        request_id: an attribute of every span.
    """

    def __init__(self, traceparent: str, request_id: str) -> None:
        self._traceparent = traceparent
        self._request_id = request_id
        self._open: dict[str, tuple[int, int, int]] = {}

    def add(self, name: str, seconds: float, ended_ago: float = 0.0) -> None:
        """A phase that took so many seconds and ended just now, or `ended_ago` seconds ago."""
        if self._traceparent:
            end = time.time_ns() - int(ended_ago * _NANOSECONDS)
            self._write(name, end - int(seconds * _NANOSECONDS), end, 1)

    def extend(self, name: str, seconds: float) -> None:
        """A part of a phase that has many; `close` writes them as one span."""
        if self._traceparent:
            now = time.time_ns()
            start, _, parts = self._open.get(name, (now - int(seconds * _NANOSECONDS), 0, 0))
            self._open[name] = start, now, parts + 1

    def close(self) -> None:
        """The request has ended: write what was extended."""
        while self._open:
            name, (start, end, parts) = self._open.popitem()
            self._write(name, start, end, parts)

    def _write(self, name: str, start: int, end: int, parts: int) -> None:
        carrier = {"traceparent": self._traceparent}
        parent = TraceContextTextMapPropagator().extract(carrier, Context())
        attributes: dict[str, str | int] = {"request_id": self._request_id, "parts": parts}
        span = tracer("experimance.runner").start_span(
            name, parent, start_time=start, attributes=attributes
        )
        span.end(end)
