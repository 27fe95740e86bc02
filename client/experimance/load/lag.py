"""How late the load generator itself is: what it adds to others' latencies."""

from __future__ import annotations

import asyncio
import time
from array import array

import numpy as np

from experimance.load.clock import Clock
from experimance.load.ledger import Column

_EVERY = 0.02


class LagMeter:
    """Sleeps a little, again and again, and notes by how much it overslept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moments = array("d")
        self._delays = array("d")
        self._cpu = time.process_time()
        self._since = clock.now()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            due = self._clock.now() + _EVERY
            await asyncio.sleep(_EVERY)
            now = self._clock.now()
            self._moments.append(now)
            self._delays.append(max(0.0, now - due))

    @property
    def moments(self) -> Column:
        """Seconds from the run's begin."""
        return np.array(self._moments)

    @property
    def delays(self) -> Column:
        """Seconds by which it overslept, at each of the moments."""
        return np.array(self._delays)

    @property
    def cpu_share(self) -> float:
        """Of one core, since the meter was made."""
        return (time.process_time() - self._cpu) / max(1e-9, self._clock.now() - self._since)
