"""Cost of changing the era or the variant, against the plain server.

    python -m benchmarks.switching [--requests N] [--repeats N] [--seed N] [--smoke]

In the first session every request has another era than the one before, with the default variant,
guidance and control. A shorter session changes the variant, too. The service and
benchmarks/support/reference_server.py take turns. In a turn, a request of the previous kind
(variant and era) warms the caches of the processor, the next request pays for the change, and its
followers measure its kind without a change. They differ in prompt, depth map and seed, so that
nothing of an earlier request is cached. All have one step, because a change costs the same for any
number of steps, and short requests vary less. The time lost is the number of changes times the
median of the differences. The figure is the service's loss over the reference's in the first
session.

`--url` and `--reference-url` use servers that already run; `--smoke` does not measure speed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.support.mixed import depth_png
from benchmarks.support.report import finish, table
from benchmarks.support.rivals import (
    REFERENCE,
    SERVICE,
    Choice,
    client_of,
    in_turn,
    running_rivals,
)
from testing.catalog import demo_catalog

BAR = 0.05
_STEPS = 1
_VARIANT_CHANGES = 20
_MOST_REQUESTS = 10_000
"""Numbers of a session's own requests; those of their followers are larger."""
_LEAST_SECONDS = 1e-3
Kind = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Visit:
    """A change to a kind: seconds of the first request and of its followers."""

    kind: Kind
    first: float
    followers: tuple[float, ...]

    @property
    def lost(self) -> float:
        """Seconds of the change: of the first request beyond its followers' mean."""
        return self.first - statistics.fmean(self.followers)


def session(requests: int, seed: int, steps: int, models: Sequence[str]) -> list[dict[str, Any]]:
    """Draw a session's requests, each of another era than the one before.

    Args:
        requests: number of requests.
        seed: seed of the random choices.
        steps: denoising steps of every request.
        models: variants; with more than one, each request has another than the one before.

    Returns:
        Bodies of `POST /generate`.
    """
    rng = np.random.default_rng(seed)
    bodies: list[dict[str, Any]] = []
    era = model = ""
    for number in range(requests):
        choice = Choice(
            tuple(name for name in models if len(models) == 1 or name != model),
            tuple(name for name in demo_catalog().eras if name != era),
        )
        body = choice.draw(rng, number, steps)
        bodies.append(_fresh(body, number))
        era, model = body["era"], body["model"]
    return bodies


def _fresh(body: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a request with a prompt, a depth map and a seed that no other number has."""
    return {
        **body,
        "prompt": f"{demo_catalog().eras[body['era']].prompt}, view {number}",
        "depth_map_b64": depth_png(number, (body["height"], body["width"])),
        "seed": body["seed"] ^ number,
    }


def followers(body: dict[str, Any], number: int, repeats: int) -> list[dict[str, Any]]:
    """Return requests of the same kind with another prompt, depth map and seed.

    Args:
        body: body of `POST /generate`.
        number: number of the request in the session.
        repeats: number of followers.
    """
    first = _MOST_REQUESTS + number * repeats
    return [_fresh(body, first + place) for place in range(repeats)]


def visit(client: httpx.Client, bodies: Sequence[dict[str, Any]]) -> Visit:
    """Send a request of the previous kind, one of another, and its followers, back to back.

    Args:
        client: client of one server.
        bodies: bodies of `POST /generate`.
    """
    seconds = []
    for each in bodies:
        sent = time.perf_counter()
        client.post("/generate", json=each).raise_for_status()
        seconds.append(time.perf_counter() - sent)
    first = bodies[1]
    return Visit((first["model"], first["era"]), seconds[1], tuple(seconds[2:]))


def measure(
    urls: Mapping[str, str], bodies: Sequence[dict[str, Any]], repeats: int
) -> dict[str, list[Visit]]:
    """Run the session on both servers, change by change, swapping the order every time.

    Args:
        urls: base URLs by server.
        bodies: the session's requests; the first sets the kind from which the second changes.
        repeats: followers of every request.
    """
    visits: dict[str, list[Visit]] = {SERVICE: [], REFERENCE: []}
    with client_of(urls[SERVICE]) as ours, client_of(urls[REFERENCE]) as theirs:
        clients = {SERVICE: ours, REFERENCE: theirs}
        for turn, (before, body) in enumerate(itertools.pairwise(bodies)):
            # One number more: it warms up the change that follows.
            *after, _ = followers(body, turn, repeats + 1)
            *_, warm = followers(before, turn, repeats + 1)
            for name in in_turn(turn):
                visits[name].append(visit(clients[name], [warm, body, *after]))
    return visits


def row(visits: Sequence[Visit]) -> dict[str, float]:
    """Return a server's figures in seconds."""
    change = statistics.median(each.lost for each in visits)
    return {
        "request": statistics.median(each.first for each in visits),
        "change": change,
        "lost s": change * len(visits),
    }


def main() -> None:
    """Run both sessions on both servers, print the losses, and finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--url", default=None)
    parser.add_argument("--reference-url", default=None)
    options = parser.parse_args()
    requests, repeats = (4, 1) if options.smoke else (options.requests, options.repeats)
    catalog = demo_catalog()
    changes = min(requests, _VARIANT_CHANGES)
    bodies = {
        "eras": session(requests + 1, options.seed, _STEPS, [catalog.default_model]),
        "variants": session(changes + 1, options.seed + 1, _STEPS, list(catalog.models)),
    }
    rows: dict[str, dict[str, float]] = {}
    with running_rivals(options.url, options.reference_url, warm=not options.smoke) as urls:
        for name, its in bodies.items():
            visits = measure(urls, its, repeats)
            rows |= {f"{name}, {server}": row(visits[server]) for server in (SERVICE, REFERENCE)}
    print(table(rows))
    ours, theirs = (rows[f"eras, {server}"]["lost s"] for server in (SERVICE, REFERENCE))
    figure = ours / max(theirs, _LEAST_SECONDS)
    finish(
        round(figure, 4),
        BAR,
        # A reference without loss means that the machine was too busy to measure.
        theirs > 0 and figure <= BAR,
        requests=requests,
        repeats=repeats,
        smoke=options.smoke,
        eras=[body["era"] for body in bodies["eras"]],
        models=[body["model"] for body in bodies["variants"]],
        seconds={
            name: {heading: round(value, 4) for heading, value in figures.items()}
            for name, figures in rows.items()
        },
    )


if __name__ == "__main__":
    main()
