"""Long run with faults: one outcome per request, and no growth.

    python -m benchmarks.soak [--minutes M] [--seed N] [--home FOLDER] [--smoke]

Serves the demo set to painters, leavers, cancellers, vandals, crowds and an operator who unloads
variants, and kills the runner at intervals, all from one seed.

Four conditions must hold:

- Every request has exactly one outcome on the client's side.
- The service counts the same outcomes.
- The API process never ends.
- Memory, file descriptors, threads and temporary files grow by at most 5 %, measured before and
  after the same exercise.

`--home` is a Bento home with the demo set, which is imported otherwise.
`--smoke` takes 6 seconds with at least one kill and a short queue, and checks only the outcomes.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.support.report import finish
from benchmarks.support.soak_traffic import LEFT, Callers
from testing.process_state import ProcessState, files_in, processes_of, states_of
from testing.server import import_demo, started_service

GROWTH_BAR = 1.05
ALLOWED = {
    "success", LEFT, "cancelled", "overloaded", "runner_lost", "not_ready", "invalid_request",
    "invalid_depth_map", "unknown_model", "unsupported_media_type", "too_large",
}  # fmt: skip
# Possible ends of a request whose client has just left.
_ENDS_UNHEARD = {"success", "cancelled", "runner_lost"}
_COUNTED = re.compile(r'experimance_requests_total\{(?=.*outcome="(\w+)").*\} (\S+)')
_KILL_SECONDS = 240.0
_CALM_SECONDS = 60.0
_SMOKE_MINUTES = 1 / 10
_SMOKE_SETTINGS = {"MAX_QUEUE": "8", "MAX_QUEUE_SECONDS": "5"}
_WARM_UP_SHARE = 0.2
# The server closes idle connections after 15 s.
_SETTLE_SECONDS = 20.0
_COUNT_SECONDS = 60.0


async def counted(client: httpx.AsyncClient, total: int) -> Counter[str]:
    """Return the service's own count of generation requests by outcome.

    The service counts a request that its client left a moment later, so wait for the last one.

    Args:
        client: HTTP client of the service.
        total: number of requests that were sent.
    """
    until = time.monotonic() + _COUNT_SECONDS
    while True:
        text = (await client.get("/metrics")).text
        counts: Counter[str] = Counter()
        for outcome, number in _COUNTED.findall(text):
            counts[outcome] += int(float(number))
        if counts.total() >= total or time.monotonic() > until:
            return counts
        await asyncio.sleep(0.2)


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the service is ready for inference and no request is in flight."""
    while True:
        health = (await client.get("/healthcheck")).json()
        queue = health["queue"]
        if health["ready_for_inference"] and not queue["waiting"] + queue["running"]:
            return
        await asyncio.sleep(0.2)


async def killer(port: int, until: float, seed: int) -> int:
    """Kill the runner at random intervals, and return how often.

    A run gets at least one kill, however short.

    Args:
        port: port of the service.
        until: end of the traffic, on the monotonic clock.
        seed: seed of the intervals.
    """
    rng = np.random.default_rng(seed)
    left = until - time.monotonic()
    every, calm = min(_KILL_SECONDS, left / 2), min(_CALM_SECONDS, left / 10)
    kills = 0
    while True:
        wait = every * (0.5 + rng.random())
        if time.monotonic() + wait > until - calm:
            return kills
        await asyncio.sleep(wait)
        processes_of(port)["runner"].kill()
        kills += 1


async def soak(url: str, minutes: float, seed: int, folder: Path, smoke: bool) -> dict[str, Any]:
    """Run the whole soak, and return its figures and faults.

    Args:
        url: base URL of the service.
        minutes: duration of the measured traffic.
        seed: seed of callers and kills.
        folder: the service's folder of temporary files.
        smoke: whether to check only the outcomes.
    """
    port = int(url.rsplit(":", 1)[1])
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        callers = Callers(client, seed)

        async def under_fire() -> int:
            until = time.monotonic() + 60 * minutes
            killing = asyncio.create_task(killer(port, until, seed))
            await callers.go_on(60 * minutes)
            kills = await killing
            await ready(client)
            return kills

        async def measure() -> dict[str, ProcessState]:
            for model in ("lightning", "hyper", "base"):
                await client.post("/preload", json={"model": model})
            for _ in range(2):
                await callers.exercise()
            await ready(client)
            await asyncio.sleep(_SETTLE_SECONDS)
            # Using one connection closes the clients' idle ones, whose number is random.
            await ready(client)
            await asyncio.sleep(1)
            return states_of(port)

        await ready(client)
        api = processes_of(port)["api"].pid
        growth: dict[str, dict[str, float]] = {}
        if smoke:
            # However slow the machine is, one request succeeds before the first kill.
            await callers.paint_once()
            kills = await under_fire()
        else:
            # Fill the prompt caches up to their bounds.
            await callers.go_on(_WARM_UP_SHARE * 60 * minutes)
            before, files = await measure(), files_in(folder)
            kills = await under_fire()
            growth = {name: state.growth(before[name]) for name, state in (await measure()).items()}
            left = files_in(folder)
            growth["service"] = {"temporary files": round((left + 1) / (files + 1), 4)}
        ours = callers.ledger.outcomes
        theirs = await counted(client, ours.total())
    faults = [*callers.ledger.faults, *(f"{name}: no outcome" for name in callers.ledger.unheard)]
    faults += [f"outcome {name}" for name in ours.keys() - ALLOWED]
    faults += ["the API process ended"] * (processes_of(port)["api"].pid != api)
    faults += disagreements(ours, theirs)
    return {
        "kills": kills, "outcomes": dict(ours), "counted": dict(theirs), "faults": faults,
        "growth": growth,
    }  # fmt: skip


def disagreements(ours: Counter[str], theirs: Counter[str]) -> list[str]:
    """Name the outcomes that clients and service count differently.

    An outcome that reached its client must be counted as that. For a client that left, the service
    may count any end that it did not wait for.
    """
    found = []
    if ours.total() != theirs.total():
        found.append(f"{ours.total()} sent, {theirs.total()} counted")
    for name in theirs | ours:
        more = theirs[name] - ours[name]
        if name != LEFT and (more < 0 or (more > 0 and name not in _ENDS_UNHEARD)):
            found.append(f"{name}: {ours[name]} heard, {theirs[name]} counted")
    return found


def main() -> None:
    """Start the service, soak it, and finish with the largest growth and every fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    minutes = _SMOKE_MINUTES if options.smoke else options.minutes
    with tempfile.TemporaryDirectory(prefix="experimance-") as name:
        folder = Path(name)
        home = options.home or folder / "bentoml"
        if options.home is None:
            import_demo(home)
        temporary = folder / "tmp"
        temporary.mkdir()
        settings = {"TMPDIR": str(temporary), "LOG_FORMAT": "json"}
        settings |= _SMOKE_SETTINGS if options.smoke else {}
        with started_service(home, folder / "log", settings) as url:
            found = asyncio.run(soak(url, minutes, options.seed, temporary, options.smoke))
    largest = max((value for own in found["growth"].values() for value in own.values()), default=1)
    passed = not found["faults"] and largest <= GROWTH_BAR
    finish(largest, GROWTH_BAR, passed, minutes=round(minutes, 2), seed=options.seed, **found)


if __name__ == "__main__":
    main()
