"""Behaviour at ten times the service's capacity: latency, rejections, and the truth of Retry-After.

    python -m benchmarks.overload [--minutes M] [--factor F]

Starts the service on the demo set with a queue of `BOUND` seconds, and measures it unloaded and at
capacity. Then requests arrive at a multiple of that rate, independent of the answers, while another
task checks its health.

Five conditions must hold:

- Every answer is an image or a 429.
- The accepted requests' p95 is at most twice the unloaded p95 plus the bound.
- Health checks answer within 100 ms (p95).
- Memory grows by at most 5 % in the second half.
- `Retry-After` is within a factor of two of the time until all earlier accepted requests end
  (median).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.support.crowd import closed_loop
from benchmarks.support.report import finish
from benchmarks.support.rivals import Choice
from testing.catalog import demo_catalog
from testing.process_state import ProcessState, states_of
from testing.server import import_demo, started_service

BOUND = 3.0
HEALTH_BAR = 0.1
MEMORY_BAR = 1.05
_HEALTH_EVERY = 0.25
_UNLOADED = 20
_CAPACITY = 40


@dataclass(slots=True)
class Ledger:
    """Outcome of every request, in seconds on the benchmark's clock."""

    accepted: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    health: list[float] = field(default_factory=list)

    @property
    def latencies(self) -> list[float]:
        """Seconds of the accepted requests."""
        return [end - sent for sent, end in self.accepted]

    def waits(self) -> list[float]:
        """Return `Retry-After` over the true wait, for each rejected request.

        The true wait lasts until the end of all accepted requests that were sent before. Waits of a
        second or less are left out.
        """
        sent = np.array([start for start, _ in self.accepted])
        ends = np.array([end for _, end in self.accepted])
        ratios = []
        for at, advised in self.refused:
            before = ends[sent <= at]
            if len(before) and before.max() - at > 1.0:
                ratios.append(advised / (before.max() - at))
        return ratios


def bodies(
    rng: np.random.Generator, count: int, eras: tuple[str, ...] = ("wilderness",)
) -> list[dict[str, Any]]:
    """Draw requests with depth maps for the default variant.

    Args:
        rng: source of the random choices.
        count: number of requests.
        eras: names of the eras to draw from.
    """
    catalog = demo_catalog()
    choice = Choice((catalog.default_model,), eras)
    return [choice.draw(rng, number) for number in range(count)]


async def open_loop(
    client: httpx.AsyncClient, rate: float, seconds: float, rng: np.random.Generator
) -> Ledger:
    """Send requests at a fixed rate, and wait for every answer.

    Args:
        client: HTTP client of the service.
        rate: requests per second.
        seconds: duration of the sending.
        rng: source of the random choices.
    """
    ledger = Ledger()
    stock = bodies(rng, 32)
    started = time.monotonic()

    async def ask(body: dict[str, Any]) -> None:
        sent = time.monotonic() - started
        try:
            answer = await client.post("/generate", json=body)
        except httpx.TransportError as error:
            ledger.others[type(error).__name__] += 1
            return
        now = time.monotonic() - started
        if answer.status_code == httpx.codes.OK:
            ledger.accepted.append((sent, now))
        elif answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            ledger.refused.append((now, float(answer.headers["Retry-After"])))
        else:
            ledger.others[f"{answer.status_code} {answer.json()['error']}"] += 1

    async def watch() -> None:
        while True:
            asked = time.monotonic()
            (await client.get("/healthcheck")).raise_for_status()
            ledger.health.append(time.monotonic() - asked)
            await asyncio.sleep(_HEALTH_EVERY)

    watching = asyncio.create_task(watch())
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            group.create_task(ask(stock[number % len(stock)]))
    watching.cancel()
    return ledger


async def load(url: str, factor: float, seconds: float) -> tuple[float, float, Ledger]:
    """Measure the service unloaded, at capacity and overloaded.

    Args:
        url: base URL of the service.
        factor: overload as a multiple of the capacity.
        seconds: duration of the overload.

    Returns:
        Unloaded p95 in seconds, capacity in images per second, and the overload's ledger.
    """
    rng = np.random.default_rng(0)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await closed_loop(client, bodies(rng, 4), clients=1)
        alone = await closed_loop(client, bodies(rng, _UNLOADED), clients=1)
        full = await closed_loop(client, bodies(rng, _CAPACITY), clients=2)
        # The first crowd allocates connections and buffers that stay, so it is not measured.
        await open_loop(client, factor * full.rate, min(15.0, seconds), rng)
        ledger = await open_loop(client, factor * full.rate, seconds, rng)
    return float(np.percentile(alone.latencies, 95)), full.rate, ledger


def main() -> None:
    """Start the service, load it, and finish with the figures against their bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--factor", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="experimance-") as folder:
        home = Path(folder, "bentoml")
        import_demo(home)
        settings = {"MAX_QUEUE_SECONDS": str(BOUND), "LOG_LEVEL": "WARNING"}
        with started_service(home, Path(folder, "log"), settings) as url:
            port = int(url.rsplit(":", 1)[1])
            memory: list[dict[str, ProcessState]] = []

            async def run() -> tuple[float, float, Ledger]:
                async def sample() -> None:
                    while True:
                        memory.append(await asyncio.to_thread(states_of, port))
                        await asyncio.sleep(options.minutes * 60 / 20)

                sampling = asyncio.create_task(sample())
                result = await load(url, options.factor, 60 * options.minutes)
                sampling.cancel()
                return result

            unloaded, capacity, ledger = asyncio.run(run())
            growth = {
                name: state.growth(memory[len(memory) // 2][name])["memory"]
                for name, state in states_of(port).items()
            }
    p95 = float(np.percentile(ledger.latencies, 95))
    health = float(np.percentile(ledger.health, 95))
    waits = ledger.waits()
    advice = float(np.median(waits)) if waits else None
    checks = {
        "nothing but pictures and 429": not ledger.others,
        "p95": p95 <= 2 * unloaded + BOUND,
        "health": health <= HEALTH_BAR,
        "memory": all(value <= MEMORY_BAR for value in growth.values()),
        "Retry-After": advice is None or 0.5 <= advice <= 2.0,
    }
    finish(
        {"p95": round(p95, 2), "health p95": round(health, 4), "told / took": advice},
        {"p95": round(2 * unloaded + BOUND, 2), "health p95": HEALTH_BAR, "told / took": [0.5, 2]},
        all(checks.values()),
        failed=[name for name, held in checks.items() if not held],
        unloaded_p95=round(unloaded, 3),
        capacity=round(capacity, 2),
        sent=len(ledger.accepted) + len(ledger.refused) + ledger.others.total(),
        accepted=len(ledger.accepted),
        refused=len(ledger.refused),
        others=dict(ledger.others),
        health_worst=round(max(ledger.health), 3),
        within_factor_two=round(float(np.mean([0.5 <= w <= 2 for w in waits])), 3) if waits else 1,
        memory_growth=growth,
        memory_mb={
            name: [round(each[name].memory / 1e6) for each in memory if name in each]
            for name in growth
        },
    )


if __name__ == "__main__":
    main()
