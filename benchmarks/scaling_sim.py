"""Simulated cost and waits of a day, under each scaling policy.

    python -m benchmarks.scaling_sim                              the tables of docs/scaling.md
    python -m benchmarks.scaling_sim --price 2.1 --tflops 989     another GPU, at another price
    python -m benchmarks.scaling_sim --write docs/scaling.md      put the tables into the document

Demand is drawn with a seed. An image's seconds follow from its operations and the GPU's throughput.
Prices and start-up times are assumptions, set by options. The last line is JSON. The exit status is
0 if in every scenario the recommended policy keeps the bar and costs less than the smallest fixed
fleet that keeps it.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from benchmarks.support.report import finish
from benchmarks.support.scaling.cases import RECOMMENDED, cases
from benchmarks.support.scaling.demand import DAY, HOUR, SCENARIOS, Scenario
from benchmarks.support.scaling.fleet import Fleet
from benchmarks.support.scaling.policies import INTERVAL, Autoscaler, Policy, View

_LARGEST_FLEET = 32
_BEGIN, _END = "<!-- scaling_sim: begin -->", "<!-- scaling_sim: end -->"


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Assumptions of the simulation; each is an option of the command.

    Args:
        seed: seed of the demand.
        tflop: operations of one image, in 10^12. 54: lightning, six steps without guidance, small
            ControlNet, full decoder, 1024 x 1024.
        tflops: the GPU's half-precision throughput with float32 accumulation, 10^12 per second.
        efficiency: reached share of that throughput.
        price: price of a GPU hour.
        stopped_price: price of an hour of a stopped worker, which keeps its disk.
        image_gb: the container image without weights, in GB.
        weights_gb: the catalog's weights, in GB.
        gbit: the host's download rate, in Gbit/s.
        unpack: GB of image layers unpacked per second.
        convert: GB of weights verified and written per second.
        boot: seconds from a container's start to ready, without downloads.
        budget: seconds after which the image is useless to a client.
        wait_bar: limit of the p95 wait, in seconds.
        refused_bar: limit of the share of refused requests.
    """

    seed: int = 7
    tflop: float = 54.0
    tflops: float = 165.0
    efficiency: float = 0.5
    price: float = 0.40
    stopped_price: float = 0.015
    image_gb: float = 7.0
    weights_gb: float = 21.0
    gbit: float = 1.0
    unpack: float = 0.2
    convert: float = 0.5
    boot: float = 45.0
    budget: float = 12.0
    wait_bar: float = 2.0
    refused_bar: float = 0.01

    @property
    def service_seconds(self) -> float:
        """Seconds of one image on a worker."""
        return self.tflop / (self.tflops * self.efficiency)

    def new_seconds(self, image: str) -> float:
        """Return the seconds until a new worker is ready: downloads, unpacking and boot."""
        fetched = (self.image_gb + self.weights_gb) * 8 / self.gbit
        weights = self.weights_gb / (self.unpack if image == "full" else self.convert)
        return fetched + self.image_gb / self.unpack + weights + self.boot


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a policy's day; a refused request counts as a wait of its whole patience."""

    policy: str
    cost: float
    wait_p50: float
    wait_p95: float
    refused: float
    utilisation: float
    requests: int


def simulate(arrivals: np.ndarray[Any, Any], policy: Policy, given: Assumptions) -> Outcome:
    """Replay a day's arrivals against a policy.

    Args:
        arrivals: arrival times in seconds after midnight, ascending.
        policy: the scaling policy.
        given: the assumptions.
    """
    env = simpy.Environment()
    patience = max(0.0, given.budget - given.service_seconds)
    fleet = Fleet(
        env,
        lambda: given.service_seconds,
        new_seconds=given.new_seconds(policy.image),
        stopped_seconds=given.boot,
        keep_stopped=policy.stopped,
        patience=patience,
    )
    fleet.begin(policy.floor_at(0))
    env.process(_arrive(env, fleet, arrivals))
    env.process(_scale(env, fleet, Autoscaler(policy), given))
    env.run(until=DAY)
    tally = fleet.settle()
    # Requests that still wait at midnight belong to the next day.
    waits = np.array([*tally.waits, *[patience] * tally.refused] or [0.0])
    return Outcome(
        policy=policy.name,
        cost=(tally.paid * given.price + tally.stored * given.stopped_price) / HOUR,
        wait_p50=float(np.percentile(waits, 50)),
        wait_p95=float(np.percentile(waits, 95)),
        refused=tally.refused / waits.size,
        utilisation=tally.busy / tally.paid if tally.paid else 0.0,
        requests=len(arrivals),
    )


