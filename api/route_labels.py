"""BentoML's metrics of requests, labelled by routes that exist.

BentoML 1.4.39 labels them by the path as it came. Its middleware stands in front of the access
check, so that anybody could make series of any number and length, which the metrics files keep.
"""

from __future__ import annotations

from typing import Any

from bentoml._internal.context import server_context
from bentoml._internal.server.http import instruments
from starlette.types import ASGIApp, Receive, Scope, Send

OTHER = "other"
"""The label of every path that is no route."""

_PLAYGROUND = "/playground"
_FIXED = frozenset({"/", "/docs.json", "/healthz", "/livez", "/metrics", "/models", "/readyz"})
_PATH = "experimance.path"


def route_label(path: str) -> str:
    """Return the route that a path is of; the files of the playground are one."""
    if path in _FIXED or path in server_context.service_routes:
        return path
    if path == _PLAYGROUND or path.startswith(f"{_PLAYGROUND}/"):
        return _PLAYGROUND
    return OTHER


class RouteMetrics(instruments.RunnerTrafficMetricsMiddleware):  # type: ignore[misc]
    """In the place of BentoML's middleware, which takes its label from the request's path."""

    def __init__(self, app: ASGIApp, *args: Any, **options: Any) -> None:
        async def with_path(scope: Scope, receive: Receive, send: Send) -> None:
            if _PATH in scope:
                scope["path"] = scope.pop(_PATH)
            await app(scope, receive, send)

        super().__init__(with_path, *args, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket; what is inside sees the path as it came."""
        if "headers" in scope:
            scope["headers"] = [(name, _ascii(name, value)) for name, value in scope["headers"]]
        if "path" in scope:
            scope[_PATH] = scope["path"]
            scope["path"] = route_label(scope["path"])
        await super().__call__(scope, receive, send)


def _ascii(name: bytes, value: bytes) -> bytes:
    """A header that BentoML's access log decodes, which fails for some bytes after the answer."""
    if not name.startswith(b"content-") or value.isascii():
        return value
    return value.decode("latin-1").encode("ascii", "backslashreplace")


def label_routes() -> None:
    """Have every BentoML application of this process count by routes; before it is made."""
    module: Any = instruments
    module.RunnerTrafficMetricsMiddleware = RouteMetrics
