"""Clients of every kind for a long run, and the ledger of their outcomes."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import numpy as np

from benchmarks.support.mixed import draw_request

LEFT = "left"
CROWD = 80
_BAD: tuple[tuple[dict[str, Any], int], ...] = (
    ({"json": {"prompt": "x"}}, 400),
    ({"json": {"prompt": "x", "mock_depth": True, "steps": 99}}, 400),
    ({"json": {"prompt": "x", "depth_map_b64": "AAAA"}}, 400),
    ({"json": {"prompt": "x", "mock_depth": True, "model": "turbo"}}, 400),
    ({"content": b"{" * 1000, "headers": {"Content-Type": "application/json"}}, 400),
    ({"content": b"x" * 1000, "headers": {"Content-Type": "application/octet-stream"}}, 415),
    ({"content": b"[" * 2**25 + b"[", "headers": {"Content-Type": "application/json"}}, 413),
)


class Ledger:
    """Generation requests by id, with exactly one outcome each on the client's side."""

    def __init__(self) -> None:
        self._sent: set[str] = set()
        self._heard: dict[str, str] = {}
        self.faults: list[str] = []

    def send(self, name: str) -> None:
        """Record that a request is sent."""
        self._sent.add(name)

    def hear(self, name: str, outcome: str) -> None:
        """Record a request's outcome, or that its client left."""
        if name in self._heard:
            self.faults.append(f"{name}: {self._heard[name]}, then {outcome}")
        self._heard[name] = outcome

    def lose(self, name: str, error: httpx.TransportError) -> None:
        """Record a broken connection, which is not a valid outcome."""
        self.hear(name, f"no answer, {type(error).__name__}")

    @property
    def unheard(self) -> set[str]:
        """Requests without an outcome."""
        return self._sent - set(self._heard)

    @property
    def outcomes(self) -> Counter[str]:
        """Count of requests by outcome: `success`, a code of the wire contract, or `left`."""
        return Counter(self._heard.values())


