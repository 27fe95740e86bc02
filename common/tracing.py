"""OpenTelemetry tracing, enabled by its standard environment variables."""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracerProvider,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.settings import Settings

_PROPAGATOR = TraceContextTextMapPropagator()

# Not the global provider, because FastAPI would then trace every health check.
_provider: TracerProvider = NoOpTracerProvider()
_NANOSECONDS = 1e9


def configure_tracing(settings: Settings) -> None:
    """Export this process's spans if the settings name an exporter.

    OpenTelemetry itself reads the exporter's URL, headers and timeout, and the sampler's kind and
    ratio, from the environment.
    """
    global _provider
    exporter = settings.traces_exporter
    if exporter is None:
        return
    # Imported here, so that a start without tracing is faster.
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider as ExportingProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )

    resource = Resource.create({SERVICE_NAME: settings.otel_service_name})
    provider = ExportingProvider(resource=resource)
    if exporter == "console":
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _provider = provider


def tracer(name: str) -> Tracer:
    """Return a tracer, which records nothing if tracing is off."""
    return _provider.get_tracer(name)


def flush_traces() -> None:
    """Export the remaining spans before the process ends, and disable tracing."""
    global _provider
    provider, _provider = _provider, NoOpTracerProvider()
    if hasattr(provider, "shutdown"):
        provider.shutdown()


class RequestSpan:
    """Span of one HTTP request, a child of the caller's span if the headers name one.

    The context comes from the headers alone, because BentoML's own active span is not exported.
    """

    def __init__(self, headers: Mapping[str, str], route: str) -> None:
        parent = _PROPAGATOR.extract(headers, Context())
        self._span = tracer("experimance.api").start_span(
            "request", parent, SpanKind.SERVER, attributes={"http.route": route}
        )

    @property
    def traceparent(self) -> str:
        """W3C traceparent of the span; empty if it is not recorded."""
        if not self._span.is_recording():
            return ""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span, Context()))
        return carrier.get("traceparent", "")

    def end(self, attributes: Mapping[str, str], *, is_fault: bool) -> None:
        """End the span after the response; set the error status for faults of the service."""
        if self._span.is_recording():
            self._span.set_attributes(dict(attributes))
            if is_fault:
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class RequestSpans:
    """Spans of one request's phases, children of the span that `traceparent` names.

    A span is written when its phase ends, from its duration, so that no span is open while the
    engine works. An untraced request costs one comparison per phase.

    Args:
        traceparent: W3C traceparent of the parent span; empty without tracing.
        request_id: attribute of every span.
    """

    def __init__(self, traceparent: str, request_id: str) -> None:
        self._traceparent = traceparent
        self._request_id = request_id
        self._open: dict[str, tuple[int, int, int]] = {}

    def add(self, name: str, seconds: float, ended_ago: float = 0.0) -> None:
        """Write the span of a finished phase.

        Args:
            name: name of the phase.
            seconds: duration of the phase.
            ended_ago: seconds since the end of the phase.
        """
        if self._traceparent:
            end = time.time_ns() - int(ended_ago * _NANOSECONDS)
            self._write(name, end - int(seconds * _NANOSECONDS), end, 1)

    def accumulate(self, name: str, seconds: float) -> None:
        """Add one part of a phase with several parts; `close` writes them as one span."""
        if self._traceparent:
            now = time.time_ns()
            start, _, parts = self._open.get(name, (now - int(seconds * _NANOSECONDS), 0, 0))
            self._open[name] = start, now, parts + 1

    def close(self) -> None:
        """Write the accumulated phases at the end of the request."""
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
