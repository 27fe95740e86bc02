"""Closed-loop clients: each sends its next request after the answer to the last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """Result of a list of requests: seconds in total, and latencies in seconds."""

    seconds: float
    latencies: tuple[float, ...]
    abandoned: int

    @property
    def rate(self) -> float:
        """Delivered images per second."""
        return len(self.latencies) / self.seconds


async def closed_loop(
    client: httpx.AsyncClient,
    bodies: Sequence[dict[str, Any]],
    clients: int,
    abandon_every: int | None = None,
) -> Turn:
    """Send a list of requests from several clients at once.

    Args:
        client: HTTP client of the server.
        bodies: bodies of `POST /generate`, sent in this order.
        clients: requests in flight at once.
        abandon_every: every N-th request is abandoned after PATIENCE_SECONDS without an answer: its
            connection is closed, and the next request sent.

    Raises:
        httpx.HTTPStatusError: the server answers with an error; raised in an exception group.
    """
    left = iter(enumerate(bodies, 1))
    latencies: list[float] = []
    abandoned = 0

    async def paint_on() -> None:
        nonlocal abandoned
        for number, body in left:
            impatient = abandon_every is not None and number % abandon_every == 0
            sent = time.perf_counter()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS if impatient else None):
                    answer = await client.post("/generate", json=body)
            except TimeoutError:
                abandoned += 1
                continue
            answer.raise_for_status()
            latencies.append(time.perf_counter() - sent)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(paint_on())
    return Turn(time.perf_counter() - started, tuple(latencies), abandoned)
