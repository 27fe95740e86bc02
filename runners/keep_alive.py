"""Idle connections are closed by who opened them, not by the server.

uvicorn closes a connection that was idle for 5 seconds, and BentoML (1.4.39) offers no setting for
it but an option of its command line. httpx forgets idle connections after 5 seconds too, BentoML's
own client of the runner after 15: a request that goes out at the moment at which the server closes
is lost unread, and no client may send a POST again that it does not know to be unread.
"""

from __future__ import annotations

from typing import Any

import uvicorn

IDLE_SECONDS = 75
"""Longer than clients and proxies keep what they do not use: these have 60 at most as a rule."""


class LastingConfig(uvicorn.Config):
    """In the place of uvicorn's, for servers that do not close connections under their callers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["timeout_keep_alive"] = max(IDLE_SECONDS, options.get("timeout_keep_alive", 0))
        super().__init__(*args, **options)


def keep_connections() -> None:
    """Have the server of this process keep idle connections; before it is made."""
    module: Any = uvicorn
    module.Config = LastingConfig
