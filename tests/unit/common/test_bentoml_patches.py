"""No request leaves a timer behind."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from bentoml._internal.server.base_app import BaseAppFactory
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import runners.server.service  # noqa: F401


class Factory(BaseAppFactory):
    @property
    def name(self) -> str:
        return "test"

    async def readyz(self, _: Any) -> Any:
        return None


async def test_bentoml_requests_leave_no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = [Route("/", lambda _: PlainTextResponse("here"))]
    app = Starlette(routes=routes, middleware=Factory(timeout=1e9).middlewares)
    loop = asyncio.get_running_loop()
    call_at, timers = loop.call_at, list[asyncio.TimerHandle]()

    def recorded(*args: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*args, **options))
        return timers[-1]

    # call_later goes through it too.
    monkeypatch.setattr(loop, "call_at", recorded)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as web:
        for _ in range(20):
            assert (await web.get("/")).text == "here"
    pending = [each for each in timers if not each.cancelled() and each.when() > loop.time()]
    assert len(pending) <= 1