class Callers:
    """Clients that run for a given time, each with a seeded generator of its own."""

    def __init__(self, client: httpx.AsyncClient, seed: int) -> None:
        self._client = client
        self._until = 0.0
        self._seeds = itertools.count(seed)
        self._names = itertools.count()
        self.ledger = Ledger()

    async def go_on(self, seconds: float) -> None:
        """Run one client of each kind, and three painters, for some seconds; await all answers."""
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for caller in self._all:
                group.create_task(caller())

    @property
    def _all(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [
            self.painter, self.painter, self.painter, self.leaver, self.canceller, self.vandal,
            self.crowd, self.operator,
        ]  # fmt: skip

    async def paint_once(self) -> None:
        """Request one image."""
        await self._paint(self._body(np.random.default_rng(0)))

    async def painter(self) -> None:
        """Request one image after another."""
        async for rng in self._turns(0.0):
            await self._paint(self._body(rng))

    async def leaver(self) -> None:
        """Read a stream for a while, and disconnect."""
        async for rng in self._turns(1.0):
            body = self._body(rng)
            await self._stream(body, leave_after=int(rng.integers(0, 6)))

    async def canceller(self) -> None:
        """Request an image, and cancel it a moment later."""
        async for rng in self._turns(1.0):
            body = {**self._body(rng), "steps": 20}
            asked = asyncio.create_task(self._paint(body))
            await asyncio.sleep(float(rng.random()))
            await self._manage("/cancel", {"request_id": body["request_id"]})
            await asked

    async def vandal(self) -> None:
        """Send invalid requests."""
        async for rng in self._turns(1.0):
            request, status = _BAD[rng.integers(len(_BAD))]
            name = f"bad-{next(self._names)}"
            self.ledger.send(name)
            headers = {**request.get("headers", {}), "X-Request-Id": name}
            try:
                answer = await self._client.post("/generate", **{**request, "headers": headers})
            except httpx.TransportError as error:
                self.ledger.lose(name, error)
                continue
            self.ledger.hear(name, answer.json()["error"])
            # The service rejects with 429 before it decodes an image.
            if answer.status_code not in {status, 429}:
                self.ledger.faults.append(f"{name}: {answer.status_code} for {status}")

    async def crowd(self) -> None:
        """Send many requests at once, at intervals."""
        async for rng in self._turns(45.0):
            await asyncio.gather(*(self._paint(self._body(rng)) for _ in range(CROWD)))

    async def operator(self) -> None:
        """Unload or preload a variant that other clients use."""
        async for rng in self._turns(20.0):
            model = str(rng.choice(["lightning", "hyper", "base"]))
            route = str(rng.choice(["/unload", "/preload"]))
            await self._manage(route, {"model": model})

    async def _manage(self, route: str, body: dict[str, Any]) -> None:
        try:
            answer = await self._client.post(route, json=body)
        except httpx.TransportError as error:
            self.ledger.faults.append(f"{route}: no answer, {type(error).__name__}")
            return
        if answer.status_code not in {200, 503}:
            self.ledger.faults.append(f"{route}: {answer.status_code}")

    async def exercise(self) -> None:
        """Run the same work each time: every variant with LoRAs, a crowd, streams."""
        rng = np.random.default_rng(0)
        for model in ("lightning", "hyper", "base"):
            plain = {"model": model, "era": "modern", "steps": 4, "width": 256, "height": 256}
            await self._paint({**self._body(rng), **plain, "num_images": 1})
        # More at once than the callers ever send, so that buffers reach their final size.
        await asyncio.gather(
            *(self._paint(self._body(rng)) for _ in range(CROWD)),
            *(self._stream(self._body(rng), 1) for _ in range(CROWD // 4)),
        )

    async def _turns(self, pause: float) -> Any:
        rng = np.random.default_rng(next(self._seeds))
        while time.monotonic() < self._until:
            yield rng
            wait = pause * (0.5 + rng.random())
            await asyncio.sleep(min(wait, max(0.0, self._until - time.monotonic())))

    def _body(self, rng: np.random.Generator) -> dict[str, Any]:
        body = draw_request(rng, int(rng.integers(8)))
        return {**body, "request_id": f"soak-{next(self._names)}"}

    async def _paint(self, body: dict[str, Any]) -> None:
        name = body["request_id"]
        self.ledger.send(name)
        try:
            answer = await self._client.post("/generate", json=body)
        except httpx.TransportError as error:
            self.ledger.lose(name, error)
            return
        content = answer.json()
        self.ledger.hear(name, "success" if answer.status_code == 200 else content["error"])
        if content["request_id"] != name:
            self.ledger.faults.append(f"{name}: answered as {content['request_id']}")
        if answer.status_code in {429, 503} and "Retry-After" not in answer.headers:
            self.ledger.faults.append(f"{name}: {answer.status_code} without Retry-After")

    async def _stream(self, body: dict[str, Any], leave_after: int) -> None:
        name = body["request_id"]
        self.ledger.send(name)
        try:
            await self._listen(body, leave_after)
        except httpx.TransportError as error:
            self.ledger.lose(name, error)

    async def _listen(self, body: dict[str, Any], leave_after: int) -> None:
        name = body["request_id"]
        event, count = "", 0
        async with self._client.stream("POST", "/generate_stream", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                self.ledger.hear(name, json.loads(await answer.aread())["error"])
                return
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    event, count = line.removeprefix("event: "), count + 1
                elif line.startswith("data: ") and event == "done":
                    self.ledger.hear(name, "success")
                    return
                elif line.startswith("data: ") and event == "error":
                    self.ledger.hear(name, json.loads(line.removeprefix("data: "))["error"])
                    return
                # Leave only after an event's data, so that the final event is never cut.
                elif count > leave_after:
                    self.ledger.hear(name, LEFT)
                    return
        self.ledger.faults.append(f"{name}: the stream ended without a final event")
