"""Load profiles and arrival processes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experimance.load.cli import UsageError
from experimance.load.schedule import LoadProfile, Stage, generate_arrivals, parse_duration

LEVELS = st.floats(0, 50).map(lambda level: round(level, 2))
STAGES = st.lists(st.builds(Stage, st.floats(0.5, 20), LEVELS, LEVELS), min_size=1, max_size=5)


def profile(text: str) -> LoadProfile:
    return LoadProfile.parse(text, "--rate", 10.0, 100.0)


def test_constant_arrivals_are_even() -> None:
    assert list(generate_arrivals(profile("2:3s"), "constant", 0)) == [
        0.25,
        0.75,
        1.25,
        1.75,
        2.25,
        2.75,
    ]


def test_poisson_arrivals_repeat_with_the_seed_only() -> None:
    first, again, other = (
        list(generate_arrivals(profile("5"), "poisson", seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_poisson_gaps_are_exponential() -> None:
    moments = np.array(list(generate_arrivals(profile("100:100s"), "poisson", 3)))
    gaps = np.diff(moments)
    assert len(moments) == pytest.approx(10_000, rel=0.03)
    # In an exponential distribution mean and deviation are equal, and 1 - 1/e lies below them.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert np.mean(gaps < gaps.mean()) == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_a_ramp_is_as_dense_as_its_rate() -> None:
    moments = np.array(list(generate_arrivals(profile("0..100:10s"), "constant", 0)))
    assert len(moments) == 500
    seconds = np.histogram(moments, bins=10, range=(0, 10))[0]
    assert list(seconds) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]


def test_stages_are_consecutive_and_may_pause() -> None:
    moments = np.array(list(generate_arrivals(profile("4:5s,0:5s,2:5s"), "constant", 0)))
    assert np.count_nonzero(moments < 5) == 20
    assert np.count_nonzero((moments > 5.001) & (moments < 9.999)) == 0
    assert np.count_nonzero(moments >= 9.999) == 10


@given(STAGES, st.sampled_from(["poisson", "constant"]), st.integers(0, 5))
def test_arrivals_ascend_and_match_the_integral(
    stages: list[Stage], process: str, seed: int
) -> None:
    made = LoadProfile(stages)
    moments = list(itertools.islice(generate_arrivals(made, process, seed), 5000))
    assert all(0 <= a <= b <= made.seconds for a, b in itertools.pairwise(moments))
    if process == "constant":
        assert len(moments) == pytest.approx(made.integral, abs=0.51)


@given(STAGES, st.floats(0, 1))
def test_time_at_inverts_the_integral_of_the_level(stages: list[Stage], share: float) -> None:
    made = LoadProfile(stages)
    at = made.time_at(share * made.integral)
    grid = np.linspace(0, at, 4001)
    added = float(np.trapezoid([made.level(float(t)) for t in grid], grid))
    assert added == pytest.approx(share * made.integral, abs=0.02 * made.integral + 0.05)


def test_warm_up_has_the_first_level_above_zero() -> None:
    warmed = profile("0..4:8s").after(3)
    assert warmed.seconds == 11
    assert [warmed.level(t) for t in (0, 2.9, 3, 7)] == [4, 4, 0, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "'fast' is not accepted"),
        ("1..5:30s,7", "'7' has no duration"),
        ("0", "never exceeds 0"),
        ("1..500", "up to 100"),
        ("2:0s", "has no duration"),
        ("2:20h,3:20h", "up to 24h in all"),
        ("1:soon", "accepted: 90, 90s, 1.5m"),
        ("-1", "is not accepted"),
    ],
)
def test_invalid_profiles_name_the_option(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^--rate: ") as caught:
        profile(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5m", 90), ("500ms", 0.5), ("1h", 3600), (2.5, 2.5)]
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text, "--duration") == seconds
