"""The running service in its clients' hands: streams, cancelling, sessions, deadlines, health."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.calls import (
    ENDLESS,
    PATIENCE,
    QUICK,
    SLOW,
    Post,
    ServiceLog,
    under_way,
    wait_until_idle,
)
from tests.support.images.pictures import encoded, opened
from tests.support.waiting import wait_until


@pytest.fixture
def log(service_url: str, service_log: Path) -> ServiceLog:
    return ServiceLog(service_log)


def parse_events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def test_stream_reports_every_step(client: httpx.Client) -> None:
    body = {**QUICK, "steps": 4}
    with client.stream("POST", "/generate_stream", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(parse_events(response))
    names = [name for name, _ in events]
    assert names == ["queued", "started", *["step"] * 4, "done"]
    assert [(e["step"], e["steps"]) for name, e in events if name == "step"] == [
        (1, 4), (2, 4), (3, 4), (4, 4)
    ]  # fmt: skip
    preview = next(event["preview_b64"] for _, event in events if "preview_b64" in event)
    assert opened(preview).format == "JPEG"
    assert events[-1][1]["image_b64"] == client.post("/generate", json=body).json()["image_b64"]


def test_disconnect_from_stream_cancels_the_request(client: httpx.Client, log: ServiceLog) -> None:
    body = {**ENDLESS, "request_id": "left-stream"}
    with client.stream("POST", "/generate_stream", json=body) as response:
        for name, _ in parse_events(response):
            if name == "step":
                break
    log.wait_for("ended", "left-stream")
    assert log.events("left-stream") == ["started", "ended"]
    wait_until_idle(client)


def test_disconnect_cancels_the_request(
    client: httpx.Client, service_url: str, log: ServiceLog
) -> None:
    leaving = HTTPConnection(service_url.removeprefix("http://"), timeout=PATIENCE)
    with contextlib.closing(leaving):
        body = json.dumps({**ENDLESS, "request_id": "left"})
        leaving.request("POST", "/generate", body, {"Content-Type": "application/json"})
        log.wait_for("started", "left")
    log.wait_for("ended", "left")
    assert log.events("left") == ["started", "ended"]
    wait_until_idle(client)


def test_cancelling(client: httpx.Client, background: Post, log: ServiceLog) -> None:
    call = background({**ENDLESS, "request_id": "long"})
    log.wait_for("started", "long")
    assert client.post("/cancel", json={"request_id": "long"}).json() == {"cancelled": ["long"]}
    response = call.result(PATIENCE)
    assert response.status_code == 409
    assert response.json()["error"] == "cancelled"
    assert response.json()["request_id"] == "long"
    assert log.events("long") == ["started", "ended"]
    assert client.post("/cancel", json={"request_id": "long"}).json() == {"cancelled": []}


def test_cancel_wants_exactly_one(client: httpx.Client) -> None:
    for body in ({}, {"all": True, "session": "x"}, {"what": 1}):
        assert client.post("/cancel", json=body).status_code == 400


def test_the_latest_of_a_session_wins(
    client: httpx.Client, background: Post, log: ServiceLog
) -> None:
    old = background({**ENDLESS, "session": "table", "request_id": "older"})
    log.wait_for("started", "older")
    new = client.post("/generate", json={**QUICK, "session": "table"})
    assert new.status_code == 200
    assert old.result(PATIENCE).status_code == 409
    assert old.result().json()["error"] == "superseded"
    assert log.events("older") == ["started", "ended"]


def test_equal_ids_share_the_work(background: Post, log: ServiceLog) -> None:
    body = {**SLOW, "steps": 10, "request_id": "shared"}  # without a seed: drawn by the first
    first = background(body)
    log.wait_for("started", "shared")
    second = background(body)
    one, other = (call.result(PATIENCE).json() for call in (first, second))
    assert one["image_b64"] == other["image_b64"]
    assert one["seed_used"] == other["seed_used"]
    log.wait_for("finished", "shared")
    assert log.events("shared") == ["started", "finished"]


def test_unequal_request_with_the_id_of_an_unfinished_one_is_refused(
    client: httpx.Client, background: Post, log: ServiceLog
) -> None:
    first = background({**SLOW, "steps": 10, "request_id": "taken"})
    log.wait_for("started", "taken")
    for change in ({"seed": 99}, {"prompt": "desert"}, {"width": 320}, {"normalize_depth": True}):
        body = {**SLOW, "steps": 10, "request_id": "taken", **change}
        second = client.post("/generate", json=body)
        assert second.status_code == 409
        assert second.json()["error"] == "conflict"
        assert "request_id" in second.json()["error_message"]
    assert first.result(PATIENCE).status_code == 200


def test_header_only_names_the_log_entry(client: httpx.Client, log: ServiceLog) -> None:
    headers = {"X-Request-Id": "trace-1"}
    bodies = [
        {**SLOW, "steps": 10, "seed": 7},
        {**SLOW, "steps": 4, "seed": 99, "width": 320},
        {**SLOW, "steps": 10, "seed": 7},
    ]
    with ThreadPoolExecutor(3) as pool:
        calls = [
            pool.submit(client.post, "/generate", json=body, headers=headers) for body in bodies
        ]
        answers = [call.result(PATIENCE).json() for call in calls]
    assert [answer["seed_used"] for answer in answers] == [7, 99, 7]
    assert [answer["metadata"]["width"] for answer in answers] == [512, 320, 512]
    assert {answer["request_id"] for answer in answers} == {"trace-1"}
    assert answers[0]["image_b64"] == answers[2]["image_b64"], "equal, but painted twice"


def test_joined_request_gets_the_format_of_the_first(
    client: httpx.Client, background: Post, log: ServiceLog
) -> None:
    body = {**SLOW, "steps": 10, "request_id": "formats"}
    first = background(body)
    log.wait_for("started", "formats")
    second = client.post("/generate", json=body, headers={"Accept": "image/png"})
    assert first.result(PATIENCE).status_code == 200
    assert second.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(second.content)).format == "JPEG"
    assert second.headers["x-request-id"] == "formats"
    log.wait_for("finished", "formats")
    assert log.events("formats") == ["started", "finished"]


@pytest.fixture(scope="module")
def large_depth() -> dict[str, Any]:
    """A depth map so large that it is decoded at the lowest priority, and quickly sent."""
    noise = np.random.default_rng(0).integers(0, 2, (3500, 3500), np.uint8) * 255
    depth = encoded(Image.fromarray(noise), compress_level=1)
    return {"mock_depth": False, "depth_map_b64": depth}


def test_cancel_reaches_requests_during_depth_map_decoding(
    client: httpx.Client, background: Post, log: ServiceLog, large_depth: dict[str, Any]
) -> None:
    body = {**ENDLESS, **large_depth, "session": "decoding", "request_id": "decoded"}
    call = background(body)
    cancelled: list[str] = []
    while not cancelled and not call.done():
        cancelled = client.post("/cancel", json={"session": "decoding"}).json()["cancelled"]
    assert cancelled == ["decoded"]
    assert call.result(PATIENCE).json()["error"] == "cancelled"
    assert log.events("decoded") == [], "the engine never heard of it"


def test_slow_depth_map_does_not_make_an_old_request_latest(
    client: httpx.Client, background: Post, large_depth: dict[str, Any]
) -> None:
    old = background({**SLOW, **large_depth, "session": "order"})
    wait_until(lambda: under_way(client))
    new = client.post("/generate", json={**QUICK, "steps": 20, "session": "order"})
    assert new.status_code == 200
    assert old.result(PATIENCE).status_code == 409
    assert old.result().json()["error"] == "superseded"


@pytest.mark.parametrize("milliseconds", [1, 300])
def test_request_past_its_deadline_is_not_computed(
    client: httpx.Client, log: ServiceLog, milliseconds: int
) -> None:
    body = {**ENDLESS, "deadline_ms": milliseconds, "request_id": f"late-{milliseconds}"}
    response = client.post("/generate", json=body)
    assert (response.status_code, response.json()["error"]) == (504, "deadline_exceeded")
    seen = log.events(body["request_id"])
    assert seen[-1:] == ["ended"]
    assert milliseconds > 1 or seen == ["ended"], "it has not been started either"


def test_health_answers_while_the_runner_computes(
    client: httpx.Client, background: Post, log: ServiceLog
) -> None:
    """How soon is measured by `make bench-abuse` and `make bench-overload`."""
    call = background({**ENDLESS, "request_id": "computed"})
    log.wait_for("started", "computed")
    wait_until(lambda: under_way(client))
    for method in ("GET", "POST") * 10:
        response = client.request(method, "/healthcheck")
        assert response.status_code == 200
    assert log.events("computed") == ["started"]
    assert not call.done()
    body = response.json()
    assert body["status"] == "ready"
    assert body["models_available"] == ["lightning", "hyper", "base"]
    assert "base" in body["models_loaded"]
    assert body["queue"]["running"] == 1
    assert body["queue"]["estimated_seconds"] > 0
    assert body["startup_status"] == {"download_progress": {}, "startup_error": None}


def test_more_calls_than_a_connection_of_bentoml_takes(client: httpx.Client) -> None:
    failures: list[int] = []

    def ask() -> None:
        for _ in range(60):
            status = client.post("/cancel", json={"request_id": "nobody"}).status_code
            failures.extend([status] if status != 200 else [])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    answer = client.post("/generate", json={**QUICK, "steps": 12})
    for thread in threads:
        thread.join()
    assert failures == []
    assert answer.status_code == 200
