"""A bucket with fault injection: gcp-storage-emulator behind a proxy."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast
from urllib.parse import parse_qs, quote, unquote, urlsplit

from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from testing.server import free_port

BUCKET = "weights"
_POLL_SECONDS = 0.01
Kind = Literal["status", "truncate", "reset", "flip", "whole", "replace"]


@dataclass(slots=True)
class Fault:
    """A fault of the next downloads.

    Attributes:
        kind: `status` returns `status`; `truncate` ends the body halfway; `reset` does so with a
            connection reset; `flip` changes one bit; `whole` ignores the requested range; `replace`
            first replaces the object.
        times: number of downloads with the fault.
        skip: number of downloads without it before.
        status: HTTP status of `status`.
        only: the fault is limited to objects whose name contains this text.
    """

    kind: Kind
    times: int = 1
    skip: int = 0
    status: int = HTTPStatus.SERVICE_UNAVAILABLE
    only: str = ""


class FaultyBucket:
    """A bucket on a local port; STORAGE_EMULATOR_HOST must be its `url`."""

    def __init__(self) -> None:
        self._emulator_port, port = free_port(), free_port()
        self._emulator = create_server("127.0.0.1", self._emulator_port, True, BUCKET)
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.bucket = self  # type: ignore[attr-defined]
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{port}"
        self.faults: list[Fault] = []
        self.bytes_sent = 0
        self.most_bytes = math.inf
        """Number of sent bytes at which further downloads wait until it is raised."""

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[FaultyBucket]:
        """Run a bucket for the duration of the context.

        Yields:
            The bucket.
        """
        bucket = cls()
        bucket._emulator.start()
        thread = threading.Thread(target=bucket._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield bucket
        finally:
            bucket._server.shutdown()
            bucket._server.server_close()
            bucket._emulator.stop()

    def put(self, name: str, content: bytes) -> None:
        """Store an object, without faults."""
        client = storage.Client(
            project="none",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": f"http://127.0.0.1:{self._emulator_port}"},
        )
        client.bucket(BUCKET).blob(name).upload_from_string(
            content, content_type="application/octet-stream"
        )

    def remove(self, name: str) -> None:
        """Remove an object."""
        self.ask("DELETE", f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}", {})

    def ask(
        self, method: str, path: str, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Return the emulator's own response: status, headers and body.

        Args:
            method: HTTP method.
            path: path and query.
            headers: headers of the request.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._emulator_port)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def content(self, name: str) -> bytes:
        """Return an object's bytes, without faults."""
        path = f"/download/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media"
        return self.ask("GET", path, {})[2]

    def wait_for_turn(self) -> None:
        """Wait while as many bytes have been sent as may be."""
        while self.bytes_sent >= self.most_bytes:
            time.sleep(_POLL_SECONDS)

    def next_fault(self, name: str) -> Fault | None:
        """Return the fault of this download, if any, and count it as used."""
        with self._lock:
            for fault in self.faults:
                if fault.only not in name:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    return None
                if fault.times:
                    fault.times -= 1
                    return fault
        return None

    def sent(self, count: int) -> None:
        """Add to the number of body bytes sent."""
        with self._lock:
            self.bytes_sent += count


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: clients disconnect deliberately."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def bucket(self) -> FaultyBucket:
        return cast(FaultyBucket, self.server.bucket)  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        """Return metadata unchanged, and downloads with their faults."""
        if "alt=media" not in self.path:
            self._answer(*self.bucket.ask("GET", self.path, {}))
            return
        self.bucket.wait_for_turn()
        fault = self.bucket.next_fault(unquote(self._object()))
        if fault is not None and fault.kind == "status":
            self._answer(fault.status, {}, b"{}")
            return
        if fault is not None and fault.kind == "replace":
            self._replace()
        if not self._is_current():
            self._answer(HTTPStatus.PRECONDITION_FAILED, {}, b"{}")
            return
        ranged = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
        if fault is not None and fault.kind == "whole":
            ranged = {}
        status, headers, body = self.bucket.ask("GET", self.path, ranged)
        if fault is not None and fault.kind == "flip":
            body = body[:-1] + bytes([body[-1] ^ 1])
        cut = fault is not None and fault.kind in {"truncate", "reset"}
        self._answer(status, headers, body, len(body) // 2 if cut else len(body))
        if cut:
            self.close_connection = True
        if fault is not None and fault.kind == "reset":
            # With SO_LINGER of zero seconds, close sends a reset.
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name in ("Content-Type", "Content-Range", "X-Goog-Hash"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[:length]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(sent)
        if "alt=media" in self.path and status < HTTPStatus.BAD_REQUEST:
            self.bucket.sent(len(sent))

    def _object(self) -> str:
        match = re.search(r"/o/([^?]+)", urlsplit(self.path).path)
        assert match is not None
        return match[1]

    def _is_current(self) -> bool:
        """Check ifGenerationMatch, which the emulator does not support."""
        wanted = parse_qs(urlsplit(self.path).query).get("ifGenerationMatch")
        if wanted is None:
            return True
        status, _, body = self.bucket.ask("GET", f"/storage/v1/b/{BUCKET}/o/{self._object()}", {})
        return status != HTTPStatus.OK or json.loads(body)["generation"] == wanted[0]

    def _replace(self) -> None:
        _, _, body = self.bucket.ask("GET", self.path, {})
        self.bucket.put(unquote(self._object()), body[:-4] + b"\0\0\0\0")

    def log_message(self, *arguments: object) -> None:
        """Suppress the request log."""
