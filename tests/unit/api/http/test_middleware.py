"""The middleware that every request passes, around a small application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from api.errors import Overloaded
from api.http.middleware import BODY_SECONDS, MAX_BODY_BYTES, ApiMiddleware, current_request
from tests.support.virtual_time import in_virtual_time

JSON = {"Content-Type": "application/json"}


async def echo(request: Request) -> Response:
    body = await request.body()
    found = {"bytes": len(body), "id": current_request().state.id}
    if request.headers.get("content-type") == "application/json" and body.startswith(b'{"'):
        found |= {"type": request.headers["content-type"], "content": json.loads(body)}
    elif body == b"{}":
        found |= {"content": {}}
    return JSONResponse(found)


async def slow(request: Request) -> Response:
    await request.body()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * BODY_SECONDS):
            # Waits for the client to leave.
            await request.receive()
    return JSONResponse({"late": await request.is_disconnected()})


async def broken(request: Request) -> Response:
    raise RuntimeError("secret in /home/someone")


async def masked(request: Request) -> Response:
    return JSONResponse({"error": "look at File '/srv/x.py'"}, status_code=500)


async def own_error(request: Request) -> Response:
    return Overloaded("wait", retry_after=1.2).response("mine")


async def invalid(request: Request) -> Response:
    detail = [{"type": "missing", "loc": ["prompt"], "msg": "Field required", "url": "https://x"}]
    return JSONResponse({"error": "1 validation error", "detail": detail}, status_code=400)


async def stream(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("late")

    return StreamingResponse(chunks())


def make_client(monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> httpx.AsyncClient:
    if token is not None:
        monkeypatch.setenv("API_TOKEN", token)
    methods = ["GET", "POST"]
    routes = [
        Route(f"/{handler.__name__}", handler, methods=methods)
        for handler in (echo, slow, broken, masked, own_error, invalid, stream)
    ]
    routes += [Route("/healthcheck", echo, methods=methods)]
    routes += [Route("/plain", lambda _: PlainTextResponse("no", 418), methods=methods)]
    app = ApiMiddleware(Starlette(routes=routes))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture
async def web(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    async with make_client(monkeypatch) as client:
        yield client


def parse_error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"success", "error", "error_message", "detail", "request_id"}
    assert body["success"] is False
    assert response.headers["x-request-id"] == body["request_id"]
    for leak in ("/home", "/srv", "Traceback", "File ", "secret"):
        assert leak not in response.text
    result: dict[str, Any] = body
    return result


async def test_ids_are_kept_when_well_formed_else_made(web: httpx.AsyncClient) -> None:
    given = await web.get("/echo", headers={"X-Request-Id": "table-7.a_b"})
    assert given.json()["id"] == given.headers["x-request-id"] == "table-7.a_b"
    for bad in ("a b", "x" * 65, "<script>", ""):
        made = await web.get("/echo", headers={"X-Request-Id": bad})
        assert made.headers["x-request-id"] != bad
        assert len(made.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/nowhere", "GET", 404, "not_found"),
        ("/echo", "DELETE", 405, "method_not_allowed"),
        ("/broken", "GET", 500, "internal"),
        ("/masked", "GET", 500, "internal"),
        ("/invalid", "GET", 400, "invalid_request"),
        ("/plain", "GET", 400, "invalid_request"),
    ],
)
async def test_every_error_has_the_one_body(
    web: httpx.AsyncClient, path: str, method: str, status: int, code: str
) -> None:
    response = await web.request(method, path)
    assert response.status_code == status
    assert parse_error(response)["error"] == code


async def test_validation_errors_name_the_field(web: httpx.AsyncClient) -> None:
    body = parse_error(await web.get("/invalid"))
    assert body["error_message"] == "prompt: required"
    assert body["detail"] == [{"field": "prompt", "message": "required"}]


async def test_contract_errors_pass_unchanged(web: httpx.AsyncClient) -> None:
    response = await web.get("/own_error")
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert parse_error(response)["request_id"] == "mine"


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.bentoml+pickle", "application/octet-stream", "text/plain", "image/png",
     "application/vnd.apache.arrow.stream", "application/x-www-form-urlencoded"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/echo", "/nowhere", "/healthcheck"])
async def test_only_json_and_multipart_are_read(
    web: httpx.AsyncClient, path: str, media_type: str
) -> None:
    for content in (b"x", b""):
        response = await web.post(path, content=content, headers={"Content-Type": media_type})
        assert response.status_code == 415
        assert parse_error(response)["error"] == "unsupported_media_type"


async def test_body_requires_content_type_but_empty_body_does_not(web: httpx.AsyncClient) -> None:
    assert (await web.post("/echo", content=b"{}")).status_code == 415
    assert (await web.post("/echo")).json()["bytes"] == 0
    typed = {"Content-Type": "application/json; charset=utf-8"}
    assert (await web.post("/echo", content=b"{}", headers=typed)).json()["bytes"] == 2


async def test_bodies_are_limited_by_header_and_by_count(web: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    announced = await web.post(
        "/echo", content=b"", headers={**json_type, "Content-Length": str(MAX_BODY_BYTES + 1)}
    )
    assert (announced.status_code, parse_error(announced)["error"]) == (413, "too_large")
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2 * MAX_BODY_BYTES:
            sent += 2**20
            yield bytes(2**20)

    counted = await web.post("/echo", content=chunks(), headers=json_type)
    assert counted.status_code == 413
    assert "32 MiB" in parse_error(counted)["error_message"]


async def test_every_route_but_health_requires_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_client(monkeypatch, "tökén") as web:
        assert (await web.get("/healthcheck")).status_code == 200
        assert (await web.options("/echo")).status_code == 405
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic tökén"}):
            refused = await web.get("/echo", headers=_latin(headers))
            assert (refused.status_code, parse_error(refused)["error"]) == (401, "unauthorized")
    async with make_client(monkeypatch, "token") as web:
        allowed = await web.get("/echo", headers={"Authorization": "Bearer token"})
        assert allowed.status_code == 200


def _latin(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode("latin-1") for name, value in headers.items()}


async def test_headers_are_limited(web: httpx.AsyncClient) -> None:
    few = {f"X-{number}": "1" for number in range(80)}
    assert (await web.post("/echo", headers=few)).status_code == 200
    answer = await web.post("/echo", headers={f"X-{number}": "1" for number in range(101)})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@in_virtual_time
async def test_a_body_must_arrive_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        for piece in (b"{", b" ", b"}"):
            yield piece
            await asyncio.sleep(0.6 * BODY_SECONDS)

    async with make_client(monkeypatch) as web:
        answer = await web.post("/echo", content=trickle(), headers=JSON)
    assert answer.status_code == 400
    assert "not complete within" in answer.json()["error_message"]


@in_virtual_time
async def test_body_timeout_does_not_limit_processing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_client(monkeypatch) as web:
        assert (await web.post("/slow", content=b"{}", headers=JSON)).status_code == 200


async def test_forms_arrive_as_json(web: httpx.AsyncClient) -> None:
    fields = {
        "prompt": (None, "hills, valleys"),
        "steps": (None, "6"),
        "loras": (None, '[{"name": "drone"}]'),
        "depth_map_b64": ("depth.txt", b"AAAA", "application/vnd.bentoml+pickle"),
        "seed": (None, "9" * 5000),
        "era": (None, "[" * 10_000),
    }
    answer = await web.post("/echo", files=fields)
    assert answer.json()["type"] == "application/json"
    assert answer.json()["content"] == {
        "prompt": "hills, valleys",
        "steps": 6,
        "loras": [{"name": "drone"}],
        "depth_map_b64": "AAAA",
        "seed": "9" * 5000,
        "era": "[" * 10_000,
    }


async def test_a_form_of_long_texts_is_refused(web: httpx.AsyncClient) -> None:
    fields = {f"f{number}": (None, "[" * 480_000) for number in range(3)}
    answer = await web.post("/echo", files=fields)
    assert answer.status_code == 400
    assert "more than 64 kB beside the pictures" in answer.json()["error_message"]


@pytest.mark.parametrize(
    ("content", "boundary"),
    [
        (b"--x", ""),
        (b"--x", "; boundary=x"),
        (b"hello", "; boundary=x"),
        (b"\xff" * 99, "; boundary=x"),
    ],
)
async def test_malformed_form_is_a_client_error(
    web: httpx.AsyncClient, content: bytes, boundary: str
) -> None:
    headers = {"Content-Type": f"multipart/form-data{boundary}"}
    answer = await web.post("/echo", content=content, headers=headers)
    # Of a form that ends too soon nothing is left, which validation refuses.
    assert answer.status_code == 400 or answer.json()["content"] == {}


async def test_a_part_that_is_not_text_is_named(web: httpx.AsyncClient) -> None:
    answer = await web.post("/echo", files={"depth_map_b64": ("x.png", b"\x89PNG\r\n")})
    assert answer.status_code == 400
    assert answer.json()["detail"] == [{"field": "depth_map_b64", "message": "must be text"}]


async def test_a_stream_that_fails_late_just_ends(web: httpx.AsyncClient) -> None:
    response = await web.get("/stream")
    assert response.status_code == 200
    assert response.content == b"one"
