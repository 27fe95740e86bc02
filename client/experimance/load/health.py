"""What the server says of itself during a run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from experimance.load.clock import Clock

_EVERY = 1.0
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class HealthSample:
    """One answer of /healthcheck: requests waiting and running, seconds until all is done.

    `at` and `seconds` are when it was asked and how long that took. What it did not say is `nan`.
    """

    at: float
    seconds: float = math.nan
    waiting: float = math.nan
    running: float = math.nan
    estimated_seconds: float = math.nan


class HealthWatch:
    """Asks once a second, on a connection of its own."""

    def __init__(self, client: httpx2.AsyncClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.samples: list[HealthSample] = []
        self.about: dict[str, Any] = {}
        """What the first answer told of the server: device, models."""

    async def ask(self) -> None:
        """Once, whatever comes of it."""
        at = self._clock.now()
        try:
            async with asyncio.timeout(_PATIENCE):
                document = (await self._client.get("/healthcheck")).json()
        except (httpx2.HTTPError, TimeoutError, ValueError):
            document = None
        if not isinstance(document, Mapping):
            self.samples.append(HealthSample(at))
            return
        queue = document.get("queue")
        said = queue if isinstance(queue, Mapping) else {}
        self.samples.append(
            HealthSample(
                at,
                self._clock.now() - at,
                *(_number(said.get(k)) for k in ("waiting", "running", "estimated_seconds")),
            )
        )
        if not self.about:
            wanted = ("status", "device", "models_loaded", "models_available")
            self.about = {key: document[key] for key in wanted if key in document}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.ask()

    @property
    def latest(self) -> HealthSample | None:
        """The last that was answered."""
        return next((s for s in reversed(self.samples) if not math.isnan(s.seconds)), None)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
