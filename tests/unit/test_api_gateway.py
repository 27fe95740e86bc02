"""The gateway against a runner that answers, fails, hangs, or dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import aiohttp
import pytest

from api.errors import ApiError, Conflict, Overloaded, Unavailable
from api.gateway import Gateway
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
    Queued,
    RunnerStatus,
    Started,
    Step,
    pack,
    unpack,
)
from tests.unit.test_messages import JOB

PHOTOGRAPH = EstimateJob("r", "s", "relief", bytes(12), 2, 2)
DONE = Done((b"picture",), "png", "EulerDiscreteScheduler", {})


class FakeRunner:
    """Plays events; `dies` ends the stream with a lost connection, `hangs` never ends it."""

    def __init__(self, *events: Event, dies: bool = False, hangs: bool = False) -> None:
        self.events = events
        self.dies = dies
        self.hangs = hangs
        self.jobs: list[PaintJob] = []
        self.orders: list[CancelOrder] = []
        self.status_delay = 0.0
        self.full: float | None = None
        self.load_error: str | None = None
        self.estimating = 0
        self.heard_out = asyncio.Event()

    async def paint(self, job: bytes) -> AsyncGenerator[bytes, None]:
        self.jobs.append(unpack(job, PaintJob))
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
        return b"".join(map(pack, self.events)) or pack(Estimated(b"abcd", 0.1))

    async def cancel(self, order: bytes) -> bytes:
        self.orders.append(unpack(order, CancelOrder))
        return pack(Cancelled(("r",)))

    async def load(self, order: bytes) -> bytes:
        return pack(LoadOutcome("m", ("base",), (), 0.1, self.load_error))

    async def unload(self, order: bytes) -> bytes:
        raise ConnectionRefusedError

    async def status(self) -> bytes:
        await asyncio.sleep(self.status_delay)
        if self.dies:
            raise aiohttp.ServerDisconnectedError
        return pack(RunnerStatus("ready", waiting=3, full=self.full))


async def stays() -> bool:
    return False


async def test_the_pictures_of_a_job() -> None:
    runner = FakeRunner(Queued(0), Started(), Step(1, 1), DONE)
    assert await Gateway(runner).paint(JOB, stays) == DONE
    assert runner.jobs == [JOB]
    assert runner.orders == []


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Failed("cancelled", "m"), 409),
        (Failed("superseded", "m"), 409),
        (Failed("overloaded", "m", 3.2), 429),
        (Failed("deadline_exceeded", "m"), 504),
        (Failed("out_of_memory", "m", 5), 503),
        (Failed("invalid_request", "m"), 400),
        (Failed("internal", "secret"), 500),
        (Failed("unheard_of", "secret"), 500),
    ],
)
async def test_failures_become_the_contracts_errors(failure: Failed, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        await Gateway(FakeRunner(Queued(0), failure)).paint(JOB, stays)
    error = caught.value
    response = error.response("r")
    assert response.status_code == status
    assert error.code == ("internal" if status == 500 else failure.error)
    assert b"secret" not in response.body
    if failure.retry_after:
        assert response.headers["Retry-After"] == ("4" if status == 429 else "5")


@pytest.mark.parametrize("runner", [FakeRunner(Queued(0), dies=True), FakeRunner(Started())])
async def test_a_lost_runner_is_said_so(runner: FakeRunner) -> None:
    with pytest.raises(Unavailable) as caught:
        await Gateway(runner).paint(JOB, stays)
    assert caught.value.code == "runner_lost"
    assert caught.value.retry_after


async def test_a_caller_who_hangs_up_frees_the_runner() -> None:
    runner = FakeRunner(Started(), hangs=True)

    async def leaves() -> bool:
        return bool(runner.jobs)

    with pytest.raises(Conflict):
        await Gateway(runner).paint(JOB, leaves)
    await asyncio.sleep(0.05)
    assert runner.orders == [CancelOrder(request_id="r", subscriber="s")]


async def test_the_depth_of_a_photograph() -> None:
    runner = FakeRunner()
    assert await Gateway(runner).estimate(PHOTOGRAPH, stays) == b"abcd"
    await asyncio.sleep(0.05)
    assert runner.orders == []


@pytest.mark.parametrize(
    ("runner", "status", "code"),
    [
        (FakeRunner(Failed("out_of_memory", "m", 5.0)), 503, "out_of_memory"),
        (FakeRunner(Failed("overloaded", "m", 2.0)), 429, "overloaded"),
        (FakeRunner(Failed("internal", "secret")), 500, "internal"),
        (FakeRunner(dies=True), 503, "runner_lost"),
        (FakeRunner(Started()), 503, "runner_lost"),
    ],
)
async def test_an_estimate_that_fails(runner: FakeRunner, status: int, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        await Gateway(runner).estimate(PHOTOGRAPH, stays)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert b"secret" not in caught.value.response("r").body


@pytest.mark.parametrize("by_task", [True, False])
async def test_leaving_an_estimate_frees_the_runner_and_hears_it_out(by_task: bool) -> None:
    runner = FakeRunner(hangs=True)
    gateway = Gateway(runner)

    async def leaves() -> bool:
        return runner.estimating > 0 and not by_task

    call = asyncio.create_task(gateway.estimate(PHOTOGRAPH, leaves))
    if by_task:
        await asyncio.sleep(0.05)
        call.cancel()
    with pytest.raises((Conflict, asyncio.CancelledError)):
        await call
    await asyncio.sleep(0.05)
    assert runner.orders == [CancelOrder(request_id="r", subscriber="s")]
    runner.heard_out.set()
    await asyncio.sleep(0.05)
    assert not gateway._tasks


async def test_leaving_a_stream_frees_the_runner() -> None:
    runner = FakeRunner(Queued(0), Started(), hangs=True)
    events = Gateway(runner).events(JOB)
    assert await anext(events) == Queued(0)
    await events.aclose()
    await asyncio.sleep(0.05)
    assert runner.orders == [CancelOrder(request_id="r", subscriber="s")]


async def test_a_finished_stream_cancels_nothing() -> None:
    runner = FakeRunner(Queued(0), DONE)
    assert [event async for event in Gateway(runner).events(JOB)] == [Queued(0), DONE]
    await asyncio.sleep(0.05)
    assert runner.orders == []


async def test_status_never_waits_for_a_busy_runner() -> None:
    runner = FakeRunner()
    gateway = Gateway(runner)
    assert (await gateway.status()).waiting == 3
    runner.status_delay = 0.4
    started = time.monotonic()
    assert (await gateway.status()).waiting == 3
    assert time.monotonic() - started < 0.1
    runner.dies = True
    await asyncio.sleep(0.5)
    assert (await gateway.status()).state == "starting"


async def test_a_full_runner_refuses_until_it_has_been_silent_for_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.gateway._FULL_TRUSTED_SECONDS", 0.5)
    runner = FakeRunner()
    gateway = Gateway(runner)
    await gateway.refuse_if_full()
    runner.full = 7.0
    await asyncio.sleep(0.15)
    with pytest.raises(Overloaded, match="3 requests are waiting") as refused:
        await gateway.refuse_if_full()
    assert refused.value.retry_after == 7.0
    runner.status_delay = 60
    await asyncio.sleep(0.15)
    with pytest.raises(Overloaded):
        await gateway.refuse_if_full()
    await asyncio.sleep(0.5)
    await gateway.refuse_if_full()


async def test_orders() -> None:
    runner = FakeRunner()
    gateway = Gateway(runner)
    assert await gateway.cancel(CancelOrder(all=True)) == ("r",)
    assert (await gateway.load(LoadOrder("base"))).loaded_models == ("base",)
    runner.load_error = "not_ready"
    with pytest.raises(Unavailable):
        await gateway.load(LoadOrder("base"))
    with pytest.raises(Unavailable):
        await gateway.unload(LoadOrder("base"))
