"""Runs against servers that are functions: every request has one end, and it is the right one."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimance.load.ledger import Ledger, Record
from experimance.load.outcomes import Ending
from experimance.load.percentiles import percentile
from experimance.load.run import Run
from experimance.load.summary import Figures, measured
from tests.unit.load_runs import (
    Loaded,
    picture,
    plan,
    refusal,
    traffic,
)


async def quick(request: httpx2.Request) -> httpx2.Response:
    return picture()


class Stalling:
    """Paints one picture at a time, quickly, but for one long stall."""

    def __init__(self, after: int, seconds: float) -> None:
        self._turn = asyncio.Lock()
        self._left = after
        self._stall = seconds

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        async with self._turn:
            self._left -= 1
            await asyncio.sleep(self._stall if self._left == 0 else 0.004)
        return picture()


async def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() -> None:
    mix = traffic()
    latencies = {}
    for name, load in {
        "closed": {"clients": "1", "think": "0.02"},
        "open": {"rate": "40", "arrivals": "constant"},
    }.items():
        loaded = Loaded(Stalling(10, 0.5), mix, plan(mix, duration="1.2s", **load))
        await loaded.go()
        latencies[name] = loaded.ledger.table().latency
    assert len(latencies["closed"]) >= 15
    # One caller waits through the stall, and sends nothing meanwhile that could suffer.
    assert np.count_nonzero(latencies["closed"] > 0.2) == 1
    assert percentile(latencies["closed"], 90) < 0.1
    # Those who would have come meanwhile waited too: 0.5 s at 40 per second.
    assert len(latencies["open"]) == 48
    assert np.count_nonzero(latencies["open"] > 0.2) >= 10
    assert percentile(latencies["open"], 90) > 0.3


async def test_latency_counts_from_when_it_was_due_even_if_the_generator_was_late() -> None:
    import time

    mix = traffic()
    loaded = Loaded(quick, mix, plan(mix, rate="50", arrivals="constant", duration="0.5s"))

    def block(run: Run) -> None:
        # Holds the whole event loop up.
        asyncio.get_running_loop().call_later(0.1, time.sleep, 0.25)

    await loaded.go(block)
    table = loaded.ledger.table()
    assert table.latency.max() > 0.2
    assert table.service_time.max() < 0.2
    assert np.allclose(np.diff(np.sort(table["intended"])), 0.02)


async def test_what_is_due_beyond_the_bound_is_unsent_and_counted() -> None:
    async def slow(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0.4)
        return picture()

    mix = traffic()
    its_plan = plan(mix, rate="50", arrivals="constant", duration="0.3s", most=3)
    loaded = Loaded(slow, mix, its_plan)
    run = await loaded.go()
    table = loaded.ledger.table()
    figures = Figures.of(measured(loaded.ledger, 0), 0, run.sending_ended)
    assert figures.endings["unsent"] == len(table) - 3 == 12
    assert figures.sent == run.sent == 3
    assert figures.sums_agree


async def test_clients_come_and_go_with_a_ramp_and_think() -> None:
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
    await Loaded(handler, mix, plan(mix, clients="1..3:0.6s,1:0.3s")).go()
    assert max(at_once[: len(at_once) // 4]) == 1
    assert max(at_once) in {2, 3}
    assert at_once[-3:] == [1, 1, 1]
    loaded = Loaded(handler, mix, plan(mix, clients="1", think="0.1", duration="0.5s"))
    await loaded.go()
    assert 3 <= len(loaded.ledger) <= 4


async def test_a_count_ends_a_run_and_the_warm_up_is_not_counted() -> None:
    mix = traffic()
    loaded = Loaded(
        quick, mix, plan(mix, rate="100", arrivals="constant", requests=20, warmup="0.2s")
    )
    run = await loaded.go()
    assert len(measured(loaded.ledger, 0.2)) == 20
    assert len(loaded.ledger) == 40
    assert run.sending_ended == pytest.approx(0.4, abs=0.1)


async def test_refused_requests_come_again_only_when_told_to() -> None:
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
        run = await loaded.go()
        figures = Figures.of(loaded.ledger.table(), 0, run.sending_ended)
        assert figures.requests == 6
        assert figures.endings["ok" if retry else "refused"] == 6
        assert figures.resent == (12 if retry else 0)
        assert sum(seen.values()) == (18 if retry else 6)


async def test_stopping_waits_and_aborting_does_not() -> None:
    async def slow(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0.3)
        return picture()

    mix = traffic()
    for load in ({"clients": "3"}, {"rate": "30"}):
        loaded = Loaded(slow, mix, plan(mix, **load))
        run = await loaded.go(
            lambda run: asyncio.get_running_loop().call_later(0.2, run.stop) and None
        )
        assert loaded.ledger.table().codes == ("ok",)
        assert run.sending_ended == pytest.approx(0.2, abs=0.1)
        loaded = Loaded(slow, mix, plan(mix, **load))
        await loaded.go(lambda run: asyncio.get_running_loop().call_later(0.1, run.abort) and None)
        table = loaded.ledger.table()
        assert table.codes == ("interrupted",)
        assert len(table) >= 1
        assert loaded.ledger.unended == 0


RESPONSES = st.sampled_from(["ok", "refused", "failed", "slow", "broken", "raises"])


@settings(max_examples=10, deadline=None)
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
        run = await loaded.go()
        table = loaded.ledger.table()
        assert loaded.ledger.unended == run.in_flight == 0
        assert sorted(table["number"]) == list(range(30))
        assert sum(table["attempts"]) == answered
        figures = Figures.of(table, 0, run.sending_ended)
        assert figures.requests == 30
        assert figures.sums_agree

    asyncio.run(scenario())


def test_a_ledger_takes_each_end_once() -> None:
    ledger = Ledger(["a"])
    record = Record(7, 0, 0.0, 0.0, 1.0, Ending.OK, "ok")
    with pytest.raises(KeyError):
        ledger.close(record)
    ledger.open(7)
    with pytest.raises(ValueError, match="7 is open"):
        ledger.open(7)
    ledger.close(record)
    with pytest.raises(KeyError):
        ledger.close(record)
    assert len(ledger) == 1
