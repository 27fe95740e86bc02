"""Spans of one process: creation, parents, and none when tracing is off."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common.protocol import CancelCommand
from common.settings import SettingsError, load_settings
from common.tracing import (
    RequestSpan,
    RequestSpans,
    configure_tracing,
    flush_traces,
    tracer,
)
from runners.engine.engine import Engine
from testing.workbench import Listener, make_engine
from tests.support.runner.jobs import TickingClock, drain, finish, job, pictures

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
NOT_SAMPLED = CALLER[:-2] + "00"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Takes every span of this process's tracers while the test lasts."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("common.tracing.tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def parent_id(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def test_request_span_is_child_of_caller_and_parent_of_work(
    spans: InMemorySpanExporter,
) -> None:
    request = RequestSpan({"traceparent": CALLER}, "/generate")
    work = RequestSpans(request.traceparent, "r")
    work.add("queue", 0.25)
    request.end({"request_id": "r", "outcome": "internal"}, is_fault=True)
    queue, whole = spans.get_finished_spans()
    assert parent_id(whole) == "cd" * 8
    assert f"{whole.context.trace_id:032x}" == f"{queue.context.trace_id:032x}" == "ab" * 16
    assert parent_id(queue) == f"{whole.context.span_id:016x}"
    assert not whole.status.is_ok
    assert seconds(queue) == pytest.approx(0.25, abs=1e-6)
    assert dict(queue.attributes or {})["request_id"] == "r"


def test_a_request_without_a_caller_begins_a_trace(spans: InMemorySpanExporter) -> None:
    request = RequestSpan({}, "/generate")
    request.end({"outcome": "unknown_model"}, is_fault=False)
    (whole,) = spans.get_finished_spans()
    assert whole.parent is None
    assert whole.status.is_unset


def test_unsampled_caller_is_not_traced(spans: InMemorySpanExporter) -> None:
    request = RequestSpan({"traceparent": NOT_SAMPLED}, "/generate")
    assert request.traceparent == ""
    request.end({}, is_fault=False)
    assert spans.get_finished_spans() == ()


def test_spans_of_an_image_are_sequential(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = TickingClock()
    dates = SimpleNamespace(time_ns=lambda: round(clock.now * 1e9))
    monkeypatch.setattr("common.tracing.time", dates)
    engine, listener = make_engine(clock=clock), Listener()
    engine.submit(job("traced", steps=3, num_images=2, traceparent=CALLER), listener)
    finish(engine)
    pictures(listener)
    found = spans.get_finished_spans()
    assert sorted(span.name for span in found) == [
        "decode", "decode", "denoise", "encode", "queue", "save", "save",
    ]  # fmt: skip
    assert {parent_id(span) for span in found} == {"cd" * 8}
    assert {dict(span.attributes or {})["request_id"] for span in found} == {"traced"}
    first = {span.name: span for span in reversed(found)}
    order = [first[name] for name in ("queue", "encode", "denoise", "decode", "save")]
    # Spans are dated in nanoseconds, and the engine's clock in seconds.
    rounding = 1000
    for before, after in itertools.pairwise(order):
        assert (before.end_time or 0) <= (after.start_time or 0) + rounding
    done: Any = listener.events[-1]
    assert dict(first["denoise"].attributes or {})["parts"] == 3
    assert seconds(first["denoise"]) > done.timings["denoise"] > 0


def test_cancelled_request_span_counts_its_steps(
    engine: Engine, spans: InMemorySpanExporter
) -> None:
    engine.submit(job("left", steps=9, traceparent=CALLER), Listener())
    engine.tick()
    engine.tick()
    engine.cancel(CancelCommand(request_id="left"))
    drain(engine)
    (denoise,) = (span for span in spans.get_finished_spans() if span.name == "denoise")
    assert dict(denoise.attributes or {})["parts"] == 2


def test_without_a_traced_caller_the_runner_makes_no_span(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> Any:
        raise AssertionError("a tracer was asked for")

    monkeypatch.setattr("common.tracing.tracer", forbidden)
    listener = Listener()
    engine.submit(job("plain"), listener)
    finish(engine)
    assert pictures(listener)


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
    ],
)
def test_environment_enables_tracing(
    environment: dict[str, str], exporter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.traces_exporter == exporter
    assert not tracer("test").start_span("before").is_recording()
    configure_tracing(settings)
    try:
        # Never ended, and so not exported.
        span: Any = tracer("test").start_span("open")
        assert span.is_recording() == (exporter is not None)
        if exporter is not None:
            assert span.resource.attributes["service.name"] == "experimance-controlnet"
    finally:
        flush_traces()
    assert not tracer("test").start_span("after").is_recording()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
    ],
)
def test_unsupported_tracing_settings_stop_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()
