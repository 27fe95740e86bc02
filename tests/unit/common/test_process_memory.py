"""Freed memory is returned to the system when a process is idle."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
import threading
import time

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
from common.protocol import LoadCommand
from common.settings import Settings
from runners.engine.engine import Engine
from runners.server.app import RunnerApp
from runners.server.startup_timer import StartupTimer
from testing.workbench import DEVICE, Listener, demo_catalog
from tests.support.runner.jobs import job

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
    monkeypatch.setattr(runners.engine.engine, "IDLE_TRIM_SECONDS", 0.2)
    monkeypatch.setattr(
        runners.engine.engine, "trim_heap", lambda: trims.append(threading.current_thread().name)
    )
    engine.start()
    try:
        for count in (1, 2):
            listener = Listener()
            engine.submit(job(f"request-{count}", steps=2), listener)
            until = time.monotonic() + 20
            while len(trims) < count and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(0.5)
            assert trims == ["engine"] * count
    finally:
        engine.close()


def test_unloading_weights_trims_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[bool] = []
    monkeypatch.setattr(runners.server.app, "trim_heap", lambda: trims.append(True))
    host = RunnerApp(demo_catalog(), Settings(), [DEVICE], StartupTimer())
    try:
        residency = host.pool.stations[0].residency
        monkeypatch.setattr(residency, "unload_variant", lambda name: name == "lightning")
        assert host.unload(LoadCommand(model="hyper", controlnet=None)) == ()
        assert trims == []
        assert host.unload(LoadCommand(model="lightning", controlnet=None)) == ("lightning",)
        assert trims == [True]
    finally:
        host.close()


async def test_idle_public_process_trims_heap_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trims: list[bool] = []
    monkeypatch.setattr(common.process_memory, "IDLE_TRIM_SECONDS", 0.2)
    monkeypatch.setattr(common.process_memory, "trim_heap", lambda: trims.append(True))

    async def answer(request: Request) -> Response:
        await asyncio.sleep(float(request.query_params.get("seconds", 0)))
        return Response()

    routes = [Route("/generate", answer, methods=["POST"]), Route("/healthcheck", answer)]
    transport = httpx.ASGITransport(ApiMiddleware(Starlette(routes=routes)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
        long = asyncio.create_task(web.post("/generate?seconds=1.5"))
        assert (await web.post("/generate")).status_code == 200
        await asyncio.sleep(0.5)
        assert not long.done()
        assert not trims
        await long
        for _ in range(10):
            await asyncio.sleep(0.1)
            assert (await web.get("/healthcheck")).status_code == 200
        assert len(trims) == 1
