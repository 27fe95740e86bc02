"""Runs against servers that are functions: every request has one end, and it is the right one."""

from __future__ import annotations

import asyncio
import math
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
    PLAIN,
    TIMINGS,
    Handler,
    Loaded,
    picture,
    plan,
    refusal,
    stream,
    traffic,
)

STREAMED = PLAIN.replace("[[scenario]]", "[[scenario]]\nstream = true")


async def quick(request: httpx2.Request) -> httpx2.Response:
    return picture()


async def outcome(
    handler: Handler, text: str = PLAIN, patience: float = 5.0
) -> tuple[str, Ending, str]:
    """How one request ends: code, group, and what was said."""
    mix = traffic(text)
    loaded = Loaded(handler, mix, plan(mix, clients="1", requests=1, timeout=patience))
    await loaded.go()
    table = loaded.ledger.table()
    assert len(table) == 1
    (code,) = table.codes
    return code, Ending(int(table["ending"][0])), loaded.ledger.messages.get(code, "")


@pytest.mark.parametrize(
    ("status", "code", "ending"),
    [
        (400, "invalid_request", Ending.FAILED),
        (401, "unauthorized", Ending.FAILED),
        (409, "superseded", Ending.FAILED),
        (409, "cancelled", Ending.FAILED),
        (429, "overloaded", Ending.REFUSED),
        (503, "runner_lost", Ending.FAILED),
        (504, "deadline_exceeded", Ending.FAILED),
    ],
)
async def test_codes_of_the_contract(status: int, code: str, ending: Ending) -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        return refusal(status, code)

    assert await outcome(handler) == (code, ending, f"it is {code}")


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx2.Response(502, text="<h1>Bad gateway</h1>"), "http_502"),
        (httpx2.Response(429, text="slow down"), "http_429"),
        (httpx2.Response(302, headers={"location": "http://elsewhere/"}), "http_302"),
        (httpx2.Response(200, json={"success": True}), "bad_answer"),
        (httpx2.Response(200, json=[1]), "bad_answer"),
        (httpx2.Response(200, text="fine"), "bad_answer"),
        (
            httpx2.Response(500, content=b"{", headers={"content-type": "application/json"}),
            "http_500",
        ),
        (stream(("queued", {"position": 0})), "broken_stream"),
        (stream(("done", {"success": True})), "bad_answer"),
    ],
)
async def test_answers_that_are_not_the_contract_s(response: httpx2.Response, code: str) -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        return response

    text = STREAMED if "event-stream" in response.headers.get("content-type", "") else PLAIN
    found, ending, _ = await outcome(handler, text)
    assert found == code
    assert ending is (Ending.REFUSED if code == "http_429" else Ending.FAILED)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx2.ConnectError("refused"), "connection"),
        (httpx2.ReadError("reset"), "connection"),
        (httpx2.RemoteProtocolError("gone"), "protocol"),
        (httpx2.ReadTimeout("slow"), "timeout"),
    ],
)
async def test_what_transport_does(error: Exception, code: str) -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        raise error

    found, ending, message = await outcome(handler)
    assert (found, ending) == (code, Ending.FAILED)
    assert message == f"{type(error).__name__}: {error}"


async def test_patience_ends() -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(10)
        return picture()

    assert await outcome(handler, patience=0.1) == (
        "timeout",
        Ending.FAILED,
        "no answer within 0.1 s",
    )
    left = await outcome(handler, PLAIN + "leave = { after = 0.1 }")
    assert left[:2] == ("left", Ending.STOPPED)


async def test_what_the_scenario_wants_is_no_error() -> None:
    cancelled: list[bytes] = []
    names: list[str] = []
    called = asyncio.Event()

    async def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/cancel":
            cancelled.append(request.content)
            called.set()
            return httpx2.Response(200, json={"cancelled": []})
        names.append(request.headers["x-request-id"])
        await called.wait()
        return refusal(409, "cancelled")

    ended = await outcome(handler, PLAIN + "cancel = { after = 0.05 }")
    assert ended[:2] == ("cancelled", Ending.STOPPED)
    assert names[0].encode() in cancelled[0]

    async def superseding(request: httpx2.Request) -> httpx2.Response:
        return refusal(409, "superseded")

    text = PLAIN.replace('"hills" }', '"hills", session = "table" }')
    assert (await outcome(superseding, text))[:2] == ("superseded", Ending.STOPPED)


async def test_streams_tell_their_first_step_timings_and_errors() -> None:
    done = {"image_b64": "AAAA", "metadata": {"timings": TIMINGS}}

    async def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/generate_stream"
        return stream(("queued", {}), ("step", {"step": 1}), ("step", {"step": 2}), ("done", done))

    mix = traffic(STREAMED)
    loaded = Loaded(handler, mix, plan(mix, clients="1", requests=1))
    await loaded.go()
    table = loaded.ledger.table()
    assert table.codes == ("ok",)
    assert table["sent"][0] <= table["first"][0] <= table["ended"][0]
    assert [table[part][0] for part in TIMINGS] == list(TIMINGS.values())

    async def failing(request: httpx2.Request) -> httpx2.Response:
        return stream(("queued", {}), ("error", {"error": "overloaded", "error_message": "full"}))

    assert await outcome(failing, STREAMED) == ("overloaded", Ending.REFUSED, "full")


async def test_pictures_themselves_bring_timings_in_a_header() -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["accept"] == "image/png"
        headers = {"content-type": "image/png", "x-timings": '{"queue": 0.25}'}
        return httpx2.Response(200, content=b"png", headers=headers)

    mix = traffic(PLAIN + 'answer = "png"')
    loaded = Loaded(handler, mix, plan(mix, clients="1", requests=1))
    await loaded.go()
    table = loaded.ledger.table()
    assert (table.codes, table["queue"][0]) == (("ok",), 0.25)
    assert math.isnan(table["save"][0])


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
