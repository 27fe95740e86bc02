"""When to try again, and after how long. Nothing here waits or sends."""

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
class Limits:
    """How long a call may take, tries and pauses included, and how often it is tried again."""

    timeout: float = 120.0
    retries: int = 3

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ValueError(f"timeout: must be more than 0 seconds, not {self.timeout}")
        if self.retries < 0:
            raise ValueError(f"retries: must be 0 or more, not {self.retries}")


class Attempts:
    """The tries of one call.

    Tried again is what may go better a moment later: connections that fail, 429 and 503. The
    service's Retry-After is kept to; where there is none, pauses double and are spread, so that
    callers who failed together do not come back together.
    """

    def __init__(
        self,
        limits: Limits,
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
        """Seconds that the next try may take.

        Raises:
            TimedOut: none are left.
        """
        seconds = self._deadline - self._clock()
        if seconds <= 0:
            raise TimedOut(f"no answer within {self._timeout:g} s")
        return seconds

    def pause(self, error: ExperimanceError, again: bool = True) -> float:
        """Seconds to wait before the next try; raises `error` where there is none.

        Args:
            error: how the last try ended.
            again: whether what was called can be tried again at all.
        """
        passing = isinstance(error, ConnectionFailed | Overloaded | Unavailable)
        if not (again and passing and self._left > 0):
            raise error
        self._left -= 1
        asked = error.retry_after if isinstance(error, ApiError) else None
        seconds = self._spread(self._pause / 2, self._pause) if asked is None else asked
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if self._clock() + seconds >= self._deadline:
            raise error
        return seconds
