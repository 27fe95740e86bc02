"""Scaling policies: the number of workers wanted at a moment of the day."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

from benchmarks.support.scaling.demand import DAY, HOUR

INTERVAL = 10.0
"""Seconds between two decisions."""
_WINDOW = 60.0
"""Seconds of arrivals that the utilisation signal counts."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for the size of a fleet.

    Args:
        name: name in the table.
        signal: `none`: the floor alone. `utilisation`: the load that arrived over the last minute,
            over `target` (vast.ai's `target_util`). `queue`: the seconds of work in hand over
            `target` (a Kubernetes autoscaler on the average queue seconds of a replica).
        target: intended busy share of the workers, or seconds of queue per worker.
        floor: least number of workers outside `hours`.
        hours: `(from hour, to hour, workers)`: other floors at times known beforehand.
        ceiling: largest number of workers that the signal can request.
        stopped: workers kept stopped (vast.ai's `cold_workers`).
        image: container image of new workers: `full` contains the weights, `slim` does not.
        linger: seconds during which fewer workers must have sufficed before some are stopped.
    """

    name: str
    signal: Literal["none", "utilisation", "queue"] = "none"
    target: float = 1.0
    floor: int = 0
    hours: tuple[tuple[float, float, int], ...] = ()
    ceiling: int = 32
    stopped: int = 0
    image: Literal["full", "slim"] = "full"
    linger: float = 300.0

    def floor_at(self, seconds: float) -> int:
        """Return the least number of workers at a time in seconds after midnight."""
        hour = seconds % DAY / HOUR
        return next((count for start, end, count in self.hours if start <= hour < end), self.floor)


@dataclass(frozen=True, slots=True)
class View:
    """Inputs of an autoscaler's decision: times in seconds, requests arrived and in hand."""

    now: float
    arrived: int
    in_hand: int
    service_seconds: float


class Autoscaler:
    """One policy over a day, with its recent inputs and decisions."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._arrivals: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._wishes: deque[tuple[float, int]] = deque()

    def wanted(self, view: View) -> int:
        """Return the wanted number of workers, at least the most wanted within `linger`."""
        policy = self._policy
        self._arrivals.append((view.now, view.arrived))
        while len(self._arrivals) > 2 and self._arrivals[0][0] < view.now - _WINDOW:
            self._arrivals.popleft()
        self._wishes.append((view.now, min(policy.ceiling, self._raw(view))))
        while self._wishes[0][0] < view.now - policy.linger:
            self._wishes.popleft()
        wish = max(count for _, count in self._wishes)
        return max(policy.floor_at(view.now), wish)

    def _raw(self, view: View) -> int:
        policy = self._policy
        if policy.signal == "queue":
            return math.ceil(view.in_hand * view.service_seconds / policy.target)
        if policy.signal == "utilisation":
            since, before = self._arrivals[0]
            load = (view.arrived - before) * view.service_seconds / max(view.now - since, INTERVAL)
            return math.ceil(load / policy.target)
        return 0
