"""Requests without BentoML's time limit.

Its middleware (1.4.39) leaves a timer behind for every request, which holds on to all that belongs
to the request until the limit is over: 7 kB each, for ever where there is no limit. Requests end by
deadlines, disconnects and limits of this service's own, and `traffic.timeout` only says how long
the public service waits for the runner.
"""

from __future__ import annotations

from typing import Any

from bentoml._internal.server.http import traffic
from starlette.types import ASGIApp, Receive, Scope, Send


class Untimed:
    """In the place of BentoML's TimeoutMiddleware."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        await self._app(scope, receive, send)


def do_without_timers() -> None:
    """Have every BentoML application of this process made without timers; before it is made."""
    module: Any = traffic
    module.TimeoutMiddleware = Untimed
