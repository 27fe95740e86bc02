"""Retry decisions and delays, free of I/O and sleeping."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from experimance.errors import (
    ApiError,
    ConnectionFailed,
    ExperimanceError,
    Overloaded,
    TimedOut,
    Unavailable,
)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of one call.

    Attributes:
        timeout: Seconds for the whole call, attempts and delays included.
        retries: Maximum number of retries.
    """

    timeout: float = 120.0
    retries: int = 3

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ValueError(f"timeout: must be more than 0 seconds, not {self.timeout}")
        if self.retries < 0:
            raise ValueError(f"retries: must be 0 or more, not {self.retries}")


class RetryState:
    """Attempts of one call.

    Connection errors, HTTP 429 and HTTP 503 are retried. The delay is the service's Retry-After.
    Without that header the delay doubles with jitter, because clients that failed together would
    otherwise retry together.
    """

    def __init__(
        self,
        limits: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._left = limits.retries
        self._timeout = limits.timeout
        self._clock, self._spread = clock, spread
        self._deadline = clock() + limits.timeout
        self._pause = _FIRST_PAUSE

    def remaining(self) -> float:
        """Return the seconds left for the next attempt.

        Raises:
            TimedOut: No time is left.
        """
        seconds = self._deadline - self._clock()
        if seconds <= 0:
            raise TimedOut(f"no answer within {self._timeout:g} s")
        return seconds

    def next_delay(self, error: ExperimanceError, again: bool = True) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            error: Exception of the last attempt.
            again: Whether the call may be retried at all.

        Raises:
            ExperimanceError: `error` itself, if no attempt follows.
        """
        is_transient = isinstance(error, ConnectionFailed | Overloaded | Unavailable)
        if not (again and is_transient and self._left > 0):
            raise error
        self._left -= 1
        retry_after = error.retry_after if isinstance(error, ApiError) else None
        seconds = self._spread(self._pause / 2, self._pause) if retry_after is None else retry_after
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if self._clock() + seconds >= self._deadline:
            raise error
        return seconds
