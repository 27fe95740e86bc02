"""Event streams: complete, cut anywhere, and closed early."""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimance import AsyncClient, Client, Done, Queued, Started, Step, errors
from tests.support.client_service import Answers, Asker, events, painted, picture_file
from tests.support.waiting import eventually

PREVIEW = base64.b64encode(picture_file("blue", "JPEG")).decode()
NAMED: list[tuple[str, dict[str, Any]]] = [
    ("queued", {"position": 2}),
    ("started", {}),
    ("step", {"step": 1, "steps": 2}),
    ("step", {"step": 2, "steps": 2, "preview_b64": PREVIEW}),
    ("done", painted()),
]
WHOLE = events(*NAMED)


@pytest.fixture(params=["sync", "async"])
def asker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Asker:
    return Asker(request.param, monkeypatch)


class Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body in pieces, which may break off; knows whether it was closed."""

    def __init__(self, pieces: list[bytes], breaks: bool = False) -> None:
        self._pieces = pieces
        self._breaks = breaks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._breaks:
            raise httpx2.RemoteProtocolError("incomplete chunked read")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def stream_response(*pieces: bytes, breaks: bool = False) -> httpx2.Response:
    headers = {"Content-Type": "text/event-stream; charset=utf-8"}
    return httpx2.Response(200, headers=headers, stream=Pieces(list(pieces), breaks))


def test_events_come_as_they_are(asker: Asker) -> None:
    heard = asker.ask(Answers(stream_response(WHOLE)), "stream", "hills", "mock")
    assert heard[:3] == [Queued(2), Started(), Step(1, 2)]
    assert heard[3].preview.size == (8, 8)
    assert isinstance(heard[4], Done)
    assert heard[4].picture.seed == 7


@settings(max_examples=60)
@given(
    cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12),
    end=st.integers(0, len(WHOLE)) | st.just(len(WHOLE)),
    breaks=st.booleans(),
)
def test_a_stream_cut_anywhere(cuts: list[int], end: int, breaks: bool) -> None:
    """Pieces change nothing; of a stream that ends early all that came whole is heard."""
    at = sorted({0, *(cut for cut in cuts if cut < end), end})
    pieces = [WHOLE[start:stop] for start, stop in itertools.pairwise(at)]
    complete = end == len(WHOLE) and not breaks
    arrived = WHOLE[:end].count(b"\n\n")
    heard: list[Any] = []
    transport = httpx2.MockTransport(Answers(stream_response(*pieces, breaks=breaks)))
    with Client("http://service", transport=transport, retries=0) as client:
        try:
            for event in client.stream("hills", "mock"):
                heard.append(event)
        except errors.StreamEnded:
            assert not complete
        else:
            assert complete
    assert [type(event) for event in heard] == [Queued, Started, Step, Step, Done][:arrived]


def test_stream_is_retried_before_its_first_event(asker: Asker) -> None:
    overloaded = events(("error", {"success": False, "error": "overloaded", "error_message": "!"}))
    service = Answers(
        httpx2.ConnectError("refused"),
        httpx2.Response(503, text="starting"),
        stream_response(overloaded),
        stream_response(WHOLE),
    )
    assert len(asker.ask(service, "stream", "hills", "mock")) == 5
    assert len({body["request_id"] for body in service.bodies()}) == 1


def test_stream_error_after_first_event_is_raised(asker: Asker) -> None:
    lost = ("error", {"success": False, "error": "runner_lost", "error_message": "gone",
                      "request_id": "r", "detail": []})  # fmt: skip
    service = Answers(stream_response(events(*NAMED[:2], lost)), stream_response(WHOLE))
    with pytest.raises(errors.Unavailable, match="gone") as raised:
        asker.ask(service, "stream", "hills", "mock")
    assert (raised.value.status, raised.value.code) == (503, "runner_lost")
    assert len(service.requests) == 1


def test_rejected_stream_raises_the_error(asker: Asker) -> None:
    body = {"success": False, "error": "unknown_model", "error_message": "model: 'x' is unknown"}
    with pytest.raises(errors.UnknownName, match="'x'"):
        asker.ask(Answers(httpx2.Response(400, json=body)), "stream", "hills", "mock")


def test_events_of_later_versions_are_skipped(asker: Asker) -> None:
    service = Answers(stream_response(events(("weather", {"sun": 1}), *NAMED)))
    assert len(asker.ask(service, "stream", "hills", "mock")) == 5


@pytest.mark.parametrize("data", ["[]", "3", "sunny", '{"position": "x", "success": true}'])
@pytest.mark.parametrize("index", [0, 2, len(NAMED)])
def test_unknown_event_types_are_skipped(asker: Asker, data: str, index: int) -> None:
    """Their data may have any format, and they may follow the `done` event."""
    unknown = f"event: weather\ndata: {data}\n\n".encode()
    body = events(*NAMED[:index]) + unknown + events(*NAMED[index:])
    received = asker.ask(Answers(stream_response(body)), "stream", "hills", "mock")
    assert [type(event) for event in received] == [Queued, Started, Step, Step, Done]


@pytest.mark.parametrize(
    "data", ["{", "[]", '{"step": 1}', '{"step": 1, "steps": 2, "preview_b64": 3}']
)
def test_malformed_event_raises_unexpected_answer(asker: Asker, data: str) -> None:
    service = Answers(stream_response(f"event: step\ndata: {data}\n\n".encode()))
    with pytest.raises(errors.UnexpectedAnswer):
        asker.ask(service, "stream", "hills", "mock")


def test_non_stream_answer_raises_unexpected_answer(asker: Asker) -> None:
    page = httpx2.Response(200, html="<html>")
    with pytest.raises(errors.UnexpectedAnswer, match="text/html"):
        asker.ask(Answers(page), "stream", "hills", "mock")


def test_leaving_the_loop_closes_the_connection() -> None:
    answer = stream_response(WHOLE)
    body = answer.stream
    assert isinstance(body, Pieces)
    with Client("http://service", transport=httpx2.MockTransport(Answers(answer))) as client:
        for event in client.stream("hills", "mock"):
            assert event == Queued(2)
            break
        assert body.closed


async def test_leaving_the_loop_closes_the_async_connection() -> None:
    answer = stream_response(WHOLE)
    body = answer.stream
    assert isinstance(body, Pieces)
    transport = httpx2.MockTransport(Answers(answer))
    async with AsyncClient("http://service", transport=transport) as client:
        async for _ in client.stream("hills", "mock"):
            break
        # The event loop closes what nobody refers to any more.
        await eventually(lambda: body.closed)
