"""A day's demand: when pictures are asked for, as a seeded Poisson process of changing rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Wave:
    """A stretch of the day with its own demand; rates of waves that overlap add up.

    Args:
        start: hour of the day at which it begins.
        end: hour of the day at which it is over.
        per_minute: requests per minute at its height.
        rise: hours from its start to its height.
        fall: hours from its height to its end.
    """

    start: float
    end: float
    per_minute: float
    rise: float = 0.0
    fall: float = 0.0

    def rate(self, hours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Requests per second at each of `hours`."""
        shape = np.ones_like(hours)
        if self.rise:
            shape = np.minimum(shape, (hours - self.start) / self.rise)
        if self.fall:
            shape = np.minimum(shape, (self.end - hours) / self.fall)
        inside = (hours >= self.start) & (hours < self.end)
        return np.where(inside, np.clip(shape, 0, 1), 0) * (self.per_minute / 60)


@dataclass(frozen=True, slots=True)
class Groups:
    """School groups: on each day some of the hours at which one may come are drawn.

    Args:
        slots: hours of the day at which a group may begin.
        count: how many come.
        hours: how long a group stays.
        per_minute: requests per minute of one group.
    """

    slots: Sequence[float]
    count: int
    hours: float
    per_minute: float

    def drawn(self, random: np.random.Generator) -> list[Wave]:
        """This day's groups."""
        starts = random.choice(np.asarray(self.slots), size=self.count, replace=False)
        return [Wave(start, start + self.hours, self.per_minute) for start in sorted(starts)]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Where the service stands, and what is asked of it over a day."""

    name: str
    description: str
    waves: tuple[Wave, ...]
    groups: Groups | None = None

    def arrivals(self, seed: int) -> np.ndarray[Any, Any]:
        """Arrival times in seconds after midnight, ascending; the same for the same seed.

        Candidates come at the day's highest rate, and each is kept with the share of it that
        holds at its time (thinning).
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
