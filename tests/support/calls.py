"""Bodies and helpers that calls to the running service share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import wait_until

PATIENCE = 600.0
"""Seconds that a call may take; the limit only ends a hang."""

SLOW: dict[str, Any] = {
    "prompt": "future",
    "model": "base",
    "mock_depth": True,
    "steps": 50,
    "width": 512,
}
# So long that it has not ended before a test ends it. Nobody waits for its picture.
ENDLESS: dict[str, Any] = {**SLOW, "height": 512, "num_images": 4}
QUICK: dict[str, Any] = {
    "prompt": "untouched wilderness",
    "mock_depth": True,
    "steps": 2,
    "seed": 5,
}

_LAST = (["finished"], ["ended"])
_EVENTS = {"started", "finished", "ended"}

Post = Callable[[dict[str, Any]], Future[httpx.Response]]


class ServiceLog:
    """What a service logs from the moment on at which this is made.

    /healthcheck may tell of a queue that was a moment ago; the log's lines are in order.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size

    @property
    def history(self) -> list[tuple[str, str]]:
        """The engine's events, each with the id of its request."""
        whole_lines = self._path.read_bytes()[self._start :].rpartition(b"\n")[0]
        lines = whole_lines.decode(errors="replace").split("\n")
        return [found for line in lines if (found := _event(line)) is not None]

    def events(self, request_id: str | None = None) -> list[str]:
        """What became of a request, or of all: `started`, then `finished` or `ended`."""
        return [event for event, name in self.history if request_id in {None, name}]

    def wait_for(self, event: str, request_id: str | None = None) -> None:
        """Wait until an event of a request, or of any, has been logged.

        Raises:
            AssertionError: The request has ended without it.
        """

        def is_over() -> bool:
            seen = self.events(request_id)
            return event in seen or (request_id is not None and seen[-1:] in _LAST)

        wait_until(is_over, PATIENCE)
        assert event in self.events(request_id), self.events(request_id)


def _event(line: str) -> tuple[str, str] | None:
    """The engine's event and the request's id of a line, as text or as JSON."""
    if line.startswith("{"):
        fields = json.loads(line)
        event, request_id = fields["event"], fields.get("request_id", "")
    else:
        match = re.search(r"\] (\w+) .*\brequest_id=(\S+)", line)
        event, request_id = match.groups() if match else ("", "")
    return (event, request_id) if event in _EVENTS else None


def under_way(client: httpx.Client) -> float:
    """How many requests wait or run, as of the last time that the runner had a moment to tell."""
    queue = client.get("/healthcheck").json()["queue"]
    return float(queue["waiting"] + queue["running"])


def wait_until_idle(client: httpx.Client) -> None:
    """Wait for the end of all requests; what is under way later has then come later."""
    wait_until(lambda: not under_way(client), PATIENCE)
