"""Patches of BentoML, uvicorn and circus for timeouts, keep-alive and private sockets.

BentoML's timeout middleware (1.4.39) leaves a timer behind for every request. The timer keeps 7 kB
of the request in memory until the timeout, or forever without one. This service ends requests by
its own deadlines, disconnects and limits. `traffic.timeout` only limits how long the public service
waits for the runner.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import uvicorn
from _bentoml_impl.server import serving
from bentoml._internal.server.http import traffic
from circus.arbiter import Arbiter
from starlette.types import ASGIApp, Receive, Scope, Send

from common.settings import SettingsError

IDLE_SECONDS = 75
"""Keep-alive in seconds; clients and proxies usually close idle connections after 60 s."""


class PassThroughTimeout:
    """Replacement for BentoML's TimeoutMiddleware, without a timer."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request unchanged."""
        await self._app(scope, receive, send)


def disable_timeout_middleware() -> None:
    """Patch BentoML to use no timeout middleware; call it before creating an application."""
    module: Any = traffic
    module.TimeoutMiddleware = PassThroughTimeout


class LongKeepAliveConfig(uvicorn.Config):
    """Replacement for uvicorn's Config that keeps idle connections longer than clients do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["timeout_keep_alive"] = max(IDLE_SECONDS, options.get("timeout_keep_alive", 0))
        super().__init__(*args, **options)


def patch_uvicorn_keep_alive() -> None:
    """Patch uvicorn to keep idle connections open; call it before creating a server."""
    module: Any = uvicorn
    module.Config = LongKeepAliveConfig


def keep_supervisor_private() -> None:
    """Patch circus so that supervisors listen on sockets that only the same user can access."""
    original = Arbiter.__init__
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def listen_privately(self: Any, *args: Any, **options: Any) -> None:
        # mkdtemp creates the folder with mode 0700.
        folder = tempfile.mkdtemp(prefix="experimance-supervisor-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        options["endpoint"] = f"ipc://{folder}/control"
        options["pubsub_endpoint"] = f"ipc://{folder}/events"
        original(self, *args, **options)

    Arbiter.__init__ = listen_privately


def require_runner_socket(environment: Mapping[str, str]) -> None:
    """Check that the runner will listen on a Unix domain socket.

    On TCP, it would deserialize pickles from any client.

    Raises:
        SettingsError: BENTOML_NO_UDS is set, which selects TCP.
    """
    if "BENTOML_NO_UDS" in environment:
        raise SettingsError("BENTOML_NO_UDS: must not be set; the runner listens on no TCP port")
    # BentoML selects TCP under WSL, although its kernel has supported such sockets since 2018.
    serving.IS_WSL = False
