"""Throughput and latency, against a simple reference server.

    python -m benchmarks.throughput [--rounds N] [--seed N] [--smoke]

Runs the service and benchmarks/support/reference_server.py on the demo set, and loads them in turn
with equal lists of requests. 1, 4 or 8 clients each send the next request after the answer.

- Homogeneous: one variant, one era, one size.
- Mixed: all variants, eras with their LoRAs, and three sizes.
- Abandoned: every fourth request is abandoned after a second.

Rates are compared round by round, and the median ratio counts. Latencies are compared over all
rounds. `--url` and `--reference-url` use servers that already run; `--smoke` does not measure
speed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.support.crowd import Turn, closed_loop
from benchmarks.support.report import finish, table
from benchmarks.support.rivals import (
    REFERENCE,
    SERVICE,
    STEPS,
    Choice,
    in_turn,
    running_rivals,
    settle,
)
from testing.catalog import demo_catalog

AT_LEAST = {"homogeneous_rate": 1.1, "mixed_rate": 2.0, "abandoned_rate": 1.2}
AT_MOST = {"single_latency": 1.02, "mixed_p95": 0.6}
_SIZES = ((256, 256), (256, 256), (320, 256), (256, 320))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A number of clients, and a number of requests of one kind per round."""

    name: str
    clients: int
    requests: int
    mixed: bool = False
    abandon_every: int | None = None

    def bodies(self, rng: np.random.Generator, requests: int, steps: int) -> list[dict[str, Any]]:
        """Draw the requests of one round.

        Args:
            rng: source of the random choices.
            requests: number of requests.
            steps: denoising steps of every request.
        """
        catalog = demo_catalog()
        choice = (
            Choice(tuple(catalog.models), tuple(catalog.eras), _SIZES)
            if self.mixed
            else Choice((catalog.default_model,), ("wilderness",))
        )
        return [choice.draw(rng, number, steps) for number in range(requests)]


SCENARIOS = (
    Scenario("homogeneous, 1 client", clients=1, requests=6),
    Scenario("homogeneous, 4 clients", clients=4, requests=12),
    Scenario("homogeneous, 8 clients", clients=8, requests=24),
    Scenario("mixed, 8 clients", clients=8, requests=32, mixed=True),
    Scenario("abandoned, 8 clients", clients=8, requests=32, abandon_every=4),
)
Turns = Mapping[str, Sequence[Turn]]


def paint(url: str, scenario: Scenario, bodies: Sequence[dict[str, Any]]) -> Turn:
    """Run one server's turn, and wait until it is idle.

    Args:
        url: base URL of the server.
        scenario: clients and abandonment.
        bodies: requests of the turn.
    """

    async def run() -> Turn:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            return await closed_loop(client, bodies, scenario.clients, scenario.abandon_every)

    turn = asyncio.run(run())
    settle(url)
    return turn


def measure(
    urls: Mapping[str, str], rounds: int, seed: int, smoke: bool
) -> dict[str, dict[str, list[Turn]]]:
    """Run every scenario in every round, one server after the other.

    Args:
        urls: base URLs by server.
        rounds: number of rounds.
        seed: seed of the random choices.
        smoke: whether to send only a few requests of one step.

    Returns:
        Turns by scenario and server.
    """
    results: dict[str, dict[str, list[Turn]]] = {
        scenario.name: defaultdict(list) for scenario in SCENARIOS
    }
    for number in range(rounds):
        for place, scenario in enumerate(SCENARIOS):
            rng = np.random.default_rng((seed, number, place))
            few = scenario.abandon_every or min(scenario.clients, 2)
            requests, steps = (few, 1) if smoke else (scenario.requests, STEPS)
            bodies = scenario.bodies(rng, requests, steps)
            for name in in_turn(number + place):
                results[scenario.name][name].append(paint(urls[name], scenario, bodies))
    return results


def rate_ratio(turns: Turns) -> float:
    """Return the service's images per second over the reference's, the median of the rounds."""
    pairs = zip(turns[SERVICE], turns[REFERENCE], strict=True)
    return statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)


def latency_ratio(turns: Turns, percentile: float) -> float:
    """Return a percentile of the service's latencies over the reference's."""
    return _latency(turns[SERVICE], percentile) / _latency(turns[REFERENCE], percentile)


def figures_of(results: Mapping[str, Turns]) -> dict[str, float]:
    """Return the figures that have bars."""
    single, _, crowded, mixed, abandoned = (results[scenario.name] for scenario in SCENARIOS)
    return {
        "homogeneous_rate": rate_ratio(crowded),
        "single_latency": latency_ratio(single, 50),
        "mixed_rate": rate_ratio(mixed),
        "mixed_p95": latency_ratio(mixed, 95),
        "abandoned_rate": rate_ratio(abandoned),
    }


def missed(figures: Mapping[str, float]) -> list[str]:
    """Name the figures that miss their bars."""
    too_low = [name for name, bar in AT_LEAST.items() if figures[name] < bar]
    return too_low + [name for name, bar in AT_MOST.items() if figures[name] > bar]


def row(turns: Iterable[Turn]) -> dict[str, float]:
    """Return a server's figures in one scenario: images per second, latencies in seconds."""
    turns = list(turns)
    return {
        "pictures/s": sum(len(t.latencies) for t in turns) / sum(t.seconds for t in turns),
        "median s": _latency(turns, 50),
        "p95 s": _latency(turns, 95),
        "delivered": sum(len(turn.latencies) for turn in turns),
        "abandoned": sum(turn.abandoned for turn in turns),
    }


def _latency(turns: Iterable[Turn], percentile: float) -> float:
    return float(np.percentile([s for turn in turns for s in turn.latencies], percentile))


def main() -> None:
    """Load both servers, print the results, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--url", default=None)
    parser.add_argument("--reference-url", default=None)
    options = parser.parse_args()
    rounds = 1 if options.smoke else options.rounds
    with running_rivals(options.url, options.reference_url) as urls:
        results = measure(urls, rounds, options.seed, options.smoke)
    rows = {
        scenario: {name: row(turns[name]) for name in (SERVICE, REFERENCE)}
        for scenario, turns in results.items()
    }
    for scenario, pair in rows.items():
        print(f"\n{scenario}\n{table(pair)}")
    figures = figures_of(results)
    finish(
        {name: round(value, 3) for name, value in figures.items()},
        {"at_least": AT_LEAST, "at_most": AT_MOST},
        not missed(figures),
        missed=missed(figures),
        rounds=rounds,
        smoke=options.smoke,
        scenarios={
            scenario: {
                name: {heading: round(value, 3) for heading, value in figures.items()}
                for name, figures in pair.items()
            }
            for scenario, pair in rows.items()
        },
    )


if __name__ == "__main__":
    main()
