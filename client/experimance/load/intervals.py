"""A run's time cut into even intervals, for what is shown over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experimance.load.ledger import Column

_MOST, _FEWEST = 60, 12
_REQUESTS_EACH = 5
_WIDTHS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)


@dataclass(frozen=True)
class Intervals:
    """So many of equal width in seconds, from 0; the last may be over before, at `seconds`."""

    width: float
    count: int
    seconds: float

    @classmethod
    def over(cls, seconds: float, requests: int) -> Intervals:
        """Twelve to sixty of a width that people count in, with a few requests in each."""
        most = min(_MOST, max(_FEWEST, requests // _REQUESTS_EACH))
        width = next((w for w in _WIDTHS if seconds / w <= most), _WIDTHS[-1])
        return cls(width, max(1, math.ceil(seconds / width)), seconds)

    @property
    def middles(self) -> Column:
        """The middle of each, in seconds."""
        return np.linspace(0.5, self.count - 0.5, self.count, dtype=np.float64) * self.width

    def index(self, moments: Column) -> Column:
        """Which interval each moment lies in."""
        return np.clip(np.floor(moments / self.width), 0, self.count - 1)

    def counts(self, moments: Column) -> NDArray[np.int64]:
        """How many there are in each."""
        return np.bincount(self.index(moments).astype(np.int64), minlength=self.count)

    def rate(self, moments: Column) -> Column:
        """How many per second there are in each."""
        widths = np.full(self.count, self.width, dtype=np.float64)
        widths[-1] = max(self.width / 10, self.seconds - self.width * (self.count - 1))
        return self.counts(moments) / widths

    def each(self, moments: Column, values: Column, figure: Callable[[Column], float]) -> Column:
        """A figure of the values in each; `nan` where there are none."""
        index = self.index(moments)
        rows = [values[index == i] for i in range(self.count)]
        return np.array([figure(row) if len(row) else math.nan for row in rows])
