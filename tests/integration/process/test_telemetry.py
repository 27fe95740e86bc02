"""Logs and traces of a served request, through both processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from common.lifecycle import READY_LINE
from tests.support.observed_service import Ended, Observed
from tests.support.trace_collector import Collector, Received

PAINTING = {"/generate", "/generate_stream", "/estimate_depth"}


@pytest.fixture(scope="module")
def log(observed: Observed, ended: Ended) -> Path:
    """The log of the service, which has ended."""
    return observed.log


@pytest.fixture(scope="module")
def traces(observed: Observed, ended: Ended) -> Collector:
    """What the collector has now that the service has ended."""
    return observed.collector


@pytest.fixture(scope="module")
def lines(observed: Observed, ended: Ended) -> list[dict[str, Any]]:
    """Every JSON line of the log."""
    return observed.lines()


def about(lines: list[dict[str, Any]], request_id: str) -> list[tuple[str, str]]:
    ours = [line for line in lines if line.get("request_id") == request_id]
    return [(line["process"], line["event"]) for line in ours if "logger" not in line]


def request_spans(traces: Collector, request_id: str) -> dict[str, Received]:
    found = [span for span in traces.spans if span.attributes.get("request_id") == request_id]
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
    first = [line["path"] for line in logged].index("/healthcheck")
    found = [
        (line.get("request_id"), line["path"], line["status"], line.get("error"))
        for line in logged[:first]
    ]
    assert found == [
        ("painted-1", "/generate", 200, None),
        ("streamed-1", "/generate_stream", 200, None),
        ("wrong", "/generate", 400, "unknown_model"),
        ("late-1", "/generate", 504, "deadline_exceeded"),
    ]
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


def test_a_picture_is_one_trace_through_both_processes(traces: Collector) -> None:
    spans = request_spans(traces, "painted-1")
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


def test_failed_and_streamed_requests_are_traced(traces: Collector) -> None:
    assert {"request", "denoise", "save"} <= set(request_spans(traces, "streamed-1"))
    assert (
        request_spans(traces, "streamed-1")["request"].attributes["http.route"]
        == "/generate_stream"
    )
    wrong = request_spans(traces, "wrong")
    assert set(wrong) == {"request"}
    assert wrong["request"].attributes["outcome"] == "unknown_model"
    assert wrong["request"].attributes["model"] == "none"
    assert request_spans(traces, "late-1")["request"].attributes["outcome"] == "deadline_exceeded"


def test_only_requests_for_pictures_are_traced(
    traces: Collector, lines: list[dict[str, Any]]
) -> None:
    asked = [line for line in lines if line["event"] == "request" and line["path"] in PAINTING]
    requests = [span for span in traces.spans if span.name == "request"]
    assert sorted(span.attributes["request_id"] for span in requests) == sorted(
        line["request_id"] for line in asked
    )
    roots = {span.span_id for span in requests}
    orphans = [s for s in traces.spans if s.name != "request" and s.parent_id not in roots]
    assert orphans == []
    assert max(span.end for span in traces.spans) / 1e9 < time.time()
