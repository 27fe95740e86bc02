"""The autoscaling simulation: waiting times, policies and costs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import simpy

from benchmarks.scaling_sim import Assumptions, keeps_bar, put_into, simulate, smallest_fixed
from benchmarks.support.scaling.cases import RECOMMENDED, cases
from benchmarks.support.scaling.demand import HOUR, SCENARIOS, Groups, Scenario, Wave
from benchmarks.support.scaling.fleet import Fleet, Tally
from benchmarks.support.scaling.policies import INTERVAL, Autoscaler, Policy, View
from testing.server import ROOT

SERVICE = 1.0
CUSTOMERS = 60_000


def poisson_into(fleet: Fleet, env: simpy.Environment, rate: float, count: int) -> None:
    gaps = np.random.default_rng(3).exponential(1 / rate, count)

    def arrive() -> Generator[simpy.Event, Any, None]:
        for gap in gaps.tolist():
            yield env.timeout(gap)
            fleet.arrive()

    env.process(arrive())


def steady(workers: int, load: float, draw: Callable[[], float]) -> tuple[Tally, float]:
    """`CUSTOMERS` Poisson customers, each worker loaded to `load`; the tally and the seconds."""
    env = simpy.Environment()
    fleet = Fleet(env, draw)
    fleet.begin(workers)
    poisson_into(fleet, env, load * workers / SERVICE, CUSTOMERS)
    env.run()
    return fleet.settle(), env.now


def exponential() -> Callable[[], float]:
    random = np.random.default_rng(11)
    return lambda: float(random.exponential(SERVICE))


def mmc_wait(workers: int, load: float) -> float:
    """Mean seconds of waiting in M/M/c: Erlang's C over the rate that is left."""
    offered = load * workers
    last = offered**workers / math.factorial(workers) / (1 - load)
    delayed = last / (sum(offered**k / math.factorial(k) for k in range(workers)) + last)
    return delayed * SERVICE / (workers * (1 - load))


def mdc_wait(workers: int, load: float) -> float:
    """The same in M/D/c, by Cosmetatos' approximation; exact for one worker."""
    bend = (1 - load) * (workers - 1) * (math.sqrt(4 + 5 * workers) - 2) / (16 * load * workers)
    return mmc_wait(workers, load) * (1 + bend) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "load"), [(1, 0.5), (1, 0.7), (4, 0.8)])
def test_waits_are_those_of_m_m_c(workers: int, load: float) -> None:
    tally, _ = steady(workers, load, exponential())
    assert np.mean(tally.waits) == pytest.approx(mmc_wait(workers, load), rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "load"), [(1, 0.5), (1, 0.8), (4, 0.8), (8, 0.9)])
def test_waits_are_those_of_m_d_c(workers: int, load: float) -> None:
    tally, _ = steady(workers, load, lambda: SERVICE)
    assert np.mean(tally.waits) == pytest.approx(mdc_wait(workers, load), rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "load"), [(1, 0.7), (4, 0.9)])
def test_littles_law_holds(workers: int, load: float) -> None:
    tally, seconds = steady(workers, load, exponential())
    in_system = tally.in_system / seconds
    assert in_system == pytest.approx(CUSTOMERS / seconds * tally.stays / CUSTOMERS, rel=1e-6)
    assert tally.busy / tally.paid == pytest.approx(load, rel=0.03)


def test_growing_queue_rejects_the_excess() -> None:
    env = simpy.Environment()
    fleet = Fleet(env, lambda: SERVICE, patience=5.0)
    fleet.begin(1)
    poisson_into(fleet, env, 2 / SERVICE, 20_000)
    env.run()
    tally = fleet.settle()
    assert tally.refused + len(tally.waits) == 20_000
    assert tally.refused / 20_000 == pytest.approx(0.5, abs=0.02)
    assert max(tally.waits) <= 5.0


def test_workers_cost_from_order_and_serve_after_start() -> None:
    env = simpy.Environment()
    fleet = Fleet(env, lambda: SERVICE, new_seconds=100, stopped_seconds=10, keep_stopped=1)
    fleet.arrive()
    fleet.scale_to(2)
    fleet.arrive()
    env.run(until=50)
    assert fleet.settle().waits == [10, 11]
    assert (fleet.active, fleet.tally.paid, fleet.tally.stored) == (2, 100, 0)
    fleet.scale_to(0)
    env.run(until=200)
    # The one that served is stopped and keeps its disk; the other was never ready.
    assert (fleet.active, fleet.settle().paid, fleet.tally.stored) == (0, 100, 150)
    fleet.arrive()
    env.run(until=300)
    assert fleet.waiting == 1


