"""A day's demand: request times from a seeded Poisson process of changing rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Wave:
    """A stretch of the day with its own demand; rates of overlapping waves add up.

    Args:
        start: hour of the day at its start.
        end: hour of the day at its end.
        per_minute: requests per minute at its peak.
        rise: hours from its start to its peak.
        fall: hours from its peak to its end.
    """

    start: float
    end: float
    per_minute: float
    rise: float = 0.0
    fall: float = 0.0

    def rate(self, hours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the requests per second at each of `hours`."""
        shape = np.ones_like(hours)
        if self.rise:
            shape = np.minimum(shape, (hours - self.start) / self.rise)
        if self.fall:
            shape = np.minimum(shape, (self.end - hours) / self.fall)
        inside = (hours >= self.start) & (hours < self.end)
        return np.where(inside, np.clip(shape, 0, 1), 0) * (self.per_minute / 60)


@dataclass(frozen=True, slots=True)
class Groups:
    """School groups, which start at randomly drawn hours of each day.

    Args:
        slots: hours of the day at which a group may start.
        count: groups per day.
        hours: hours that a group stays.
        per_minute: requests per minute of one group.
    """

    slots: Sequence[float]
    count: int
    hours: float
    per_minute: float

    def drawn(self, random: np.random.Generator) -> list[Wave]:
        """Draw this day's groups."""
        starts = random.choice(np.asarray(self.slots), size=self.count, replace=False)
        return [Wave(start, start + self.hours, self.per_minute) for start in sorted(starts)]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A place of use, and its demand over a day."""

    name: str
    description: str
    waves: tuple[Wave, ...]
    groups: Groups | None = None

    def arrivals(self, seed: int) -> np.ndarray[Any, Any]:
        """Return arrival times in seconds after midnight, ascending; equal seeds give equal times.

        Candidates are drawn at the day's highest rate. Each is kept with the ratio of the rate at
        its time to the highest rate (thinning).
        """
        random = np.random.default_rng(seed)
        waves = [*self.waves, *(self.groups.drawn(random) if self.groups else ())]
        highest = sum(wave.per_minute for wave in waves) / 60
        candidates = np.sort(random.uniform(0, DAY, random.poisson(highest * DAY)))
        rate = sum((wave.rate(candidates / HOUR) for wave in waves), np.zeros_like(candidates))
        return candidates[random.uniform(0, highest, candidates.size) < rate]


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "installation",
            "one sand table, open from 10 to 22, three school groups, an evening peak",
            (Wave(10, 22, 3), Wave(18.5, 21.5, 9, rise=0.5, fall=0.5)),
            Groups((10, 11, 12, 13, 14, 15, 16), count=3, hours=0.75, per_minute=8),
        ),
        Scenario(
            "site",
            "a small public site: visitors all day, classes in the morning, an evening peak",
            (
                Wave(0, 24, 2),
                Wave(7, 24, 25, rise=3, fall=2),
                Wave(18, 23, 110, rise=1.5, fall=1.5),
            ),
            Groups((9, 10, 11, 13, 14), count=3, hours=0.75, per_minute=90),
        ),
        Scenario(
            "burst",
            "a quiet site that a broadcast at 20:00 sends everyone to",
            (Wave(0, 24, 2), Wave(20, 21.5, 600, rise=0.05, fall=1.2)),
        ),
    )
}
