"""Exact percentiles by nearest rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experimance.load.statistics import LatencyStats, percentile

VALUES = st.lists(st.floats(0, 1000), min_size=1, max_size=200)


@given(VALUES, st.floats(0.1, 100))
def test_percentile_is_the_smallest_with_enough_below(values: list[float], share: float) -> None:
    found = percentile(np.array(values), share)
    # A share of a count is exact only up to rounding.
    enough = share / 100 * len(values) - 1e-9
    assert found in values
    assert sum(value <= found for value in values) >= enough
    below = [value for value in values if value < found]
    assert not below or len(below) < share / 100 * len(values) + 1e-9


@given(VALUES)
def test_latency_stats_equal_those_of_numpy(values: list[float]) -> None:
    column = np.array(values)
    stats = LatencyStats.of(column)
    for name, share in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p999", 99.9)):
        assert getattr(stats, name) == np.percentile(column, share, method="inverted_cdf")
    assert (stats.min, stats.max, stats.count) == (min(values), max(values), len(values))
    assert stats.mean == pytest.approx(np.mean(column))


def test_nothing_has_no_percentiles() -> None:
    stats = LatencyStats.of(np.empty(0))
    assert stats.count == 0
    assert math.isnan(stats.p95)
    assert stats.document()["p95"] is None


def test_95th_percentile_of_a_hundred_is_the_95th() -> None:
    assert percentile(np.arange(1, 101, dtype=np.float64), 95) == 95
