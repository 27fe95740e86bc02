"""Freed memory is returned to the system when a process is idle."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
import threading

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import common.process_memory
import runners.engine.engine
import runners.server.app
from api.http.middleware import ApiMiddleware
from common.process_memory import IDLE_TRIM_SECONDS
from common.protocol import LoadCommand
from common.settings import Settings
from runners.engine.engine import Engine
from runners.engine.request_queue import RequestQueue
from runners.server.app import RunnerApp
from runners.server.startup_timer import StartupTimer
from testing.workbench import DEVICE, Listener, demo_catalog
from tests.support.runner.jobs import job
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import wait_until

_FRAGMENTS = """
import psutil
from common.process_memory import trim_heap
# Below the size from which each block is mapped by itself; every hundredth stays.
kept = [bytearray(50_000) for _ in range(4_000)][::100]
before = psutil.Process().memory_info().rss
trim_heap()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is not glibc's")
def test_trim_releases_memory_between_live_blocks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FRAGMENTS], capture_output=True, check=True, text=True
    )
    assert int(done.stdout) > 150_000_000


def test_idle_engine_trims_heap_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[str] = []
    waits: list[float | None] = []
    wait = RequestQueue.wait

    def wait_for_no_timer(self: RequestQueue, timeout: float | None) -> bool:
        waits.append(timeout)
        return wait(self, None if timeout is None else 0)

    monkeypatch.setattr(RequestQueue, "wait", wait_for_no_timer)
    monkeypatch.setattr(
        runners.engine.engine, "trim_heap", lambda: trims.append(threading.current_thread().name)
    )
    engine.submit(job("request-1", steps=2), Listener())
    engine.start()
    try:
        for count in (1, 2):
            # Without a limit it waits for the next request, and so trims no more.
            wait_until(lambda: waits[-1:] == [None] or len(trims) > 2)
            assert trims == ["engine"] * count
            assert waits[-2:] == [IDLE_TRIM_SECONDS, None]
            waits.clear()
            engine.submit(job(f"request-{count + 1}", steps=2), Listener())
    finally:
        engine.close()


def test_unloading_weights_trims_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[bool] = []
    monkeypatch.setattr(runners.server.app, "trim_heap", lambda: trims.append(True))
    host = RunnerApp(demo_catalog(), Settings(), [DEVICE], StartupTimer())
    try:
        model_cache = host.pool.workers[0].model_cache
        monkeypatch.setattr(model_cache, "unload_variant", lambda name: name == "lightning")
        assert host.unload(LoadCommand(model="hyper", controlnet=None)) == ()
        assert trims == []
        assert host.unload(LoadCommand(model="lightning", controlnet=None)) == ("lightning",)
        assert trims == [True]
    finally:
        host.close()


@in_virtual_time
async def test_idle_public_process_trims_heap_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trims: list[bool] = []
    monkeypatch.setattr(common.process_memory, "trim_heap", lambda: trims.append(True))

    async def answer(request: Request) -> Response:
        await asyncio.sleep(float(request.query_params.get("seconds", 0)))
        return Response()

    routes = [Route("/generate", answer, methods=["POST"]), Route("/healthcheck", answer)]
    transport = httpx.ASGITransport(ApiMiddleware(Starlette(routes=routes)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
        long = asyncio.create_task(web.post("/generate?seconds=100"))
        assert (await web.post("/generate")).status_code == 200
        await asyncio.sleep(50)
        assert not long.done()
        assert not trims
        await long
        await asyncio.sleep(0.8 * IDLE_TRIM_SECONDS)
        assert (await web.post("/generate")).status_code == 200
        await asyncio.sleep(0.8 * IDLE_TRIM_SECONDS)
        assert not trims
        for _ in range(100):
            await asyncio.sleep(1)
            assert (await web.get("/healthcheck")).status_code == 200
        assert len(trims) == 1
