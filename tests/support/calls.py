"""Bodies and helpers that calls to the running service share."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx

SLOW: dict[str, Any] = {
    "prompt": "future",
    "model": "base",
    "mock_depth": True,
    "steps": 50,
    "width": 512,
}
QUICK: dict[str, Any] = {
    "prompt": "untouched wilderness",
    "mock_depth": True,
    "steps": 2,
    "seed": 5,
}

Post = Callable[[dict[str, Any]], Future[httpx.Response]]


def wait_until_running(client: httpx.Client, count: int = 1) -> None:
    deadline = time.monotonic() + 20
    while client.get("/healthcheck").json()["queue"]["running"] < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
