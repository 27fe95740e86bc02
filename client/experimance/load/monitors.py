"""Periodic measurements during a run: event-loop lag and the server's health."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np

from experimance.load.executor import Clock
from experimance.load.recorder import Column

_LAG_INTERVAL = 0.02
_HEALTH_INTERVAL = 1.0
_HEALTH_TIMEOUT = 10.0


class LagMeter:
    """Measures the event loop's lag, an error that the generator adds to all latencies."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moments = array("d")
        self._delays = array("d")
        self._cpu = time.process_time()
        self._since = clock.now()

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._clock.now() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            now = self._clock.now()
            self._moments.append(now)
            self._delays.append(max(0.0, now - due))

    @property
    def moments(self) -> Column:
        """Seconds from the start of the run."""
        return np.array(self._moments)

    @property
    def delays(self) -> Column:
        """Lag in seconds at each of the moments."""
        return np.array(self._delays)

    @property
    def cpu_share(self) -> float:
        """CPU time as a share of one core since the meter was created."""
        return (time.process_time() - self._cpu) / max(1e-9, self._clock.now() - self._since)


@dataclass(frozen=True, slots=True)
class HealthSample:
    """One response of /healthcheck; NaN where a value is missing.

    Attributes:
        at: Time of the request, in seconds from the start of the run.
        seconds: Response time.
        waiting: Number of queued requests.
        running: Number of running requests.
        estimated_seconds: Estimated seconds of work ahead.
    """

    at: float
    seconds: float = math.nan
    waiting: float = math.nan
    running: float = math.nan
    estimated_seconds: float = math.nan


class HealthWatch:
    """Polls /healthcheck once a second on a connection of its own.

    Attributes:
        samples: All responses.
        about: Device and models according to the first response.
    """

    def __init__(self, client: httpx2.AsyncClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.samples: list[HealthSample] = []
        self.about: dict[str, Any] = {}

    async def poll(self) -> None:
        """Add one sample; errors give a sample without values."""
        at = self._clock.now()
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                document = (await self._client.get("/healthcheck")).json()
        except (httpx2.HTTPError, TimeoutError, ValueError):
            document = None
        if not isinstance(document, Mapping):
            self.samples.append(HealthSample(at))
            return
        queue = document.get("queue")
        values = queue if isinstance(queue, Mapping) else {}
        self.samples.append(
            HealthSample(
                at,
                self._clock.now() - at,
                *(_to_float(values.get(k)) for k in ("waiting", "running", "estimated_seconds")),
            )
        )
        if not self.about:
            wanted = ("status", "device", "models_loaded", "models_available")
            self.about = {key: document[key] for key in wanted if key in document}

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL)
            await self.poll()

    @property
    def latest(self) -> HealthSample | None:
        """Latest sample with a response."""
        return next((s for s in reversed(self.samples) if not math.isnan(s.seconds)), None)


def _to_float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
