"""A service with tokens, JSON lines and traces, and what is seen of it from start to stop."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from common.lifecycle import READY_LINE
from testing.server import started_service
from tests.support.calls import PATIENCE, QUICK, ServiceLog
from tests.support.trace_collector import Collector, collecting
from tests.support.waiting import wait_until

TOKENS = ("shibboleth", "s3cret")
CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
_PAINTED = {**QUICK, "request_id": "painted-1", "num_images": 2}
_STREAMED = {**QUICK, "request_id": "streamed-1"}
_NOT_FOUND = {**QUICK, "request_id": "wrong", "model": "nobody's"}
_REFUSED_BY_RUNNER = {**QUICK, "request_id": "late-1", "deadline_ms": 1, "steps": 50}
_LAST = {**QUICK, "request_id": "last-words", "steps": 50, "session": "table"}


@dataclass(frozen=True)
class Ended:
    """What happened around the stop.

    Attributes:
        refused: status codes without a token, of a picture and of the models.
        strangers: what the first token could cancel of the other's request.
        before_stop: the request's events when the stop began.
        last: the answer to the request, which was running then.
    """

    refused: list[int]
    strangers: list[dict[str, Any]]
    before_stop: list[str]
    last: httpx.Response


@dataclass(frozen=True)
class Observed:
    """A running service that has answered four requests.

    Attributes:
        client: a client with the first token.
        log: its log.
        refusals: what /readyz said between the ready line and the first 200.
        metrics: what /metrics told after two pictures in one answer, a picture in a stream, an
            unknown model and a deadline that had passed.
        collector: where its traces arrive.
    """

    client: httpx.Client
    log: Path
    refusals: list[str]
    metrics: str
    collector: Collector
    _running: contextlib.ExitStack

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def lines(self) -> list[dict[str, Any]]:
        """Every JSON line of the log."""
        text = self.log.read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def stop(self) -> Ended:
        """Stop the service while it paints for the second token, and wait for its end."""
        seen = ServiceLog(self.log)
        with (
            ThreadPoolExecutor(1) as pool,
            httpx.Client(base_url=self.url, timeout=PATIENCE) as other,
        ):
            refused = [other.post("/generate", json=_LAST), other.get("/models")]
            call = pool.submit(other.post, "/generate", json=_LAST, headers=_bearer(TOKENS[1]))
            seen.wait_for("started", "last-words")
            strangers = [
                self.client.post("/cancel", json=named).json()
                for named in ({"request_id": "last-words"}, {"session": "table"})
            ]
            before_stop = seen.events("last-words")
            self._running.close()
        codes = [answer.status_code for answer in refused]
        return Ended(codes, strangers, before_stop, call.result())


@contextlib.contextmanager
def observed_service(home: Path, log: Path) -> Iterator[Observed]:
    """Run a service on the store at `home`, which is its own, until it is stopped."""
    with collecting() as collector, contextlib.ExitStack() as running:
        settings = {
            "API_TOKEN": ",".join(TOKENS),
            "LOG_FORMAT": "json",
            # A busy machine's estimates of the queue must not refuse what is to be seen waiting.
            "MAX_QUEUE_SECONDS": "3600",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_SERVICE_NAME": "sandbox",
        }
        url = running.enter_context(started_service(home, log, settings, ready=False))
        client = running.enter_context(
            httpx.Client(base_url=url, timeout=PATIENCE, headers=_bearer(TOKENS[0]))
        )
        wait_until(lambda: ready_lines(log), PATIENCE)
        refusals = []
        while (answer := client.get("/readyz")).status_code != 200:
            refusals.append(answer.text)
        caller = {"traceparent": CALLER}
        assert client.post("/generate", json=_PAINTED, headers=caller).status_code == 200
        assert client.post("/generate_stream", json=_STREAMED).status_code == 200
        assert client.post("/generate", json=_NOT_FOUND).status_code == 400
        assert client.post("/generate", json=_REFUSED_BY_RUNNER).status_code == 504
        client.get("/healthcheck")
        metrics = client.get("/metrics").text
        yield Observed(client, log, refusals, metrics, collector, running)


def ready_lines(log: Path) -> int:
    """How often the service has said that it is ready."""
    return log.read_text(errors="replace").splitlines().count(READY_LINE)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
