"""What the public process does when nobody wants anything painted."""

from __future__ import annotations

import asyncio

from runners.heap import trim_heap

_REST_SECONDS = 10.0


class Rest:
    """Ended while a request is answered; ten seconds after the last one, freed memory goes back.

    See trim_heap. On the event loop only.
    """

    def __init__(self) -> None:
        self._answering = 0
        self._due: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._answering += 1
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def __exit__(self, *_: object) -> None:
        self._answering -= 1
        if not self._answering:
            self._due = asyncio.get_running_loop().call_later(_REST_SECONDS, trim_heap)
