"""Outcome of a single request against mock servers."""

from __future__ import annotations

import asyncio
import math

import httpx2
import pytest

from experimance.load.outcomes import OutcomeGroup
from tests.support.load_runs import (
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
from tests.support.virtual_time import in_virtual_time

STREAMED = PLAIN.replace("[[scenario]]", "[[scenario]]\nstream = true")


async def outcome(
    handler: Handler, text: str = PLAIN, patience: float = 5.0
) -> tuple[str, OutcomeGroup, str]:
    """Return code, group and message of one request."""
    mix = traffic(text)
    loaded = Loaded(handler, mix, plan(mix, clients="1", requests=1, timeout=patience))
    await loaded.run()
    columns = loaded.log.to_columns()
    assert len(columns) == 1
    (code,) = columns.codes
    return code, OutcomeGroup(int(columns["ending"][0])), loaded.log.messages.get(code, "")


@pytest.mark.parametrize(
    ("status", "code", "ending"),
    [
        (400, "invalid_request", OutcomeGroup.FAILED),
        (401, "unauthorized", OutcomeGroup.FAILED),
        (409, "superseded", OutcomeGroup.FAILED),
        (409, "cancelled", OutcomeGroup.FAILED),
        (429, "overloaded", OutcomeGroup.REFUSED),
        (503, "runner_lost", OutcomeGroup.FAILED),
        (504, "deadline_exceeded", OutcomeGroup.FAILED),
    ],
)
@in_virtual_time
async def test_codes_of_the_contract(status: int, code: str, ending: OutcomeGroup) -> None:
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
@in_virtual_time
async def test_responses_outside_the_contract(response: httpx2.Response, code: str) -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        return response

    text = STREAMED if "event-stream" in response.headers.get("content-type", "") else PLAIN
    found, ending, _ = await outcome(handler, text)
    assert found == code
    assert ending is (OutcomeGroup.REFUSED if code == "http_429" else OutcomeGroup.FAILED)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx2.ConnectError("refused"), "connection"),
        (httpx2.ReadError("reset"), "connection"),
        (httpx2.RemoteProtocolError("gone"), "protocol"),
        (httpx2.ReadTimeout("slow"), "timeout"),
    ],
)
@in_virtual_time
async def test_transport_errors(error: Exception, code: str) -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        raise error

    found, ending, message = await outcome(handler)
    assert (found, ending) == (code, OutcomeGroup.FAILED)
    assert message == f"{type(error).__name__}: {error}"


@in_virtual_time
async def test_timeouts_and_disconnects() -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(10)
        return picture()

    assert await outcome(handler, patience=0.1) == (
        "timeout",
        OutcomeGroup.FAILED,
        "no response within 0.1 s",
    )
    left = await outcome(handler, PLAIN + "leave = { after = 0.1 }")
    assert left[:2] == ("left", OutcomeGroup.STOPPED)


@in_virtual_time
async def test_intended_cancellations_are_not_errors() -> None:
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
    assert ended[:2] == ("cancelled", OutcomeGroup.STOPPED)
    assert names[0].encode() in cancelled[0]

    async def superseding(request: httpx2.Request) -> httpx2.Response:
        return refusal(409, "superseded")

    text = PLAIN.replace('"hills" }', '"hills", session = "table" }')
    assert (await outcome(superseding, text))[:2] == ("superseded", OutcomeGroup.STOPPED)


@in_virtual_time
async def test_streams_report_first_step_timings_and_errors() -> None:
    done = {"image_b64": "AAAA", "metadata": {"timings": TIMINGS}}

    async def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/generate_stream"
        return stream(("queued", {}), ("step", {"step": 1}), ("step", {"step": 2}), ("done", done))

    mix = traffic(STREAMED)
    loaded = Loaded(handler, mix, plan(mix, clients="1", requests=1))
    await loaded.run()
    columns = loaded.log.to_columns()
    assert columns.codes == ("ok",)
    assert columns["sent"][0] <= columns["first"][0] <= columns["ended"][0]
    assert [columns[phase][0] for phase in TIMINGS] == list(TIMINGS.values())

    async def failing(request: httpx2.Request) -> httpx2.Response:
        return stream(("queued", {}), ("error", {"error": "overloaded", "error_message": "full"}))

    assert await outcome(failing, STREAMED) == ("overloaded", OutcomeGroup.REFUSED, "full")


@in_virtual_time
async def test_image_responses_have_timings_in_a_header() -> None:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["accept"] == "image/png"
        headers = {"content-type": "image/png", "x-timings": '{"queue": 0.25}'}
        return httpx2.Response(200, content=b"png", headers=headers)

    mix = traffic(PLAIN + 'answer = "png"')
    loaded = Loaded(handler, mix, plan(mix, clients="1", requests=1))
    await loaded.run()
    columns = loaded.log.to_columns()
    assert (columns.codes, columns["queue"][0]) == (("ok",), 0.25)
    assert math.isnan(columns["save"][0])
