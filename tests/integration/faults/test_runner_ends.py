"""A service whose runner ends, is killed with its requests, or is stopped with them."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from testing.process_state import processes_of
from testing.server import linked_home, started_service
from tests.support.calls import ENDLESS, PATIENCE, SLOW, ServiceLog, under_way
from tests.support.observed_service import ready_lines
from tests.support.waiting import wait_until

SHORT: dict[str, Any] = {"prompt": "hills", "mock_depth": True, "steps": 1, "cfg": 1}


@dataclass(frozen=True)
class Harmed:
    """A service that comes to harm; its device fails once when the file `fault` appears."""

    client: httpx.Client
    port: int
    log: Path
    fault: Path

    def post(self, body: dict[str, Any]) -> httpx.Response:
        return self.client.post("/generate", json=body)

    def is_ready(self) -> bool:
        return self.client.get("/readyz").status_code == 200

    def metric(self, name: str) -> float:
        """The one sample of a metric without labels."""
        lines = self.client.get("/metrics").text.splitlines()
        (found,) = (line for line in lines if line.startswith(f"{name} "))
        return float(found.removeprefix(name))


@pytest.fixture(scope="module")
def harmed(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harmed]:
    """One service for all the harm; BentoML empties the metrics of its home at every start."""
    folder = tmp_path_factory.mktemp("harmed")
    fault, log = folder / "fault", folder / "log"
    settings = {
        "DEVICE_FAULT": str(fault),
        # A busy machine's estimates of the queue must not refuse what is to be lost.
        "MAX_QUEUE_SECONDS": "3600",
    }
    with (
        started_service(linked_home(demo_home, folder / "home"), log, settings) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        yield Harmed(client, int(url.rsplit(":", 1)[1]), log, fault)


def test_killed_runner_fails_its_requests_and_restarts(harmed: Harmed) -> None:
    """It is counted, and says again when it is ready."""
    client = harmed.client
    api = processes_of(harmed.port)["api"]
    assert harmed.metric("experimance_runner_restarts_total") == 0
    ended: list[tuple[dict[str, Any], float]] = []

    def paint(number: int) -> None:
        answer = harmed.post({**ENDLESS, "request_id": f"lost-{number}"})
        assert answer.status_code == 503, answer.text[:500]
        ended.append((answer.json(), float(answer.headers["Retry-After"])))

    def listen() -> None:
        with client.stream("POST", "/generate_stream", json=ENDLESS) as answer:
            *_, last = (line for line in answer.iter_lines() if line.startswith("data: "))
        ended.append((json.loads(last.removeprefix("data: ")), 1.0))

    with ThreadPoolExecutor(4) as pool:
        calls = [*(pool.submit(paint, number) for number in range(3)), pool.submit(listen)]
        wait_until(lambda: any(call.done() for call in calls) or under_way(client) >= 4, PATIENCE)
        processes_of(harmed.port)["runner"].kill()
        for call in calls:
            call.result()
    assert not harmed.is_ready(), "they end before there is another runner"
    assert len(ended) == 4
    for body, retry_after in ended:
        assert body["error"] == "runner_lost"
        assert retry_after >= 1
    wait_until(lambda: not harmed.metric("experimance_ready"))
    wait_until(lambda: ready_lines(harmed.log) == 2, PATIENCE)
    wait_until(harmed.is_ready, PATIENCE)
    assert harmed.post(SHORT).status_code == 200
    wait_until(lambda: harmed.metric("experimance_ready"))
    assert harmed.metric("experimance_runner_restarts_total") == 1
    assert processes_of(harmed.port)["api"].pid == api.pid


def test_lost_device_ends_the_runner_which_is_started_again(harmed: Harmed) -> None:
    before = processes_of(harmed.port)
    assert harmed.post(SHORT).status_code == 200
    harmed.fault.touch()
    lost = harmed.post(SHORT)
    assert (lost.status_code, lost.json()["error"]) == (503, "runner_lost")
    wait_until(harmed.is_ready, PATIENCE)
    assert harmed.post(SHORT).status_code == 200
    after = processes_of(harmed.port)
    assert after["api"].pid == before["api"].pid
    assert after["runner"].pid != before["runner"].pid
    said = harmed.log.read_text("utf-8")
    assert said.count("the device is lost, the runner ends") == 1
    assert "an illegal memory access" in said


def test_stop_finishes_running_requests_and_exits_with_0(harmed: Harmed) -> None:
    """The last one: there is no service after it."""
    (server,) = (
        process
        for process in psutil.Process().children()
        if process.environ().get("MODEL_SERVER_PORT") == str(harmed.port)
    )
    log = ServiceLog(harmed.log)
    idle = HTTPConnection("127.0.0.1", harmed.port, timeout=PATIENCE)
    with contextlib.closing(idle), ThreadPoolExecutor(2) as pool:
        idle.request("GET", "/livez")
        idle.getresponse().read()
        running = pool.submit(
            harmed.post, {**SLOW, "width": 256, "steps": 25, "request_id": "running"}
        )
        log.wait_for("started", "running")
        server.send_signal(signal.SIGTERM)
        # What is idle is closed when nothing more is taken.
        assert idle.sock.recv(1) == b""
        assert not running.done()
        late = pool.submit(harmed.post, {**SHORT, "request_id": "late"})
        assert running.result().status_code == 200
        assert server.wait(PATIENCE) == 0
        with pytest.raises(httpx.TransportError):
            late.result()
    assert log.events("late") == []
