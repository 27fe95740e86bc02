"""Cost of changing the era or the variant, against the plain server.

    python -m benchmarks.switching [--requests N] [--repeats N] [--seed N] [--smoke]

A session of random requests covers all variants and eras of the demo set, one at a time. The
service and benchmarks/support/reference_server.py take turns. Every request is repeated several
times in a row. The first run pays for the change from the previous request, and the repetitions
measure its kind (variant and era) without a change. Time lost to switching is the sum of the first
runs minus that of the kinds' medians. The figure is the service's loss over the reference's.

`--url` and `--reference-url` use servers that already run; `--smoke` does not measure speed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.support.report import finish, table
from benchmarks.support.rivals import (
    REFERENCE,
    SERVICE,
    STEPS,
    Choice,
    client_of,
    in_turn,
    running_rivals,
)
from testing.catalog import demo_catalog

BAR = 0.1
_LEAST_SECONDS = 1e-3
Kind = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of the session: its kind, and the seconds of first run and repetitions."""

    kind: Kind
    first: float
    repeated: tuple[float, ...]


def session(requests: int, seed: int, steps: int) -> list[dict[str, Any]]:
    """Draw the session's requests, as bodies of `POST /generate`.

    Args:
        requests: number of requests.
        seed: seed of the random choices.
        steps: denoising steps of every request.
    """
    rng = np.random.default_rng(seed)
    catalog = demo_catalog()
    choice = Choice(tuple(catalog.models), tuple(catalog.eras))
    return [choice.draw(rng, number, steps) for number in range(requests)]


def visit(client: httpx.Client, body: dict[str, Any], repeats: int) -> Visit:
    """Send a request, and repeat it back to back.

    Args:
        client: client of one server.
        body: body of `POST /generate`.
        repeats: number of repetitions.
    """
    seconds = []
    for _ in range(1 + repeats):
        sent = time.perf_counter()
        client.post("/generate", json=body).raise_for_status()
        seconds.append(time.perf_counter() - sent)
    return Visit((body["model"], body["era"]), seconds[0], tuple(seconds[1:]))


def measure(
    urls: Mapping[str, str], bodies: Sequence[dict[str, Any]], repeats: int
) -> dict[str, list[Visit]]:
    """Run the session on both servers, request by request, swapping the order every time.

    Args:
        urls: base URLs by server.
        bodies: the session's requests.
        repeats: repetitions of every request.
    """
    visits: dict[str, list[Visit]] = {SERVICE: [], REFERENCE: []}
    with client_of(urls[SERVICE]) as ours, client_of(urls[REFERENCE]) as theirs:
        clients = {SERVICE: ours, REFERENCE: theirs}
        for turn, body in enumerate(bodies):
            for name in in_turn(turn):
                visits[name].append(visit(clients[name], body, repeats))
    return visits


def losses(visits: Sequence[Visit]) -> list[float]:
    """Return the seconds that each request of the session took beyond its kind's median."""
    steady: dict[Kind, list[float]] = defaultdict(list)
    for each in visits:
        steady[each.kind] += each.repeated
    medians = {kind: statistics.median(seconds) for kind, seconds in steady.items()}
    return [each.first - medians[each.kind] for each in visits]


def row(visits: Sequence[Visit]) -> dict[str, float]:
    """Return a server's figures in seconds; the means are per change of variant, or era alone."""
    lost = losses(visits)
    changes: dict[str, list[float]] = {"variant": [], "era": []}
    for (before, after), seconds in zip(itertools.pairwise(visits), lost[1:], strict=True):
        if before.kind[0] != after.kind[0]:
            changes["variant"].append(seconds)
        elif before.kind[1] != after.kind[1]:
            changes["era"].append(seconds)
    return {
        "session s": sum(each.first for each in visits),
        "lost s": sum(lost),
        "per variant": statistics.fmean(changes["variant"] or [0.0]),
        "per era": statistics.fmean(changes["era"] or [0.0]),
    }


def main() -> None:
    """Run the session on both servers, print the losses, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--url", default=None)
    parser.add_argument("--reference-url", default=None)
    options = parser.parse_args()
    requests, repeats = (4, 1) if options.smoke else (options.requests, options.repeats)
    bodies = session(requests, options.seed, 1 if options.smoke else STEPS)
    with running_rivals(options.url, options.reference_url, warm=not options.smoke) as urls:
        visits = measure(urls, bodies, repeats)
    rows = {name: row(visits[name]) for name in (SERVICE, REFERENCE)}
    print(table(rows))
    ours, theirs = rows[SERVICE]["lost s"], rows[REFERENCE]["lost s"]
    figure = ours / max(theirs, _LEAST_SECONDS)
    kinds = [each.kind for each in visits[SERVICE]]
    finish(
        round(figure, 4),
        BAR,
        # A reference without loss means that the machine was too busy to measure.
        theirs > 0 and figure <= BAR,
        requests=requests,
        repeats=repeats,
        smoke=options.smoke,
        kinds=len(set(kinds)),
        variant_changes=sum(a[0] != b[0] for a, b in itertools.pairwise(kinds)),
        seconds={
            name: {heading: round(value, 4) for heading, value in figures.items()}
            for name, figures in rows.items()
        },
    )


if __name__ == "__main__":
    main()
