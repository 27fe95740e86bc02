"""Runs against mock servers: every request gets exactly one outcome."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimance.load.executor import Executor
from experimance.load.outcomes import OutcomeGroup
from experimance.load.recorder import Record, RequestLog
from experimance.load.statistics import RequestStats, after_warmup, percentile
from tests.support.load_runs import Loaded, picture, plan, refusal, traffic
from tests.support.virtual_time import (
    in_virtual_time,
    run_in_virtual_time,
    running_virtual_loop,
)


async def quick(request: httpx2.Request) -> httpx2.Response:
    return picture()


class Stalling:
    """Serves one request at a time, quickly except for one long stall."""

    def __init__(self, after: int, seconds: float) -> None:
        self._turn = asyncio.Lock()
        self._left = after
        self._stall = seconds

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        async with self._turn:
            self._left -= 1
            await asyncio.sleep(self._stall if self._left == 0 else 0.004)
        return picture()


@in_virtual_time
async def test_only_an_open_loop_shows_a_stall() -> None:
    mix = traffic()
    latencies = {}
    for name, load in {
        "closed": {"clients": "1", "think": "0.02"},
        "open": {"rate": "40", "arrivals": "constant"},
    }.items():
        loaded = Loaded(Stalling(10, 0.5), mix, plan(mix, duration="1.2s", **load))
        await loaded.run()
        latencies[name] = loaded.log.to_columns().latency
    assert len(latencies["closed"]) >= 25
    # One caller waits through the stall, and sends nothing meanwhile that could suffer.
    assert np.count_nonzero(latencies["closed"] > 0.2) == 1
    assert percentile(latencies["closed"], 90) < 0.1
    # Those who would have come meanwhile waited too: 0.5 s at 40 per second.
    assert len(latencies["open"]) == 48
    assert np.count_nonzero(latencies["open"] > 0.2) >= 10
    assert percentile(latencies["open"], 90) > 0.3


@in_virtual_time
async def test_latency_includes_lateness_of_the_generator() -> None:
    mix = traffic()
    loaded = Loaded(quick, mix, plan(mix, rate="50", arrivals="constant", duration="0.5s"))

    def block(executor: Executor) -> None:
        # Holds the whole event loop up.
        loop = running_virtual_loop()
        loop.call_later(0.1, loop.advance, 0.25)

    await loaded.run(block)
    columns = loaded.log.to_columns()
    assert columns.latency.max() > 0.2
    assert columns.service_time.max() == pytest.approx(0)
    assert np.allclose(np.diff(np.sort(columns["intended"])), 0.02)


@in_virtual_time
async def test_requests_beyond_max_in_flight_stay_unsent() -> None:
    async def slow(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0.4)
        return picture()

    mix = traffic()
    its_plan = plan(mix, rate="50", arrivals="constant", duration="0.3s", most=3)
    loaded = Loaded(slow, mix, its_plan)
    executor = await loaded.run()
    columns = loaded.log.to_columns()
    stats = RequestStats.of(columns, 0, executor.sending_ended)
    assert stats.endings["unsent"] == len(columns) - 3 == 12
    assert stats.sent == executor.sent == 3
    assert stats.sums_agree


@in_virtual_time
async def test_number_of_clients_follows_the_ramp() -> None:
    at_once: list[int] = []
    inside = 0

    async def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        await asyncio.sleep(0.03)
        inside -= 1
        return picture()

    mix = traffic()
    await Loaded(handler, mix, plan(mix, clients="1..3:0.6s,1:0.3s")).run()
    assert max(at_once[: len(at_once) // 4]) == 1
    # The third would come at the end of the ramp.
    assert max(at_once) == 2
    assert at_once[-3:] == [1, 1, 1]
    loaded = Loaded(handler, mix, plan(mix, clients="1", think="0.1", duration="0.5s"))
    await loaded.run()
    assert len(loaded.log) == 4


@in_virtual_time
async def test_request_limit_excludes_the_warm_up() -> None:
    mix = traffic()
    loaded = Loaded(
        quick, mix, plan(mix, rate="100", arrivals="constant", requests=20, warmup="0.2s")
    )
    executor = await loaded.run()
    assert len(after_warmup(loaded.log.to_columns(), 0.2)) == 20
    assert len(loaded.log) == 40
    assert executor.sending_ended == pytest.approx(0.405)


@in_virtual_time
async def test_refused_requests_are_retried_only_if_wanted() -> None:
    seen: Counter[str] = Counter()

    async def handler(request: httpx2.Request) -> httpx2.Response:
        name = "-".join(request.headers["x-request-id"].split("-")[:2])
        seen[name] += 1
        if seen[name] < 3:
            return refusal(429, "overloaded", {"Retry-After": "0"})
        return picture()

    mix = traffic()
    for retry in (False, True):
        seen.clear()
        loaded = Loaded(handler, mix, plan(mix, clients="2", requests=6, retry=retry))
        executor = await loaded.run()
        stats = RequestStats.of(loaded.log.to_columns(), 0, executor.sending_ended)
        assert stats.requests == 6
        assert stats.endings["ok" if retry else "refused"] == 6
        assert stats.resent == (12 if retry else 0)
        assert sum(seen.values()) == (18 if retry else 6)


@in_virtual_time
async def test_stop_waits_and_abort_does_not() -> None:
    async def slow(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0.3)
        return picture()

    mix = traffic()
    for load in ({"clients": "3"}, {"rate": "30"}):
        loaded = Loaded(slow, mix, plan(mix, **load))
        executor = await loaded.run(
            lambda executor: asyncio.get_running_loop().call_later(0.2, executor.stop) and None
        )
        assert loaded.log.to_columns().codes == ("ok",)
        assert executor.sending_ended == pytest.approx(0.2)
        loaded = Loaded(slow, mix, plan(mix, **load))
        await loaded.run(
            lambda executor: asyncio.get_running_loop().call_later(0.1, executor.abort) and None
        )
        columns = loaded.log.to_columns()
        assert columns.codes == ("interrupted",)
        assert len(columns) >= 1
        assert loaded.log.in_flight == 0


RESPONSES = st.sampled_from(["ok", "refused", "failed", "slow", "broken", "raises"])


@settings(max_examples=10)
@given(st.lists(RESPONSES, min_size=1, max_size=30), st.booleans(), st.integers(1, 5))
def test_no_outcome_is_lost(kinds: list[str], retry: bool, most: int) -> None:
    answered = 0

    async def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal answered
        kind = kinds[answered % len(kinds)]
        answered += 1
        match kind:
            case "ok":
                return picture()
            case "refused":
                return refusal(429, "overloaded", {"Retry-After": "0"})
            case "failed":
                return refusal(503, "runner_lost")
            case "slow":
                await asyncio.sleep(0.2)
                return picture()
            case "broken":
                return httpx2.Response(200, text="?")
        raise httpx2.ReadError("reset")

    async def scenario() -> None:
        mix = traffic()
        its_plan = plan(
            mix,
            rate="300",
            arrivals="constant",
            duration="0.1s",
            timeout=0.1,
            most=most,
            retry=retry,
        )
        loaded = Loaded(handler, mix, its_plan)
        executor = await loaded.run()
        columns = loaded.log.to_columns()
        assert loaded.log.in_flight == executor.in_flight == 0
        assert sorted(columns["number"]) == list(range(30))
        assert sum(columns["attempts"]) == answered
        stats = RequestStats.of(columns, 0, executor.sending_ended)
        assert stats.requests == 30
        assert stats.sums_agree

    run_in_virtual_time(scenario())


def test_log_accepts_each_outcome_once() -> None:
    log = RequestLog(["a"])
    record = Record(7, 0, 0.0, 0.0, 1.0, OutcomeGroup.OK, "ok")
    with pytest.raises(KeyError):
        log.close(record)
    log.open(7)
    with pytest.raises(ValueError, match="7 is open"):
        log.open(7)
    log.close(record)
    with pytest.raises(KeyError):
        log.close(record)
    assert len(log) == 1
