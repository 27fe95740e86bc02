"""How one request of the load test ends, against servers that are functions."""

from __future__ import annotations

import asyncio
import math

import httpx2
import pytest

from experimance.load.outcomes import Ending
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
