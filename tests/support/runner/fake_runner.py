"""A runner that plays events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

from common.framing import pack, unpack
from common.protocol import (
    CancelCommand,
    Cancelled,
    DepthResult,
    EstimateJob,
    Event,
    GenerateJob,
    LoadResult,
    LoraWeight,
    RunnerStatus,
)

PHOTOGRAPH = EstimateJob("r", "s", "relief", bytes(12), 2, 2)


class FakeRunner:
    """Plays events; `dies` ends the stream with a lost connection, `hangs` never ends it."""

    def __init__(self, *events: Event, dies: bool = False, hangs: bool = False) -> None:
        self.events = events
        self.dies = dies
        self.hangs = hangs
        self.jobs: list[GenerateJob] = []
        self.orders: list[CancelCommand] = []
        self.status_delay = 0.0
        self.full: float | None = None
        self.load_error: str | None = None
        self.estimating = 0
        self.heard_out = asyncio.Event()

    async def paint(self, job: bytes) -> AsyncGenerator[bytes, None]:
        self.jobs.append(unpack(job, GenerateJob))
        stream = b"".join(map(pack, self.events))
        for start in range(0, len(stream), 7):
            yield stream[start : start + 7]
        if self.dies:
            raise aiohttp.ServerDisconnectedError
        if self.hangs:
            await asyncio.sleep(60)

    async def estimate(self, job: bytes) -> bytes:
        assert unpack(job, EstimateJob) == PHOTOGRAPH
        self.estimating += 1
        if self.dies:
            raise aiohttp.ServerDisconnectedError
        if self.hangs:
            await self.heard_out.wait()
        return b"".join(map(pack, self.events)) or pack(DepthResult(b"abcd", 0.1))

    async def cancel(self, order: bytes) -> bytes:
        self.orders.append(unpack(order, CancelCommand))
        return pack(Cancelled(("r",)))

    async def load(self, order: bytes) -> bytes:
        return pack(LoadResult("m", ("base",), (), 0.1, self.load_error))

    async def unload(self, order: bytes) -> bytes:
        raise ConnectionRefusedError

    async def status(self) -> bytes:
        await asyncio.sleep(self.status_delay)
        if self.dies:
            raise aiohttp.ServerDisconnectedError
        return pack(RunnerStatus("ready", waiting=3, retry_after=self.full))


async def stays() -> bool:
    return False


JOB = GenerateJob(
    request_id="r", subscriber="s", model="base", controlnet="c", prompt="Hügel 🏔",
    negative_prompt=None, seed=2**63 - 1, num_images=1, steps=2, guidance_scale=1.5,
    controlnet_strength=0.8, control_guidance_start=0.0, control_guidance_end=1.0,
    scheduler="auto", use_karras_sigmas=None, width=8, height=8, output_format="png",
    quality=90, depth=bytes(range(64)), loras=(LoraWeight("drone", 0.4),), deadline=1.5,
    parameters={"blob": [1], "prompt": "x"},
)  # fmt: skip
