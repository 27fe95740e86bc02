"""Route labels of BentoML's request metrics, limited to existing routes.

BentoML 1.4.39 uses the path of the request as the label. Its middleware runs before the access
check, so any client could create series of any number and length in the metrics files.
"""

from __future__ import annotations

from typing import Any

from bentoml._internal.context import server_context
from bentoml._internal.server.http import instruments
from starlette.types import ASGIApp, Receive, Scope, Send

OTHER = "other"
"""Label of every path that is not a route."""

_PLAYGROUND = "/playground"
_FIXED = frozenset({"/", "/docs.json", "/healthz", "/livez", "/metrics", "/models", "/readyz"})
_PATH = "experimance.path"


def route_label(path: str) -> str:
    """Return the route of a path; all files of the playground share one."""
    if path in _FIXED or path in server_context.service_routes:
        return path
    if path == _PLAYGROUND or path.startswith(f"{_PLAYGROUND}/"):
        return _PLAYGROUND
    return OTHER


class RouteMetrics(instruments.RunnerTrafficMetricsMiddleware):  # type: ignore[misc]
    """Replacement for BentoML's middleware, which takes its label from the request's path."""

    def __init__(self, app: ASGIApp, *args: Any, **options: Any) -> None:
        async def with_path(scope: Scope, receive: Receive, send: Send) -> None:
            if _PATH in scope:
                scope["path"] = scope.pop(_PATH)
            await app(scope, receive, send)

        super().__init__(with_path, *args, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket; the inner application gets the original path."""
        if "path" in scope:
            scope[_PATH] = scope["path"]
            scope["path"] = route_label(scope["path"])
        await super().__call__(scope, receive, send)


def label_routes() -> None:
    """Patch BentoML to label metrics by route; call it before creating an application."""
    module: Any = instruments
    module.RunnerTrafficMetricsMiddleware = RouteMetrics
