"""Logs and traces of a served request, through both processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.lifecycle import READY_LINE
from testing.server import started_service
from tests.support.calls import PATIENCE, QUICK
from tests.support.trace_collector import Collector, Received, collecting

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
NOT_FOUND = {**QUICK, "request_id": "wrong", "model": "turbo"}
PAINTED = {**QUICK, "request_id": "painted-1", "num_images": 2}
STREAMED = {**QUICK, "request_id": "streamed-1"}
REFUSED_BY_RUNNER = {**QUICK, "request_id": "late-1", "deadline_ms": 1, "steps": 50}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def traced_requests(demo_home: Path, log: Path) -> Iterator[Collector]:
    """What the collector has after a few requests to a service that has ended."""
    with collecting() as collector:
        settings = {
            "LOG_FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": "sandbox",
        }
        with started_service(demo_home, log, settings) as url:
            client = httpx.Client(base_url=url, timeout=PATIENCE)
            headers = {"traceparent": CALLER}
            assert client.post("/generate", json=PAINTED, headers=headers).status_code == 200
            assert client.post("/generate_stream", json=STREAMED).status_code == 200
            assert client.post("/generate", json=NOT_FOUND).status_code == 400
            assert client.post("/generate", json=REFUSED_BY_RUNNER).status_code == 504
            client.get("/healthcheck")
        yield collector


@pytest.fixture(scope="module")
def lines(traced_requests: Collector, log: Path) -> list[dict[str, Any]]:
    """Every JSON line of the log."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def about(lines: list[dict[str, Any]], request_id: str) -> list[tuple[str, str]]:
    ours = [line for line in lines if line.get("request_id") == request_id]
    return [(line["process"], line["event"]) for line in ours if "logger" not in line]


def request_spans(traced_requests: Collector, request_id: str) -> dict[str, Received]:
    found = [
        span for span in traced_requests.spans if span.attributes.get("request_id") == request_id
    ]
    return {span.name: span for span in found}


def test_both_processes_log_a_request_under_its_id(lines: list[dict[str, Any]]) -> None:
    for request_id in ("painted-1", "streamed-1"):
        assert set(about(lines, request_id)) == {
            ("runner", "started"), ("runner", "finished"), ("api", "painted"), ("api", "request"),
        }  # fmt: skip
    assert about(lines, "wrong") == [("api", "request")]
    assert set(about(lines, "late-1")) == {("runner", "ended"), ("api", "request")}
    (finished,) = (x for x in lines if x["event"] == "finished" and x["request_id"] == "painted-1")
    assert finished["pictures"] == 2
    assert finished["denoise"] > 0


def test_every_http_request_has_one_access_line(lines: list[dict[str, Any]]) -> None:
    logged = [line for line in lines if line["event"] == "request"]
    found = [
        (line.get("request_id"), line["path"], line["status"], line.get("error"))
        for line in logged
        if line["method"] == "POST"
    ]
    assert found == [
        ("painted-1", "/generate", 200, None),
        ("streamed-1", "/generate_stream", 200, None),
        ("wrong", "/generate", 400, "unknown_model"),
        ("late-1", "/generate", 504, "deadline_exceeded"),
    ]
    assert "/healthcheck" in {line["path"] for line in logged}
    assert not {"/livez", "/metrics"} & {line["path"] for line in logged}
    assert not any(line.get("logger") == "bentoml.access" for line in lines)


def test_lines_are_json_once_the_workers_run(lines: list[dict[str, Any]], log: Path) -> None:
    for line in lines:
        assert {"event", "level", "timestamp", "process"} <= set(line)
        assert line["process"] in {"api", "runner"}
    assert any("logger" in line for line in lines)
    after = log.read_text().partition(f"{READY_LINE}\n")[2].splitlines()
    assert len(after) > 5
    assert [line for line in after if not line.startswith("{")] == []


def test_a_picture_is_one_trace_through_both_processes(traced_requests: Collector) -> None:
    spans = request_spans(traced_requests, "painted-1")
    assert set(spans) == {"request", "queue", "encode", "denoise", "decode", "save"}
    request = spans.pop("request")
    assert request.parent_id == "cd" * 8
    assert request.attributes["outcome"] == "success"
    assert request.attributes["http.route"] == "/generate"
    for span in spans.values():
        assert span.trace_id == request.trace_id == "ab" * 16
        assert span.parent_id == request.span_id
        assert span.service == request.service == "sandbox"
        assert request.start - 1e6 <= span.start <= span.end <= request.end + 1e6
    assert spans["queue"].end <= spans["denoise"].start <= spans["decode"].end


def test_failed_and_streamed_requests_are_traced(traced_requests: Collector) -> None:
    assert {"request", "denoise", "save"} <= set(request_spans(traced_requests, "streamed-1"))
    assert (
        request_spans(traced_requests, "streamed-1")["request"].attributes["http.route"]
        == "/generate_stream"
    )
    wrong = request_spans(traced_requests, "wrong")
    assert set(wrong) == {"request"}
    assert wrong["request"].attributes["outcome"] == "unknown_model"
    assert wrong["request"].attributes["model"] == "none"
    assert (
        request_spans(traced_requests, "late-1")["request"].attributes["outcome"]
        == "deadline_exceeded"
    )


def test_only_requests_for_pictures_are_traced(traced_requests: Collector) -> None:
    roots = {s.span_id for s in traced_requests.spans if s.name == "request"}
    assert len(roots) == 4
    orphans = [s for s in traced_requests.spans if s.name != "request" and s.parent_id not in roots]
    assert orphans == []
    assert max(span.end for span in traced_requests.spans) / 1e9 < time.time()
