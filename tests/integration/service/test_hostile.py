"""Hostile requests to the running service: rejected cheaply, and never executed."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from common.lifecycle import READY_LINE
from testing.process_state import processes_of
from tests.support.attack_helpers import JSON, ROUTES, VALID, Bomb, costing_at_most, refused
from tests.support.calls import PATIENCE


@pytest.fixture(scope="module")
def api(service_url: str) -> psutil.Process:
    """The process that reads what callers send."""
    return processes_of(int(service_url.rsplit(":", 1)[1]))["api"]


def test_canary_detects_unpickling(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("path", [*ROUTES, "/", "/docs.json", "/metrics", "/nowhere"])
@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.bentoml+pickle", "Application/Vnd.BentoML+Pickle; x=1",
        "application/x-www-form-urlencoded", "application/octet-stream", "text/plain",
        "application/json, application/vnd.bentoml+pickle", "application/x-python-pickle",
        "application/vnd.apache.arrow.file",
    ],
)  # fmt: skip
def test_nothing_but_json_and_forms_is_deserialised(
    client: httpx.Client, canary: Path, path: str, media_type: str
) -> None:
    payload = pickle.dumps(Bomb(canary))
    headers = {"Content-Type": media_type, "Buffer-Lengths": str(len(payload))}
    refused(client.post(path, content=payload, headers=headers), 415)


def test_a_second_type_header_changes_nothing(client: httpx.Client, canary: Path) -> None:
    payload = pickle.dumps(Bomb(canary))
    types = [
        ("Content-Type", "application/json"),
        ("Content-Type", "application/vnd.bentoml+pickle"),
    ]
    for headers in (types, types[::-1]):
        refused(client.post("/generate", content=payload, headers=headers), 400, 415)


def test_pickles_inside_of_a_form_are_text(client: httpx.Client, canary: Path) -> None:
    payload = pickle.dumps(Bomb(canary))
    for field in ("prompt", "depth_map_b64", "loras", "unknown"):
        files = {
            field: ("x", payload, "application/vnd.bentoml+pickle"),
            "mock_depth": (None, "true"),
        }
        refused(client.post("/generate", files=files), 400)


class _Counting(http.server.BaseHTTPRequestHandler):
    seen = 0

    def do_GET(self) -> None:
        type(self).seen += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[str]:
    """An address that must not be asked for."""
    _Counting.seen = 0
    server = http.server.HTTPServer(("127.0.0.1", 0), _Counting)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/x.png"
    server.shutdown()
    thread.join()
    assert _Counting.seen == 0


def test_no_url_is_fetched(client: httpx.Client, outside: str) -> None:
    for field in ("depth_map_b64", "image_b64", "model", "controlnet", "era", "depth_estimator"):
        body = {"prompt": outside, field: outside}
        refused(client.post("/generate", json=body), 400)
        refused(client.post("/generate", data=body, files={"x": b""}), 400)
        refused(client.post("/generate", files={field: (outside, outside.encode())}), 400)
    refused(client.post("/generate", content=outside, headers=JSON), 400)
    refused(client.post("/preload", params={"model_name": outside}), 400)
    refused(client.post("/preload", json={"model": outside}), 400)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt": "x", "mock_depth": true, "loras": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"prompt": "x", "mock_depth": true, "seed": ' + b"9" * 100_000 + b"}",
        b'{"prompt": "x", "mock_depth": true, "cfg": 1e' + b"9" * 1000 + b"}",
        b'{"prompt": "x", "mock_depth": true, "cfg": -Infinity}',
        b'{"prompt": "\\ud800", "mock_depth": true}',
        b'{"prompt": "\xed\xa0\x80", "mock_depth": true}',
        b'{"prompt": "\\u0000", "mock_depth": true}',
        b'{"prompt": "a\\u001b[2Jb", "mock_depth": true}',
        b'{"prompt": "x", ' + b'"y": 1, ' * 100_000 + b'"mock_depth": true}',
        b"\x00" * 1000,
        b'\xff\xfe{\x00}\x00',
    ],
    ids=range(13),
)  # fmt: skip
def test_hostile_json_is_rejected(
    client: httpx.Client, api: psutil.Process, content: bytes
) -> None:
    with costing_at_most(5, api):
        refused(client.post("/generate", content=content, headers=JSON), 400)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loras", "[" * 100_000),
        ("seed", "9" * 100_000),
        ("steps", "1e999"),
        ("cfg", "NaN"),
        ("prompt", '"\\ud800"'),
        ("prompt", "\0"),
        ("width", "1" * 5000),
    ],
)
def test_hostile_form_fields_are_rejected(client: httpx.Client, field: str, value: str) -> None:
    fields = {"prompt": "x", "mock_depth": "true", field: value}
    refused(client.post("/generate", files={k: (None, v) for k, v in fields.items()}), 400)


def _form(boundary: bytes, body: bytes) -> tuple[bytes, dict[str, str]]:
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}


MEGABYTES = 2**20
FORMS = {
    "only dashes": _form(b"x", b"-" * (16 * MEGABYTES)),
    "nearly boundaries": _form(b"b" * 60, (b"\r\n--" + b"b" * 59) * 200_000),
    "many parts": _form(
        b"x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 100_000
    ),
    "many headers": _form(b"x", b"--x\r\n" + b"A: b\r\n" * 500_000),
    "long header": _form(b"x", b"--x\r\nContent-Disposition: " + b"a" * (16 * MEGABYTES)),
    "no end": _form(b"x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhill'),
    "line ends": _form(b"x", b"--x" + b"\r\n" * (8 * MEGABYTES)),
    "no boundary": (b"--x", {"Content-Type": "multipart/form-data"}),
    "long boundary": _form(b"x" * 60_000, b"--x"),
    "empty": _form(b"x", b""),
}


@pytest.mark.parametrize("name", FORMS)
def test_hostile_multipart_bodies_are_rejected(
    client: httpx.Client, api: psutil.Process, name: str
) -> None:
    content, headers = FORMS[name]
    with costing_at_most(10, api):
        refused(client.post("/generate", content=content, headers=headers), 400, 413)


def test_headers_are_counted(client: httpx.Client) -> None:
    many = {f"X-{number}": "1" for number in range(120)}
    refused(client.get("/models", headers=many), 400)
    assert client.get("/models", headers=dict(list(many.items())[:50])).status_code == 200


def _raw(url: str, request: bytes, answers: int = 1) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(request)
        received = b""
        while received.count(b"HTTP/1.1") < answers or b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                break
            received += part
        return received


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhi",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
    ],
    ids=["long header", "long path", "negative length", "two lengths", "bad chunk", "TLS"],
)
def test_malformed_http_does_no_harm(
    service_url: str, client: httpx.Client, request_bytes: bytes
) -> None:
    answer = _raw(service_url, request_bytes)
    assert not answer or b" 200 " not in answer.split(b"\r\n", 1)[0] or b"a" * 100 in request_bytes
    assert client.get("/healthcheck").status_code == 200


def test_a_chunked_body_is_counted_too(service_url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"a" * MEGABYTES

    url = f"{service_url}/generate"
    refused(httpx.post(url, content=chunks(), headers=JSON, timeout=PATIENCE), 413)


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_foreign_origins_get_no_cors_headers(client: httpx.Client, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for response in (
        client.options("/generate", headers=asked),
        client.get("/models", headers={"Origin": origin}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_paths_and_headers_do_not_write_lines(client: httpx.Client, service_log: Path) -> None:
    before = len(service_log.read_bytes())
    ready = READY_LINE.replace(" ", "%20")
    for path in (
        "/x%0aforged",
        "/x%1b[31mforged",
        f"/{ready}",
        "/x%e2%80%a8forged",
        "/" + "x" * 60_000,
    ):
        assert client.get(path).status_code in {404, 431}
    strange = {"Content-Type": b"text/\xff\xfe", "Referer": "\x1b[31m", "User-Agent": READY_LINE}
    assert client.post("/generate", content=b"{}", headers=strange).status_code == 415
    said = service_log.read_bytes()[before:].decode(errors="replace")
    assert not [line for line in said.splitlines() if line.lstrip().startswith("forged")]
    assert "\x1b" not in said
    assert READY_LINE not in said
    assert "Traceback" not in said
    assert len(said) < 20_000


def test_runner_socket_is_private_to_its_user(service_url: str) -> None:
    """It lies in a folder that others cannot enter; pickles are read on it."""
    runner = processes_of(int(service_url.rsplit(":", 1)[1]))["runner"]
    sockets = {
        Path(connection.laddr) for connection in runner.net_connections("unix") if connection.laddr
    }
    assert sockets
    for each in sockets:
        folder = each if each.is_dir() else each.parent
        mode = folder.stat().st_mode & 0o777
        assert not mode & 0o077, f"{folder} has mode {mode:o}"
        assert folder.stat().st_uid == os.getuid()


def test_control_characters_do_not_reach_the_log(client: httpx.Client, service_log: Path) -> None:
    """A line feed in a name would let a caller write lines of its own."""
    forged = "x\n2026-01-01 [error] forged"
    for name in ("model", "era", "session", "prompt"):
        client.post("/generate", json={**VALID, name: forged})
    client.get("/models", headers={"X-Request-Id": "a\tforged"})
    assert "\n2026-01-01 [error] forged" not in service_log.read_text(errors="replace")
    assert json.loads(client.get("/healthcheck").text)["status"] == "ready"
