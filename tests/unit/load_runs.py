"""Runs of the load test against a server that is a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import httpx2

from experimance.load.clock import Clock
from experimance.load.draft import Drafter
from experimance.load.ledger import Ledger
from experimance.load.plan import Plan, plan_of
from experimance.load.run import Run
from experimance.load.scenario import Traffic, parse_traffic
from experimance.load.sender import Sender

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
    return plan_of(mix, load, timeout=timeout, max_in_flight=most, respect_retry_after=retry)


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
    """A run's parts; `go` lets it run."""

    def __init__(self, handler: Handler, mix: Traffic, its_plan: Plan) -> None:
        self._mix, self._plan = mix, its_plan
        self._client = httpx2.AsyncClient(
            base_url="http://127.0.0.1", transport=httpx2.MockTransport(handler), timeout=None
        )
        self.ledger = Ledger([s.name for s in mix.scenarios])

    async def go(self, watch: Callable[[Run], None] = lambda run: None) -> Run:
        clock = Clock()
        sender = Sender(self._client, clock, self._plan.timeout, "test")
        run = Run(self._plan, Drafter(self._mix), sender, self.ledger, clock, self._mix.seed)
        watch(run)
        async with self._client:
            await run.go()
        return run
