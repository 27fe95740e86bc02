"""Percentiles are exact: values that were measured, by nearest rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experimance.load.percentiles import Spread, percentile

VALUES = st.lists(st.floats(0, 1000), min_size=1, max_size=200)


@given(VALUES, st.floats(0.1, 100))
def test_a_percentile_is_the_smallest_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(np.array(values), share)
    # A share of a count is exact only up to rounding.
    enough = share / 100 * len(values) - 1e-9
    assert found in values
    assert sum(value <= found for value in values) >= enough
    below = [value for value in values if value < found]
    assert not below or len(below) < share / 100 * len(values) + 1e-9


@given(VALUES)
def test_a_spread_has_numpy_s_figures(values: list[float]) -> None:
    column = np.array(values)
    spread = Spread.of(column)
    for name, share in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p999", 99.9)):
        assert getattr(spread, name) == np.percentile(column, share, method="inverted_cdf")
    assert (spread.min, spread.max, spread.count) == (min(values), max(values), len(values))
    assert spread.mean == pytest.approx(np.mean(column))


def test_nothing_has_no_percentiles() -> None:
    spread = Spread.of(np.empty(0))
    assert spread.count == 0
    assert math.isnan(spread.p95)
    assert spread.document()["p95"] is None


def test_of_a_hundred_the_95th_is_the_95th() -> None:
    assert percentile(np.arange(1, 101, dtype=np.float64), 95) == 95
