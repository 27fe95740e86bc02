"""Requests, answers and retries of the clients."""

from __future__ import annotations

import datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from experimance import AsyncClient, Client, errors
from tests.support.client_service import Answers, Asker, painted, picture_file, refused

GOOD = httpx2.Response(200, json=painted())


@pytest.fixture(params=["sync", "async"])
def asker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Asker:
    return Asker(request.param, monkeypatch)


def test_request_is_sent_and_image_is_read(asker: Asker) -> None:
    service = Answers(GOOD)
    picture = asker.ask(
        service, "generate", "hills", picture_file(), era="ruins", cfg=0.0, seed=None,
        loras={"drone": 0.5}, token="secret",
    )  # fmt: skip
    [request], [body] = service.requests, service.bodies()
    assert (request.method, request.url.path) == ("POST", "/generate")
    assert request.headers["Authorization"] == "Bearer secret"
    assert body.pop("depth_map_b64")
    assert len(body.pop("request_id")) == 32
    assert body == {
        "prompt": "hills",
        "era": "ruins",
        "cfg": 0.0,
        "loras": [{"name": "drone", "strength": 0.5}],
    }
    assert (picture.seed, picture.model, picture.warnings) == (7, "base", ("odd",))
    assert picture.image.size == (8, 8)
    assert picture.data == picture_file()


def test_mock_depth_and_unknown_fields_are_sent(asker: Asker) -> None:
    service = Answers(GOOD)
    asker.ask(service, "generate", "hills", "mock", request_id="mine", fog=0.3)
    assert service.bodies() == [
        {"prompt": "hills", "mock_depth": True, "request_id": "mine", "fog": 0.3}
    ]


@pytest.mark.parametrize(
    "passing",
    [
        httpx2.ConnectError("refused"), httpx2.ConnectTimeout("slow"), httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("hung up"), refused(429, "overloaded"),
        refused(503, "not_ready"), httpx2.Response(503, text="<html>a proxy"),
    ],
    ids=lambda answer: str(getattr(answer, "status_code", type(answer).__name__)),
)  # fmt: skip
def test_transient_errors_are_retried_with_the_same_id(asker: Asker, passing: Any) -> None:
    service = Answers(passing, passing, GOOD)
    assert asker.ask(service, "generate", "hills", "mock").seed == 7
    assert len({body["request_id"] for body in service.bodies()}) == 1
    first, second = asker.pauses
    assert 0.125 <= first <= 0.25 <= second <= 0.5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refused(400, "invalid_request"), errors.InvalidRequest),
        (refused(400, "invalid_depth_map"), errors.InvalidPicture),
        (refused(400, "unknown_depth_estimator"), errors.UnknownName),
        (refused(401, "unauthorized"), errors.Unauthorized),
        (refused(404, "not_found"), errors.NotFound),
        (refused(409, "cancelled"), errors.Cancelled),
        (refused(409, "superseded"), errors.Superseded),
        (refused(413, "too_large"), errors.TooLarge),
        (refused(415, "unsupported_media_type"), errors.ApiError),
        (refused(500, "internal"), errors.Internal),
        (refused(504, "deadline_exceeded"), errors.DeadlineExceeded),
        (refused(422, "out_of_memory"), errors.Unavailable),
        (refused(418, "teapot"), errors.ApiError),
        (httpx2.Response(404, text="nginx"), errors.NotFound),
        (httpx2.Response(200, text="<html>"), errors.UnexpectedAnswer),
        (httpx2.Response(200, json={"hello": 1}), errors.UnexpectedAnswer),
        (httpx2.Response(200, json=painted(images_b64=["%"])), errors.UnexpectedAnswer),
        (httpx2.Response(301, headers={"Location": "/"}), errors.UnexpectedAnswer),
        (httpx2.ReadTimeout("slow"), errors.TimedOut),
        (httpx2.LocalProtocolError("bad"), errors.InvalidInput),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_permanent_errors_are_raised_at_once(asker: Asker, answer: Any, kind: Any) -> None:
    service = Answers(answer, GOOD)
    fails = kind not in {errors.Unavailable}
    with pytest.raises(kind) as raised:
        asker.ask(service, "generate", "hills", "mock", retries=3 if fails else 0)
    assert len(service.requests) == 1
    assert type(raised.value) is kind


def test_error_carries_every_field_of_the_answer(asker: Asker) -> None:
    answer = refused(
        429, "overloaded", "later", request_id="its", detail=[{"field": "f", "message": "m"}],
        headers={"Retry-After": "3"},
    )  # fmt: skip
    with pytest.raises(errors.Overloaded, match="later") as raised:
        asker.ask(Answers(answer), "generate", "hills", "mock", retries=0)
    told = raised.value
    assert (told.status, told.code, told.request_id) == (429, "overloaded", "its")
    assert told.retry_after == 3
    assert told.detail == (errors.FieldError("f", "m"),)


