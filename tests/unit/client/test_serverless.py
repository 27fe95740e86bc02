"""The serverless clients on a platform whose package is stood in for at its own call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from experimance import AsyncServerlessClient, Client, Done, Queued, Started, Step, errors
from experimance.serverless import ServerlessClient
from tests.support.client_service import painted
from tests.support.virtual_time import in_virtual_time

ERROR = {"success": False, "error": "unknown_model", "error_message": "model: no", "detail": []}


class Platform:
    """What the clients use of the package's client and of its endpoint."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.closed = False

    async def get_endpoint(self, name: str) -> Platform:
        if name != "terrain":
            raise Exception(f"Endpoint {name} could not be found")
        return self

    async def request(self, route: str, payload: dict[str, Any], **options: Any) -> Any:
        self.asked.append((route, payload, options))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome == "never":
            await asyncio.sleep(60)
        return self.outcome

    async def close(self) -> None:
        self.closed = True


def good(answer: Any) -> dict[str, Any]:
    return {"ok": True, "status": 200, "response": answer}


async def make_stream(*contents: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for content in contents:
        yield content


def test_a_picture() -> None:
    platform = Platform(good(painted()))
    with ServerlessClient("terrain", "key", timeout=9, platform=platform) as client:
        picture = client.generate("hills", "mock", era="ruins")
        client.generate("hills", "mock")
    assert (picture.seed, picture.image.size) == (7, (8, 8))
    route, payload, options = platform.asked[0]
    assert route == "/generate"
    assert payload.pop("request_id")
    assert payload == {"prompt": "hills", "mock_depth": True, "era": "ruins"}
    # Without a timeout the package repeats without end.
    assert options == {"timeout": 9, "stream": False}
    assert platform.closed


def test_unnamed_stream_events_are_identified_by_fields() -> None:
    told = ({"position": 1}, {}, {"step": 1, "steps": 2}, painted())
    platform = Platform(None)
    with ServerlessClient("terrain", "key", platform=platform) as client:
        platform.outcome = good(make_stream(*told))
        heard = list(client.stream("hills", "mock"))
        assert heard[:3] == [Queued(1), Started(), Step(1, 2)]
        assert isinstance(heard[3], Done)
        platform.outcome = good(make_stream(*told[:2]))
        with pytest.raises(errors.StreamEnded):
            list(client.stream("hills", "mock"))
        platform.outcome = good(make_stream(told[0], ERROR))
        with pytest.raises(errors.UnknownName):
            list(client.stream("hills", "mock"))
    assert platform.asked[0][0] == "/generate_stream"


@pytest.mark.parametrize("unknown", [{"sun": 1}, {"step": 1}, {"preview_b64": "%"}, ["x"], "x", 3])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_unknown_event_types_are_skipped(unknown: Any, index: int) -> None:
    contents: list[Any] = [{"position": 1}, {}, {"step": 1, "steps": 2}, painted()]
    contents.insert(index, unknown)
    platform = Platform(good(make_stream(*contents)))
    with ServerlessClient("terrain", "key", platform=platform) as client:
        received = list(client.stream("hills", "mock"))
    assert [type(event) for event in received] == [Queued, Started, Step, Done]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ({"ok": False, "status": 400, "response": ERROR}, errors.UnknownName),
        ({"ok": False, "status": 502, "response": {"error": "!"}}, errors.UnexpectedAnswer),
        (good({"hello": 1}), errors.UnexpectedAnswer),
        (good("<html>"), errors.UnexpectedAnswer),
        (RuntimeError("Failed to route endpoint: HTTP 401"), errors.ConnectionFailed),
        (TimeoutError(), errors.TimedOut),
        ("never", errors.TimedOut),
    ],
)  # fmt: skip
@in_virtual_time
async def test_platform_failures_raise_package_errors(outcome: Any, kind: type[Exception]) -> None:
    platform = Platform(outcome)
    async with AsyncServerlessClient("terrain", "key", timeout=9, platform=platform) as client:
        with pytest.raises(kind):
            await client.generate("hills", "mock")


async def test_unknown_endpoint_raises_connection_failed() -> None:
    async with AsyncServerlessClient("sea", "key", platform=Platform(None)) as client:
        with pytest.raises(errors.ConnectionFailed, match="sea could not be found"):
            await client.generate("hills", "mock")


def test_without_the_platforms_package() -> None:
    with (
        pytest.raises(errors.InvalidInput, match=r"experimance-client\[serverless\]"),
        Client.serverless("terrain", "key"),
    ):
        pass
