"""When requests are due in an open loop, whatever became of the ones before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from experimance.load.shape import Shape

PROCESSES = ("poisson", "constant")
_STREAM = 1
"""Tells these random numbers from those that requests are drawn with."""


def arrivals(shape: Shape, process: str, seed: int) -> Iterator[float]:
    """Moments in seconds from the run's begin, ascending, until the shape ends.

    Both processes are even in the rate added up over time, so a ramp needs no steps: `constant`
    takes its halves (0.5, 1.5, …), `poisson` sums of exponential gaps of mean 1.
    """
    for total in _poisson(seed) if process == "poisson" else itertools.count(0.5):
        at = shape.when(total)
        if at == math.inf:
            return
        yield at


def _poisson(seed: int) -> Iterator[float]:
    rng = np.random.default_rng((_STREAM, seed))
    total = 0.0
    while True:
        total += float(rng.exponential())
        yield total
