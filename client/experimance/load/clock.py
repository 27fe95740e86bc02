"""Seconds since a run began."""

from __future__ import annotations

import time


class Clock:
    """Monotonic; begins when it is made."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def now(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._begin
