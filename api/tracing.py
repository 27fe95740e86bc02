"""OpenTelemetry, switched on by its own environment variables."""

from __future__ import annotations

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

from api.settings import Settings

_PROPAGATOR = TraceContextTextMapPropagator()

# Not OpenTelemetry's global one, through which FastAPI would trace every health check.
_provider: TracerProvider = NoOpTracerProvider()


def configure_tracing(settings: Settings) -> None:
    """Export this process's spans as the settings say; without them nothing is recorded.

    The exporter reads its address, headers and timeout from the environment itself, the sampler
    its kind and ratio.
    """
    global _provider
    exporter = settings.traces_exporter
    if exporter is None:
        return
    # Imported here: who does not trace does not wait for it.
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
    """Makes spans, or nothing where tracing is off."""
    return _provider.get_tracer(name)


def flush_traces() -> None:
    """Send what has not been sent, before the process ends."""
    if hasattr(_provider, "shutdown"):
        _provider.shutdown()


class RequestSpan:
    """The span of one HTTP request, beneath its caller's if the headers name one.

    BentoML always has a span of its own open, which it does not export; hence the contexts here
    are made from the headers alone.
    """

    def __init__(self, headers: Mapping[str, str], route: str) -> None:
        parent = _PROPAGATOR.extract(headers, Context())
        self._span = tracer("experimance.api").start_span(
            "request", parent, SpanKind.SERVER, attributes={"http.route": route}
        )

    @property
    def traceparent(self) -> str:
        """The span in W3C Trace Context's form; empty when it is not recorded."""
        if not self._span.is_recording():
            return ""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span, Context()))
        return carrier.get("traceparent", "")

    def end(self, attributes: Mapping[str, str], *, is_fault: bool) -> None:
        """The answer is out; a fault is the service's, not the caller's."""
        if self._span.is_recording():
            self._span.set_attributes(dict(attributes))
            if is_fault:
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
