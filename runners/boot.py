"""How long each part of a start took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psutil
import structlog

log = structlog.get_logger(__name__)

Record = Callable[[str, float], None]

TOTAL = "ready"
"""The phase that is the whole start, from the process's first instruction to readiness."""


class BootClock:
    """The phases of one start, one after the other; from several threads, never at once.

    Args:
        began: when the process began, in seconds on `clock`.
        record: told each phase and its seconds, as soon as it is over.
        clock: seconds on the clock that processes are dated by, `time.time()`.
    """

    def __init__(
        self,
        began: float | None = None,
        record: Record = lambda _phase, _seconds: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._record = record
        self._began = psutil.Process().create_time() if began is None else began
        self._last = self._began
        self._phases: dict[str, float] = {}

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds by phase, in the order in which they ended."""
        return self._phases

    def finish(self, phase: str, **details: object) -> float:
        """The phase is over; it began when the one before was. Returns its seconds."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        self._keep(phase, seconds, details)
        return seconds

    def finish_all(self, **details: object) -> float:
        """The start is over; returns the seconds of all of it."""
        seconds = self._clock() - self._began
        self._keep(TOTAL, seconds, details)
        return seconds

    def _keep(self, phase: str, seconds: float, details: Mapping[str, object]) -> None:
        # A clock that is set back during the start must not export a negative time.
        seconds = max(seconds, 0.0)
        self._phases[phase] = seconds
        self._record(phase, seconds)
        log.info("boot", phase=phase, seconds=round(seconds, 3), **details)
