"""Runs of the load test against mock servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import httpx2

from experimance.load.executor import Clock, Executor
from experimance.load.http import Sender
from experimance.load.recorder import RequestLog
from experimance.load.request_factory import RequestFactory
from experimance.load.scenario import Traffic, parse_traffic
from experimance.load.schedule import Plan, build_plan

PLAIN = """
[[scenario]]
name = "plain"
depth = "mock"
fields = { prompt = "hills" }
"""
TIMINGS = {"queue": 0.1, "encode": 0.2, "denoise": 0.3, "decode": 0.4, "save": 0.5}
Handler = Callable[[httpx2.Request], Coroutine[None, None, httpx2.Response]]


def traffic(text: str = PLAIN, seed: int | None = None) -> Traffic:
    return parse_traffic(text, "test.toml", Path(), seed)


def plan(
    mix: Traffic, *, timeout: float = 5.0, most: int = 100, retry: bool = False, **load: Any
) -> Plan:
    return build_plan(mix, load, timeout=timeout, max_in_flight=most, respect_retry_after=retry)


def picture(status: int = 200) -> httpx2.Response:
    body = {"success": True, "image_b64": "AAAA", "metadata": {"timings": TIMINGS}}
    return httpx2.Response(status, json=body)


def refusal(status: int, code: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    body = {"success": False, "error": code, "error_message": f"it is {code}", "detail": []}
    return httpx2.Response(status, json=body, headers=headers)


def stream(*events: tuple[str, Any]) -> httpx2.Response:
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"})


class Loaded:
    """Parts of a run against a mock server."""

    def __init__(self, handler: Handler, mix: Traffic, its_plan: Plan) -> None:
        self._mix, self._plan = mix, its_plan
        self._client = httpx2.AsyncClient(
            base_url="http://127.0.0.1", transport=httpx2.MockTransport(handler), timeout=None
        )
        self.log = RequestLog([s.name for s in mix.scenarios])

    async def run(self, watch: Callable[[Executor], None] = lambda executor: None) -> Executor:
        clock = Clock()
        sender = Sender(self._client, clock.now, self._plan.timeout, "test")
        factory = RequestFactory(self._mix)
        executor = Executor(self._plan, factory, sender, self.log, clock, self._mix.seed)
        watch(executor)
        async with self._client:
            await executor.run()
        return executor