def test_removed_worker_finishes_its_image_and_can_be_kept() -> None:
    env = simpy.Environment()
    fleet = Fleet(env, lambda: 10.0)
    fleet.begin(2)
    fleet.arrive()
    env.run(until=1)
    fleet.scale_to(0)
    env.run(until=5)
    assert (fleet.active, fleet.painting) == (0, 1)
    fleet.scale_to(1)
    env.run(until=20)
    tally = fleet.settle()
    assert (fleet.active, tally.waits, tally.paid) == (1, [0], 1 + 20)


def test_demand_follows_waves_and_seed() -> None:
    scenario = Scenario(
        "test", "", (Wave(10, 12, 60), Wave(20, 21, 120, rise=0.5, fall=0.5)),
        Groups((8, 14), count=1, hours=0.5, per_minute=30),
    )  # fmt: skip
    days = [scenario.arrivals(seed) / HOUR for seed in range(8)]
    assert np.array_equal(days[0] * HOUR, scenario.arrivals(0))
    assert not np.array_equal(days[0][:9], days[1][:9])

    def mean(start: float, end: float) -> float:
        return float(np.mean([((day >= start) & (day < end)).sum() for day in days]))

    assert mean(10, 12) == pytest.approx(7200, rel=0.02)
    assert mean(20, 21) == pytest.approx(3600, rel=0.02)
    assert mean(20.25, 20.75) == pytest.approx(2700, rel=0.02)
    assert mean(8, 8.5) + mean(14, 14.5) == pytest.approx(900, rel=0.05)
    assert mean(0, 8) == mean(15, 20) == mean(21, 24) == 0
    assert all(0 in (((d >= 8) & (d < 9)).sum(), ((d >= 14) & (d < 15)).sum()) for d in days)


def test_autoscaler_scales_up_at_once_and_down_late() -> None:
    scaler = Autoscaler(Policy("", "queue", 2.0, floor=1, ceiling=5, linger=100))

    def wanted(now: float, in_hand: int) -> int:
        return scaler.wanted(View(now, 0, in_hand, 0.5))

    assert wanted(0, 0) == 1
    assert wanted(10, 9) == 3
    assert wanted(20, 900) == 5
    assert wanted(30, 0) == 5
    assert wanted(131, 0) == 1


def test_utilisation_is_the_load_of_the_last_minute() -> None:
    scaler = Autoscaler(Policy("", "utilisation", 0.5, linger=0))
    wishes = [
        scaler.wanted(View(now, arrived, 0, 1.0))
        for now, arrived in [(10 * i, 10 * i) for i in range(12)]
    ]
    assert wishes[-1] == 2
    assert scaler.wanted(View(170 + INTERVAL, 110, 0, 1.0)) <= 1


def test_hours_set_the_floor() -> None:
    policy = Policy("", floor=1, hours=((9.75, 15, 3),))
    assert [policy.floor_at(h * HOUR) for h in (0, 9.7, 9.8, 15, 24 + 10)] == [1, 1, 3, 1, 3]


def test_costs_are_hours_times_prices() -> None:
    given = Assumptions(price=2.0, stopped_price=0.1)
    arrivals = SCENARIOS["installation"].arrivals(1)
    assert simulate(arrivals, Policy("", floor=3), given).cost == pytest.approx(144)
    half = Policy("", hours=((0, 12, 1),), stopped=1, linger=0)
    outcome = simulate(arrivals[arrivals < 11 * HOUR], half, given)
    # The stopped one's disk is paid all day, and that of the other once it is stopped too.
    assert outcome.cost == pytest.approx(24 + 2.4, rel=0.01)
    assert outcome.refused == 0


def test_smallest_fixed_fleet_is_first_to_meet_the_limit() -> None:
    given = Assumptions(efficiency=0.05)
    tried = smallest_fixed(SCENARIOS["installation"].arrivals(given.seed), given)
    assert len(tried) > 1
    assert [keeps_bar(outcome, given) for outcome in tried] == [False] * (len(tried) - 1) + [True]


def test_every_recommended_policy_is_a_simulated_case() -> None:
    tried = cases(SERVICE)
    assert set(tried) == set(SCENARIOS) == set(RECOMMENDED)
    for name, policies in tried.items():
        assert RECOMMENDED[name] in {policy.name for policy in policies}


def run(*options: str) -> tuple[int, list[str], dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.scaling_sim", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return done.returncode, lines, json.loads(lines[-1])


@pytest.mark.slow
def test_document_contains_the_command_output() -> None:
    status, lines, result = run()
    assert status == 0
    assert result["pass"]
    document = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert put_into(document, "\n".join(lines[:-1])) == document
    assert "python -m benchmarks.scaling_sim" in document


@pytest.mark.slow
def test_a_slow_gpu_fails_the_bar() -> None:
    status, _, result = run("--scenario", "installation", "--efficiency", "0.01")
    assert status == 1
    assert not result["pass"]
    assert result["figure"]["installation"]["refused"] > 0.01


def test_a_document_without_marks_is_not_written() -> None:
    with pytest.raises(ValueError, match="marks"):
        put_into("no marks", "tables")