def test_retry_after_sets_the_pause(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC)
    clock = SimpleNamespace(datetime=SimpleNamespace(now=now.astimezone))
    monkeypatch.setattr("experimance.response_parsing.datetime", clock)
    inside = now + datetime.timedelta(seconds=20)
    service = Answers(
        refused(429, "overloaded", headers={"Retry-After": "2"}),
        refused(503, "not_ready", headers={"Retry-After": format_datetime(inside, usegmt=True)}),
        refused(503, "not_ready", headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
        GOOD,
    )
    asker.ask(service, "generate", "hills", "mock")
    # A date that is over means at once.
    seconds, until, *at_once = asker.pauses
    assert (seconds, until) == (2, 20)
    assert at_once in ([], [0])


@pytest.mark.parametrize("said", ["soon", "", "-5"])
def test_invalid_retry_after_is_ignored(asker: Asker, said: str) -> None:
    service = Answers(refused(503, "not_ready", headers={"Retry-After": said}), GOOD)
    assert asker.ask(service, "generate", "hills", "mock").seed == 7
    assert sum(asker.pauses) <= 0.25


def test_tries_are_counted(asker: Asker) -> None:
    service = Answers(refused(503, "not_ready"))
    with pytest.raises(errors.Unavailable):
        asker.ask(service, "models", retries=2)
    assert len(service.requests) == 3


def test_retry_after_beyond_timeout_raises_at_once(asker: Asker) -> None:
    service = Answers(refused(429, "overloaded", headers={"Retry-After": "60"}))
    with pytest.raises(errors.Overloaded):
        asker.ask(service, "generate", "hills", "mock", timeout=10)
    assert (len(service.requests), asker.pauses) == (1, [])


def test_unhealthy_status_is_returned_without_retry(asker: Asker) -> None:
    told = {
        "status": "error", "model_server_healthy": False, "ready_for_inference": False,
        "models_loaded": [], "models_available": ["base"], "controlnets_available": [],
        "memory_usage": {}, "queue": {"waiting": 1, "running": 2, "estimated_seconds": 3.5},
        "uptime": 9.0, "device": "cpu", "startup_status": {"startup_error": "disk full"},
    }  # fmt: skip
    health = asker.ask(Answers(httpx2.Response(503, json=told)), "health")
    assert (health.status, health.ready, health.startup_error) == ("error", False, "disk full")
    assert (health.waiting, health.running) == (1, 2)
    service = Answers(refused(503, "not_ready"))
    with pytest.raises(errors.Unavailable):
        asker.ask(service, "health")
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("method", "fields", "route", "body"),
    [
        ("preload", {"model": "base"}, "/preload", {"model": "base"}),
        ("unload", {"controlnet": "c"}, "/unload", {"controlnet": "c"}),
        ("cancel", {"request_id": "r"}, "/cancel", {"request_id": "r"}),
        ("cancel", {"session": "s"}, "/cancel", {"session": "s"}),
        ("cancel", {"all": True}, "/cancel", {"all": True}),
    ],
)
def test_orders(
    asker: Asker, method: str, fields: dict[str, Any], route: str, body: dict[str, Any]
) -> None:
    loaded = {"message": "loaded", "loaded_models": ["base"], "loaded_controlnets": [],
              "seconds": 0.1, "cancelled": ["r"]}  # fmt: skip
    service = Answers(httpx2.Response(200, json=loaded))
    got = asker.ask(service, method, **fields)
    assert service.requests[0].url.path == route
    assert service.bodies() == [body]
    assert got == ("r",) if method == "cancel" else got.models == ("base",)


def test_a_photographs_depth(asker: Asker) -> None:
    told = {"success": True, "depth_map_b64": painted()["image_b64"], "depth_estimator": "tiny",
            "width": 8, "height": 8, "seconds": 0.1, "request_id": "r", "warnings": []}  # fmt: skip
    service = Answers(httpx2.Response(200, json=told))
    depth = asker.ask(service, "estimate_depth", picture_file(), invert_depth=True, width=None)
    assert set(service.bodies()[0]) == {"image_b64", "invert_depth"}
    assert (depth.estimator, depth.image.size) == ("tiny", (8, 8))


@pytest.mark.parametrize("url", ["localhost:3000", "", "ftp://x", "http://", "http://a:b"])
def test_invalid_urls_are_rejected(url: str) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(errors.InvalidInput, match="url"):
            client(url)


@pytest.mark.parametrize("token", ["", " ", "ä", "a\nb"])
def test_invalid_tokens_are_rejected(token: str) -> None:
    with pytest.raises(errors.InvalidInput, match="token"):
        Client(token=token)


def test_invalid_limits_are_rejected() -> None:
    with pytest.raises(ValueError, match="timeout"):
        Client(timeout=0)
    with pytest.raises(ValueError, match="retries"):
        Client(retries=-1)


def test_a_service_under_a_path() -> None:
    service = Answers(GOOD)
    transport = httpx2.MockTransport(service)
    with Client("https://host/terrain/", transport=transport) as client:
        client.generate("hills", "mock")
    assert str(service.requests[0].url) == "https://host/terrain/generate"
