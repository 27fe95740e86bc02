"""The gateway against a runner that answers, fails, hangs, or dies."""

from __future__ import annotations

import asyncio

import pytest

from api.errors import ApiError, Conflict, Overloaded, Unavailable
from api.runner_client import FULL_TRUSTED_SECONDS, RunnerClient
from common.protocol import (
    CancelCommand,
    JobDone,
    JobFailed,
    LoadCommand,
    Queued,
    Started,
    Step,
)
from tests.support.runner.fake_runner import JOB, PHOTOGRAPH, FakeRunner, stays
from tests.support.virtual_time import in_virtual_time

DONE = JobDone((b"picture",), "png", "EulerDiscreteScheduler", {})


async def test_the_pictures_of_a_job() -> None:
    runner = FakeRunner(Queued(0), Started(), Step(1, 1), DONE)
    assert await RunnerClient(runner).paint(JOB, stays) == DONE
    assert runner.jobs == [JOB]
    assert runner.orders == []


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (JobFailed("cancelled", "m"), 409),
        (JobFailed("superseded", "m"), 409),
        (JobFailed("overloaded", "m", 3.2), 429),
        (JobFailed("deadline_exceeded", "m"), 504),
        (JobFailed("out_of_memory", "m", 5), 503),
        (JobFailed("invalid_request", "m"), 400),
        (JobFailed("internal", "secret"), 500),
        (JobFailed("unheard_of", "secret"), 500),
    ],
)
async def test_failures_become_the_contracts_errors(failure: JobFailed, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        await RunnerClient(FakeRunner(Queued(0), failure)).paint(JOB, stays)
    error = caught.value
    response = error.response("r")
    assert response.status_code == status
    assert error.code == ("internal" if status == 500 else failure.error)
    assert b"secret" not in response.body
    if failure.retry_after:
        assert response.headers["Retry-After"] == ("4" if status == 429 else "5")


@pytest.mark.parametrize("runner", [FakeRunner(Queued(0), dies=True), FakeRunner(Started())])
async def test_lost_runner_raises_unavailable(runner: FakeRunner) -> None:
    with pytest.raises(Unavailable) as caught:
        await RunnerClient(runner).paint(JOB, stays)
    assert caught.value.code == "runner_lost"
    assert caught.value.retry_after


@in_virtual_time
async def test_client_disconnect_cancels_the_job() -> None:
    runner = FakeRunner(Started(), hangs=True)

    async def leaves() -> bool:
        return bool(runner.jobs)

    with pytest.raises(Conflict):
        await RunnerClient(runner).paint(JOB, leaves)
    await asyncio.sleep(0.05)
    assert runner.orders == [CancelCommand(request_id="r", subscriber="s")]


@in_virtual_time
async def test_the_depth_of_a_photograph() -> None:
    runner = FakeRunner()
    assert await RunnerClient(runner).estimate(PHOTOGRAPH, stays) == b"abcd"
    await asyncio.sleep(0.05)
    assert runner.orders == []


@pytest.mark.parametrize(
    ("runner", "status", "code"),
    [
        (FakeRunner(JobFailed("out_of_memory", "m", 5.0)), 503, "out_of_memory"),
        (FakeRunner(JobFailed("overloaded", "m", 2.0)), 429, "overloaded"),
        (FakeRunner(JobFailed("internal", "secret")), 500, "internal"),
        (FakeRunner(dies=True), 503, "runner_lost"),
        (FakeRunner(Started()), 503, "runner_lost"),
    ],
)
async def test_an_estimate_that_fails(runner: FakeRunner, status: int, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        await RunnerClient(runner).estimate(PHOTOGRAPH, stays)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert b"secret" not in caught.value.response("r").body


@pytest.mark.parametrize("by_task", [True, False])
@in_virtual_time
async def test_cancelled_estimate_frees_the_runner_and_awaits_its_end(by_task: bool) -> None:
    runner = FakeRunner(hangs=True)
    gateway = RunnerClient(runner)

    async def leaves() -> bool:
        return runner.estimating > 0 and not by_task

    call = asyncio.create_task(gateway.estimate(PHOTOGRAPH, leaves))
    if by_task:
        await asyncio.sleep(0.05)
        call.cancel()
    with pytest.raises((Conflict, asyncio.CancelledError)):
        await call
    await asyncio.sleep(0.05)
    assert runner.orders == [CancelCommand(request_id="r", subscriber="s")]
    # The estimate is still awaited.
    assert len(asyncio.all_tasks()) == 2
    runner.heard_out.set()
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_closed_stream_cancels_the_job() -> None:
    runner = FakeRunner(Queued(0), Started(), hangs=True)
    events = RunnerClient(runner).events(JOB)
    assert await anext(events) == Queued(0)
    await events.aclose()
    await asyncio.sleep(0.05)
    assert runner.orders == [CancelCommand(request_id="r", subscriber="s")]


@in_virtual_time
async def test_a_finished_stream_cancels_nothing() -> None:
    runner = FakeRunner(Queued(0), DONE)
    assert [event async for event in RunnerClient(runner).events(JOB)] == [Queued(0), DONE]
    await asyncio.sleep(0.05)
    assert runner.orders == []


@in_virtual_time
async def test_status_never_waits_for_a_busy_runner() -> None:
    runner = FakeRunner()
    gateway = RunnerClient(runner)
    assert (await gateway.status()).waiting == 3
    runner.status_delay = 0.4
    async with asyncio.timeout(0.1):
        assert (await gateway.status()).waiting == 3
    runner.dies = True
    await asyncio.sleep(0.5)
    assert (await gateway.status()).state == "starting"


@in_virtual_time
async def test_full_runner_rejects_until_its_status_expires() -> None:
    runner = FakeRunner()
    gateway = RunnerClient(runner)
    await gateway.raise_if_overloaded()
    runner.full = 7.0
    await asyncio.sleep(0.15)
    with pytest.raises(Overloaded, match="3 requests are waiting") as refused:
        await gateway.raise_if_overloaded()
    assert refused.value.retry_after == 7.0
    runner.status_delay = 60
    await asyncio.sleep(FULL_TRUSTED_SECONDS - 0.1)
    with pytest.raises(Overloaded):
        await gateway.raise_if_overloaded()
    await asyncio.sleep(0.1)
    await gateway.raise_if_overloaded()


async def test_orders() -> None:
    runner = FakeRunner()
    gateway = RunnerClient(runner)
    assert await gateway.cancel(CancelCommand(all=True)) == ("r",)
    assert (await gateway.load(LoadCommand("base"))).loaded_models == ("base",)
    runner.load_error = "not_ready"
    with pytest.raises(Unavailable):
        await gateway.load(LoadCommand("base"))
    with pytest.raises(Unavailable):
        await gateway.unload(LoadCommand("base"))
