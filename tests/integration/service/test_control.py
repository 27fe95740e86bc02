"""The running service in its clients' hands: streams, cancelling, sessions, deadlines, health."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.calls import QUICK, SLOW, Post, wait_until_running
from tests.support.images.pictures import encoded, opened


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


def test_disconnect_from_stream_cancels_the_request(client: httpx.Client) -> None:
    with client.stream("POST", "/generate_stream", json=SLOW) as response:
        for name, _ in parse_events(response):
            if name == "step":
                break
    deadline = time.monotonic() + 5
    while client.get("/healthcheck").json()["queue"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_disconnect_cancels_the_request(client: httpx.Client, service_url: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service_url}/generate", json=SLOW, timeout=0.5)
    deadline = time.monotonic() + 5
    while client.get("/healthcheck").json()["queue"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cancelling(client: httpx.Client, background: Post) -> None:
    call = background({**SLOW, "request_id": "long"})
    wait_until_running(client)
    started = time.monotonic()
    assert client.post("/cancel", json={"request_id": "long"}).json() == {"cancelled": ["long"]}
    response = call.result(timeout=10)
    assert time.monotonic() - started < 3
    assert response.status_code == 409
    assert response.json()["error"] == "cancelled"
    assert response.json()["request_id"] == "long"
    assert client.post("/cancel", json={"request_id": "long"}).json() == {"cancelled": []}


def test_cancel_wants_exactly_one(client: httpx.Client) -> None:
    for body in ({}, {"all": True, "session": "x"}, {"what": 1}):
        assert client.post("/cancel", json=body).status_code == 400


def test_the_latest_of_a_session_wins(client: httpx.Client, background: Post) -> None:
    old = background({**SLOW, "session": "table"})
    wait_until_running(client)
    new = client.post("/generate", json={**QUICK, "session": "table"})
    assert new.status_code == 200
    assert old.result(timeout=10).status_code == 409
    assert old.result().json()["error"] == "superseded"


def test_equal_ids_share_the_work(client: httpx.Client, background: Post) -> None:
    body = {**SLOW, "steps": 8, "request_id": "shared"}  # without a seed: drawn by the first
    calls = [background(body), background(body)]
    first, second = (call.result(timeout=60).json() for call in calls)
    assert first["image_b64"] == second["image_b64"]
    assert first["seed_used"] == second["seed_used"]


def test_joined_request_gets_the_format_of_the_first(
    client: httpx.Client, background: Post
) -> None:
    body = {**SLOW, "steps": 10, "request_id": "formats"}
    first = background(body)
    wait_until_running(client)
    second = client.post("/generate", json=body, headers={"Accept": "image/png"})
    assert first.result(timeout=60).status_code == 200
    assert second.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(second.content)).format == "JPEG"
    assert second.headers["x-request-id"] == "formats"


def large_depth() -> str:
    noise = np.random.default_rng(0).integers(0, 256, (3500, 3500), np.uint8)
    return encoded(Image.fromarray(noise), compress_level=1)


def test_cancel_reaches_requests_during_depth_map_decoding(
    client: httpx.Client, background: Post
) -> None:
    body = {**QUICK, "mock_depth": False, "depth_map_b64": large_depth(), "session": "decoding"}
    call = background(body)
    cancelled: list[str] = []
    while not cancelled and not call.done():
        cancelled = client.post("/cancel", json={"session": "decoding"}).json()["cancelled"]
    assert cancelled
    assert call.result(timeout=20).json()["error"] == "cancelled"


def test_slow_depth_map_does_not_make_an_old_request_latest(
    client: httpx.Client, background: Post
) -> None:
    body = {**QUICK, "mock_depth": False, "depth_map_b64": large_depth(), "session": "order"}
    old = background(body)
    time.sleep(0.25)
    new = client.post("/generate", json={**QUICK, "steps": 20, "session": "order"})
    assert new.status_code == 200
    assert old.result(timeout=20).status_code in {200, 409}


def test_request_past_its_deadline_is_not_computed(client: httpx.Client) -> None:
    started = time.monotonic()
    response = client.post("/generate", json={**SLOW, "deadline_ms": 300})
    assert (response.status_code, response.json()["error"]) == (504, "deadline_exceeded")
    assert time.monotonic() - started < 3


def test_health_answers_within_100_ms_while_the_runner_computes(
    client: httpx.Client, background: Post
) -> None:
    call = background(SLOW)
    wait_until_running(client)
    seconds = []
    for turn in range(120):
        started = time.perf_counter()
        response = client.request("POST" if turn % 2 else "GET", "/healthcheck")
        seconds.append(time.perf_counter() - started)
        assert response.status_code == 200
    assert not call.done()
    assert np.percentile(seconds, 95) < 0.1
    body = response.json()
    assert body["status"] == "ready"
    assert body["models_available"] == ["lightning", "hyper", "base"]
    assert "base" in body["models_loaded"]
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
