"""Durations of the startup phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psutil
import structlog

log = structlog.get_logger(__name__)

Record = Callable[[str, float], None]

TOTAL = "ready"
"""Name of the total phase, from the creation of the process to readiness."""


class StartupTimer:
    """Timer of consecutive startup phases.

    Several threads may use it, but not concurrently.

    Args:
        began: start of the process in seconds on `clock`; read from the system if None.
        record: callback for the name and seconds of each finished phase.
        clock: the clock of process start times, in seconds.
    """

    def __init__(
        self,
        began: float | None = None,
        record: Record = lambda _phase, _seconds: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._record = record
        self._started_at = psutil.Process().create_time() if began is None else began
        self._phase_started_at = self._started_at
        self._phases: dict[str, float] = {}

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds by phase, in order of completion."""
        return self._phases

    def end_phase(self, phase: str, **details: object) -> float:
        """End a phase that started at the end of the previous one, and return its seconds."""
        now = self._clock()
        seconds, self._phase_started_at = now - self._phase_started_at, now
        self._record_phase(phase, seconds, details)
        return seconds

    def end(self, **details: object) -> float:
        """End the startup and return its total seconds."""
        seconds = self._clock() - self._started_at
        self._record_phase(TOTAL, seconds, details)
        return seconds

    def _record_phase(self, phase: str, seconds: float, details: Mapping[str, object]) -> None:
        # The system clock may be set back during startup.
        seconds = max(seconds, 0.0)
        self._phases[phase] = seconds
        self._record(phase, seconds)
        log.info("boot", phase=phase, seconds=round(seconds, 3), **details)
