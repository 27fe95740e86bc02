"""Access log: one line per HTTP request, which replaces BentoML's lines of both processes."""

from __future__ import annotations

import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

_UNLOGGED_PATHS = {"/livez", "/readyz", "/healthz", "/metrics"}
"""Paths that monitoring polls."""


class AccessLog:
    """Middleware that logs every request with its id, status, duration and error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request, and log it after its response or its disconnect."""
        if scope["path"] in _UNLOGGED_PATHS:
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status: int | None = None

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            _log_request(scope, status, time.monotonic() - started)


def _log_request(scope: Scope, status: int | None, seconds: float) -> None:
    state: dict[str, Any] = scope.get("state", {})
    fields: dict[str, Any] = {"request_id": state["id"]} if "id" in state else {}
    error = state.get("error")
    if error is not None:
        fields |= {"error": error.code, "message": error.message}
    log.info(
        "request",
        client=(scope.get("client") or ("",))[0],
        method=scope["method"],
        path=scope["path"],
        status=status,
        seconds=round(seconds, 3),
        **fields,
    )