def _arrive(
    env: simpy.Environment, fleet: Fleet, arrivals: np.ndarray[Any, Any]
) -> Generator[simpy.Event, Any, None]:
    for moment in arrivals.tolist():
        yield env.timeout(moment - env.now)
        fleet.arrive()


def _scale(
    env: simpy.Environment, fleet: Fleet, autoscaler: Autoscaler, given: Assumptions
) -> Generator[simpy.Event, Any, None]:
    while True:
        in_hand = fleet.waiting + fleet.painting
        view = View(env.now, fleet.arrived, in_hand, given.service_seconds)
        fleet.scale_to(autoscaler.wanted(view))
        yield env.timeout(INTERVAL)


def keeps_bar(outcome: Outcome, given: Assumptions) -> bool:
    """Return whether waits and refusals are within their bars."""
    return outcome.wait_p95 <= given.wait_bar and outcome.refused <= given.refused_bar


def smallest_fixed(arrivals: np.ndarray[Any, Any], given: Assumptions) -> list[Outcome]:
    """Simulate fixed fleets of 1, 2, … workers up to the first that keeps the bar."""
    tried: list[Outcome] = []
    for count in range(1, _LARGEST_FLEET + 1):
        tried.append(simulate(arrivals, Policy(f"fixed, {count}", floor=count), given))
        if keeps_bar(tried[-1], given):
            break
    return tried


def measure(scenario: Scenario, given: Assumptions) -> list[Outcome]:
    """Simulate every policy in a scenario, after the two largest fixed fleets tried."""
    arrivals = scenario.arrivals(given.seed)
    policies = cases(given.service_seconds)[scenario.name]
    others = [simulate(arrivals, policy, given) for policy in policies]
    return [*smallest_fixed(arrivals, given)[-2:], *others]


def verdict(name: str, outcomes: Sequence[Outcome], given: Assumptions) -> dict[str, Any]:
    """Compare the recommended policy with the smallest fixed fleet that keeps the bar.

    Args:
        name: name of the scenario.
        outcomes: results of all its policies.
        given: the assumptions.
    """
    recommended = next(o for o in outcomes if o.policy == RECOMMENDED[name])
    fixed = [o for o in outcomes if o.policy.startswith("fixed") and keeps_bar(o, given)]
    ratio = recommended.cost / fixed[0].cost if fixed else None
    cheaper = ratio is None or ratio < 1
    return {
        "policy": recommended.policy,
        "wait_p95": round(recommended.wait_p95, 3),
        "refused": round(recommended.refused, 5),
        "cost": round(recommended.cost, 2),
        "cost_ratio": None if ratio is None else round(ratio, 3),
        "pass": keeps_bar(recommended, given) and cheaper,
    }


def table(scenario: Scenario, outcomes: Sequence[Outcome]) -> str:
    """Return a scenario's outcomes as Markdown, with the recommended policy in bold."""
    lines = [
        f"**{scenario.name}**: {scenario.description}; {outcomes[0].requests} requests.",
        "",
        "| policy | cost per day | p50 wait | p95 wait | refused | utilisation |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        name = f"**{o.policy}**" if o.policy == RECOMMENDED[scenario.name] else o.policy
        lines.append(
            f"| {name} | {o.cost:.2f} | {o.wait_p50:.2f} s | {o.wait_p95:.2f} s "
            f"| {o.refused:.1%} | {o.utilisation:.0%} |"
        )
    return "\n".join(lines)


def put_into(document: str, tables: str) -> str:
    """Return a document with the text between its two marks replaced.

    Raises:
        ValueError: the document lacks a mark.
    """
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the document needs the marks {_BEGIN} and {_END}")
    return f"{before}{_BEGIN}\n{tables}\n{_END}{after}"


def main() -> None:
    """Simulate, print the tables, and finish with the recommended policies' figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    parser.add_argument("--write", type=Path, help="replace the tables of this document")
    for name, default in asdict(Assumptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args())
    names, document = options.pop("scenario") or list(SCENARIOS), options.pop("write")
    given = Assumptions(**options)
    tables, figure = [], {}
    for name in names:
        outcomes = measure(SCENARIOS[name], given)
        tables.append(table(SCENARIOS[name], outcomes))
        figure[name] = verdict(name, outcomes, given)
    print("\n\n".join(tables))
    if document is not None:
        document.write_text(put_into(document.read_text("utf-8"), "\n\n".join(tables)), "utf-8")
    bar = {"wait_p95": given.wait_bar, "refused": given.refused_bar, "cost_ratio": 1.0}
    finish(
        figure, bar, all(result["pass"] for result in figure.values()),
        service_seconds=round(given.service_seconds, 3),
        new_seconds={image: round(given.new_seconds(image)) for image in ("full", "slim")},
        assumptions=asdict(given),
    )  # fmt: skip


if __name__ == "__main__":
    main()
