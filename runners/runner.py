"""The runner: a BentoML service in a process of its own that owns the engine and the device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import bentoml

from runners.collector import collector_paused
from runners.keep_alive import keep_connections
from runners.messages import (
    Cancelled,
    CancelOrder,
    Done,
    Estimated,
    EstimateJob,
    Event,
    Failed,
    LoadOrder,
    LoadOutcome,
    PaintJob,
    RunnerStatus,
    pack,
    unpack,
)
from runners.untimed import do_without_timers

if TYPE_CHECKING:
    from runners.host import EngineHost

_FOREVER = 1e9

# Both processes import this module.
do_without_timers()
keep_connections()


# The connection that BentoML makes to a dependent service is otherwise closed every 100 requests
# or 300 seconds, with the calls in flight on it.
@bentoml.service(
    workers=1,
    resources={"gpu": 1},
    traffic={"timeout": _FOREVER},
    runner_connection={"max_requests": int(_FOREVER), "max_age": _FOREVER},
)
class SDXLRunner:
    """Paints jobs on one device. Every argument and result is a frame of runners.messages."""

    def __init__(self) -> None:
        # Imported here: the public service imports this module and must not import torch.
        with collector_paused():
            from runners.host import EngineHost

        self._host: EngineHost = EngineHost.start()

    @bentoml.api
    async def paint(self, job: bytes) -> AsyncGenerator[bytes, None]:
        """PaintJob in; a stream of events out, the last one Done or Failed."""
        order = unpack(job, PaintJob)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        self._host.pool.submit(order, emit)
        try:
            while True:
                event = await events.get()
                yield pack(event)
                if isinstance(event, Done | Failed):
                    return
        finally:
            self._host.pool.cancel(CancelOrder.leaving(order))

    @bentoml.api
    async def estimate(self, job: bytes) -> bytes:
        """EstimateJob in; Estimated or Failed out."""
        order = unpack(job, EstimateJob)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Estimated | Failed] = loop.create_future()

        def settle(outcome: Estimated | Failed) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def told(outcome: Estimated | Failed) -> None:
            loop.call_soon_threadsafe(settle, outcome)

        self._host.pool.estimate(order, told)
        try:
            return pack(await answer)
        finally:
            self._host.pool.cancel(CancelOrder.leaving(order))

    @bentoml.api
    async def cancel(self, order: bytes) -> bytes:
        """CancelOrder in, Cancelled out."""
        message = unpack(order, CancelOrder)
        return pack(Cancelled(self._host.pool.cancel(message)))

    @bentoml.api
    async def load(self, order: bytes) -> bytes:
        """LoadOrder in, LoadOutcome out, once the weights are there."""
        message = unpack(order, LoadOrder)
        started = time.monotonic()
        error = await self._host.load(message)
        return self._outcome("loaded", error, started)

    @bentoml.api
    async def unload(self, order: bytes) -> bytes:
        """LoadOrder in, LoadOutcome out; requests that use the weights finish first."""
        message = unpack(order, LoadOrder)
        started = time.monotonic()
        dropped = await asyncio.to_thread(self._host.unload, message)
        return self._outcome(f"unloaded {', '.join(dropped) or 'nothing'}", None, started)

    @bentoml.api
    async def status(self) -> bytes:
        """RunnerStatus out."""
        status: RunnerStatus = self._host.status()
        return pack(status)

    @bentoml.on_shutdown
    def _stop(self) -> None:
        self._host.close()

    def __is_ready__(self) -> bool:
        """For /readyz: true once requests would start at once."""
        return self._host.status().state in {"ready", "degraded"}

    def _outcome(self, message: str, error: str | None, started: float) -> bytes:
        status = self._host.status()
        return pack(
            LoadOutcome(
                message=error or message,
                loaded_models=status.loaded_models,
                loaded_controlnets=status.loaded_controlnets,
                seconds=time.monotonic() - started,
                error="not_ready" if error else None,
            )
        )
