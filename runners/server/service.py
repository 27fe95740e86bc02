"""Runner service: a BentoML service whose process owns the engines and devices."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import bentoml

from common.bentoml_patches import disable_timeout_middleware, patch_uvicorn_keep_alive
from common.framing import pack, unpack
from common.process_memory import gc_frozen_after
from common.protocol import (
    CancelCommand,
    Cancelled,
    DepthResult,
    EstimateJob,
    Event,
    GenerateJob,
    JobDone,
    JobFailed,
    LoadCommand,
    LoadResult,
    RunnerStatus,
)
from runners.cuda_allocator import set_allocator_default

if TYPE_CHECKING:
    from runners.server.app import RunnerApp

_FOREVER = 1e9

# Both processes import this module, and both need the patches.
disable_timeout_middleware()
patch_uvicorn_keep_alive()

# BentoML would show the process only the one GPU that its service declares. The runner uses every
# GPU that it sees, within an operator's CUDA_VISIBLE_DEVICES.
os.environ.setdefault("BENTOML_DISABLE_GPU_ALLOCATION", "1")


# By default BentoML closes its connection to a dependent service after 100 requests or 300 seconds,
# which aborts the calls in flight.
@bentoml.service(
    workers=1,
    resources={"gpu": 1},
    traffic={"timeout": _FOREVER},
    logging={"access": {"enabled": False}},
    runner_connection={"max_requests": int(_FOREVER), "max_age": _FOREVER},
)
class SDXLRunner:
    """Runner service; every argument and result is a frame of `common.protocol`."""

    def __init__(self) -> None:
        set_allocator_default()
        # A lazy import, because the public service imports this module and must not import torch.
        with gc_frozen_after():
            from runners.server.app import RunnerApp

        self._host: RunnerApp = RunnerApp.start()

    @bentoml.api
    async def paint(self, job: bytes) -> AsyncGenerator[bytes, None]:
        """Generate a GenerateJob and stream its events; the last is JobDone or JobFailed."""
        order = unpack(job, GenerateJob)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        self._host.pool.submit(order, emit)
        try:
            while True:
                event = await events.get()
                yield pack(event)
                if isinstance(event, JobDone | JobFailed):
                    return
        finally:
            self._host.pool.cancel(CancelCommand.for_disconnect(order))

    @bentoml.api
    async def estimate(self, job: bytes) -> bytes:
        """Run an EstimateJob and return DepthResult or JobFailed."""
        order = unpack(job, EstimateJob)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[DepthResult | JobFailed] = loop.create_future()

        def settle(outcome: DepthResult | JobFailed) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def on_outcome(outcome: DepthResult | JobFailed) -> None:
            loop.call_soon_threadsafe(settle, outcome)

        self._host.pool.estimate(order, on_outcome)
        try:
            return pack(await answer)
        finally:
            self._host.pool.cancel(CancelCommand.for_disconnect(order))

    @bentoml.api
    async def cancel(self, order: bytes) -> bytes:
        """Execute a CancelCommand and return Cancelled."""
        message = unpack(order, CancelCommand)
        return pack(Cancelled(self._host.pool.cancel(message)))

    @bentoml.api
    async def load(self, order: bytes) -> bytes:
        """Execute a LoadCommand and return LoadResult after the load."""
        message = unpack(order, LoadCommand)
        started = time.monotonic()
        error = await self._host.load(message)
        return self._outcome("loaded", error, started)

    @bentoml.api
    async def unload(self, order: bytes) -> bytes:
        """Unload the entries of a LoadCommand and return LoadResult.

        Running requests keep their weights until they end.
        """
        message = unpack(order, LoadCommand)
        started = time.monotonic()
        unloaded = await asyncio.to_thread(self._host.unload, message)
        return self._outcome(f"unloaded {', '.join(unloaded) or 'nothing'}", None, started)

    @bentoml.api
    async def status(self) -> bytes:
        """Return RunnerStatus."""
        status: RunnerStatus = self._host.status()
        return pack(status)

    @bentoml.on_shutdown
    def _stop(self) -> None:
        self._host.close()

    def __is_ready__(self) -> bool:
        """Return whether requests can start immediately; BentoML's `/readyz` calls this."""
        return self._host.status().state in {"ready", "degraded"}

    def _outcome(self, message: str, error: str | None, started: float) -> bytes:
        status = self._host.status()
        return pack(
            LoadResult(
                message=error or message,
                loaded_models=status.loaded_models,
                loaded_controlnets=status.loaded_controlnets,
                seconds=time.monotonic() - started,
                error="not_ready" if error else None,
            )
        )
