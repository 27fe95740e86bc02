"""Access control for requests that browsers send from pages of other sites."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.http.middleware import ApiMiddleware
from api.http.origins import Sites
from common.settings import Settings, SettingsError

OWN = "http://localhost:3000"
FORM = {"all": (None, "true")}


def web(monkeypatch: pytest.MonkeyPatch, base: str = OWN, **settings: str) -> httpx.AsyncClient:
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), value)

    async def cancel(request: Request) -> Response:
        return JSONResponse({"body": (await request.body()).decode()})

    routes = [Route(path, cancel, methods=["GET", "POST"]) for path in ("/cancel", "/livez")]
    transport = httpx.ASGITransport(ApiMiddleware(Starlette(routes=routes)))
    return httpx.AsyncClient(transport=transport, base_url=base)


def is_rejected(answer: httpx.Response, header: str) -> bool:
    body = answer.json()
    return (
        (answer.status_code, body["error"]) == (400, "invalid_request")
        and body["detail"][0]["field"] == header
        and "access-control-allow-origin" not in answer.headers
    )


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost", "http://localhost:3001", "null", "", "http://[",
     "http://localhost:3000.evil.example", "http://evil.example/localhost:3000"],
)  # fmt: skip
async def test_a_foreign_page_posts_nothing(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    async with web(monkeypatch) as client:
        posted = await client.post("/cancel", files=FORM, headers={"Origin": origin})
        assert is_rejected(posted, "Origin")
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert is_rejected(await client.options("/cancel", headers=asked), "Origin")


async def test_sec_fetch_site_identifies_pages_without_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web(monkeypatch) as client:
        for site in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
            assert is_rejected(await client.post("/cancel", headers=headers), "Sec-Fetch-Site")
            # Somebody follows a link.
            assert (await client.get("/cancel", headers=headers)).status_code == 200
            headers["Sec-Fetch-Mode"] = "no-cors"
            assert is_rejected(await client.get("/cancel", headers=headers), "Sec-Fetch-Site")
        for site in ("same-origin", "none"):
            answer = await client.post("/cancel", headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 200


async def test_own_pages_and_programs_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web(monkeypatch) as client:
        for headers in ({}, {"Origin": OWN}, {"Origin": "https://LOCALHOST:3000"}):
            answer = await client.post("/cancel", files=FORM, headers=headers)
            assert answer.json() == {"body": '{"all": true}'}


@pytest.mark.parametrize("token", [None, "secret"])
async def test_named_sites_may_read_every_answer(
    monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    site = "https://sand.example:8443"
    settings = {"cors_origins": f"https://other.example, {site}"}
    if token is not None:
        settings["api_token"] = token
    async with web(monkeypatch, **settings) as client:
        asked = {
            "Origin": site,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        preflight = await client.options("/cancel", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == site
        for path, status in (
            ("/cancel", 401 if token else 200),
            ("/nothing", 401 if token else 404),
        ):
            answer = await client.post(path, files=FORM, headers={"Origin": site})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == site
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        foreign = await client.post("/cancel", headers={"Origin": "https://evil.example"})
        assert is_rejected(foreign, "Origin")


async def test_options_never_redirects_to_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web(monkeypatch) as client:
        for path in ("/cancel/", "//evil.example", "//evil.example/..", "/cancel//"):
            answer = await client.options(path, headers={"Host": "evil.example"})
            assert is_rejected(answer, "Host")
            assert "location" not in answer.headers
            answer = await client.options(path)
            assert "evil.example" not in answer.headers.get("location", "")


async def test_any_site(monkeypatch: pytest.MonkeyPatch) -> None:
    async with web(monkeypatch, cors_origins="*") as client:
        answer = await client.post("/cancel", headers={"Origin": "https://any.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize(
    ("host", "settings", "passes"),
    [
        ("127.0.0.1:3000", {}, True),
        ("127.8.9.1", {}, True),
        ("[::1]:3000", {}, True),
        ("LOCALHOST.", {}, True),
        ("rebound.example:3000", {}, False),
        ("localhost.evil.example", {}, False),
        ("10.1.2.3", {}, False),
        ("[", {}, False),
        ("a@localhost:b", {}, True),
        ("10.1.2.3", {"model_server_host": "0.0.0.0"}, True),
        ("rebound.example", {"model_server_host": "0.0.0.0"}, False),
        ("sand.lan", {"model_server_host": "sand.lan"}, True),
        ("Terrain.example.org", {"allowed_hosts": "a, terrain.example.org"}, True),
        ("anything", {"allowed_hosts": "*"}, True),
    ],
)
async def test_names_of_the_service(
    monkeypatch: pytest.MonkeyPatch, host: str, settings: dict[str, str], passes: bool
) -> None:
    async with web(monkeypatch, **settings) as client:
        answer = await client.get("/cancel", headers={"Host": host})
        assert answer.status_code == 200 if passes else is_rejected(answer, "Host")
        # Probes come as they like.
        assert (await client.get("/livez", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cors_origins", "example.org"), ("cors_origins", "https://example.org/"),
        ("cors_origins", "https://a.example https://b.example"),
        ("allowed_hosts", "https://example.org"), ("allowed_hosts", "a b"),
    ],
)  # fmt: skip
def test_invalid_host_settings_are_rejected(setting: str, value: str) -> None:
    with pytest.raises(SettingsError, match=setting.upper()):
        Sites(Settings(**{setting: value}))
