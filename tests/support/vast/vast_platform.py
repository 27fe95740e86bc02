"""A stand-in for vast.ai: a router that signs requests and receives worker reports."""

from __future__ import annotations

import base64
import datetime
import itertools
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.calls import PATIENCE
from tests.support.waiting import wait_until

MASTER_TOKEN = "master"
_ENDPOINT = {"id": 1, "endpoint_name": "terrain", "api_key": "k", "user_id": 1, "created_at": 0.0}


class Platform:
    """A small stand-in for the platform's three calls, and for its router's signature.

    `reports` are the bodies of /worker_status/, `ended` the requests of /delete_requests/ by
    index, in the order of arrival. `health`, if set, is what GET /healthcheck answers: a model
    server's part. Callers find the endpoint `terrain` here, and are sent to `worker`.
    """

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.ended: dict[int, dict[str, Any]] = {}
        self.health: dict[str, Any] | None = None
        self.worker = ""
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def enveloped(self, worker: str, payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """A payload with what the router adds, signed for the worker at a URL."""
        number = next(self._numbers)
        signed = json.dumps({"url": worker}, indent=4, sort_keys=True).encode()
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        auth = {
            "cost": "1",
            "endpoint": "test",
            "reqnum": number,
            "request_idx": number,
            "signature": base64.b64encode(signature).decode(),
            "url": worker,
        }
        return {"auth_data": {**auth, **changes}, "payload": payload}

    def certificate(self) -> bytes:
        """The authority that callers trust: of the same key, for nobody."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "platform")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(name, name, self._key.public_key(), 1, now, now)
        made = builder.sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def await_report(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first report, of those already there too, of which something holds."""

        def found() -> list[dict[str, Any]]:
            return [report for report in list(self.reports) if holds(report)]

        wait_until(found, PATIENCE)
        return found()[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/pubkey/":
                    self._answer(200, public)
                elif self.path == "/certificate":
                    self._answer(200, platform.certificate())
                elif self.path.startswith("/api/v0/endptjobs/"):
                    self._answer(200, json.dumps({"results": [_ENDPOINT]}).encode())
                elif self.path == "/healthcheck" and platform.health is not None:
                    self._answer(503, json.dumps(platform.health).encode())
                else:
                    self._answer(404)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.startswith("/route/"):
                    routed = platform.enveloped(platform.worker, {})["auth_data"]
                    self._answer(200, json.dumps(routed).encode())
                    return
                if body["mtoken"] != MASTER_TOKEN:
                    self._answer(401)
                    return
                if self.path == "/worker_status/":
                    platform.reports.append(body)
                elif self.path == "/delete_requests/":
                    platform.ended.update({each["request_idx"]: each for each in body["requests"]})
                self._answer(200)

            def _answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
