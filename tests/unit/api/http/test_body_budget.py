"""The shared byte budget of unanswered bodies, with a reserve for small ones."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.errors import Overloaded
from api.http.body_budget import SMALL_BODY, BodyBudget
from api.http.middleware import MAX_BODY_BYTES, ApiMiddleware
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting import eventually

MIB = 2**20
JSON = {"Content-Type": "application/json"}


def test_closed_body_returns_its_budget() -> None:
    budget = BodyBudget(small=10, large=10)
    first = budget.open(6)
    with pytest.raises(Overloaded) as refused:
        budget.open(6)
    assert refused.value.retry_after
    first.close()
    budget.open(10).close()


def test_large_bodies_keep_no_small_one_out() -> None:
    budget = BodyBudget(small=SMALL_BODY, large=2 * MAX_BODY_BYTES)
    held = [budget.open(MAX_BODY_BYTES), budget.open(MAX_BODY_BYTES)]
    with pytest.raises(Overloaded, match="large bodies"):
        budget.open(SMALL_BODY + 1)
    small = budget.open(SMALL_BODY)
    with pytest.raises(Overloaded, match="small bodies"):
        budget.open(1)
    for holding in (*held, small):
        holding.close()


def test_body_without_length_counts_as_it_arrives() -> None:
    budget = BodyBudget(small=10, large=10)
    growing = budget.open(None)
    growing.grow(4)
    growing.grow(9)
    with pytest.raises(Overloaded):
        growing.grow(11)
    growing.close()
    budget.open(None).grow(10)


@pytest.mark.slow
@in_virtual_time
async def test_fifty_bodies_of_31_mib() -> None:
    """Those beyond the bound are refused before they are read, and a small one gets through."""
    ready = asyncio.Event()

    async def wait(request: Request) -> Response:
        await request.body()
        if b"small" not in await request.body():
            await ready.wait()
        return JSONResponse({})

    app = ApiMiddleware(Starlette(routes=[Route("/wait", wait, methods=["POST"])]))
    body = b'{"image_b64": "' + b"x" * (31 * MIB) + b'"}'
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", headers=JSON
    ) as client:
        large = [asyncio.ensure_future(client.post("/wait", content=body)) for _ in range(50)]
        for answer in itertools.islice(asyncio.as_completed(large), 47):
            assert (await answer).status_code == 429
        small = await client.post("/wait", content=b'{"a": "small"}')
        assert small.status_code == 200
        ready.set()
        statuses = [answer.status_code for answer in await asyncio.gather(*large)]
        assert (statuses.count(200), statuses.count(429)) == (3, 47)
        # All of it was given back.
        assert (await client.post("/wait", content=body)).status_code == 200


async def test_discarding_is_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bodies are discarded at once, together they arrive at 64 MiB/s."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    budget = BodyBudget()
    await asyncio.gather(*(budget.pace(MIB) for _ in range(64)))
    assert sum(waited) == 1


async def test_rejected_sender_receives_the_error() -> None:
    """The body is received to its end: a connection that is closed before loses the answer."""
    app = ApiMiddleware(Starlette())
    left, answers, stalls = 40, list[Any](), 0

    def post(length: int) -> dict[str, Any]:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
        return {"type": "http", "method": "POST", "path": "/generate", "headers": headers,
                "query_string": b""}  # fmt: skip

    async def stall() -> Any:
        nonlocal stalls
        stalls += 1
        await asyncio.Event().wait()

    async def receive() -> Any:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": bytes(2**16), "more_body": left > 0}

    async def send(message: Any) -> None:
        answers.append(message)

    stalled = [asyncio.create_task(app(post(MAX_BODY_BYTES), stall, send)) for _ in range(3)]
    await eventually(lambda: stalls == len(stalled) or answers)
    assert not answers
    await app(post(5 * MIB), receive, send)
    assert answers[0]["status"] == 429
    assert left == 0
    for request in stalled:
        request.cancel()
    await asyncio.wait(stalled)
