"""The benchmarks against the reference server: clients and arithmetic."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.support.crowd import PATIENCE_SECONDS, Turn, closed_loop
from benchmarks.support.rivals import REFERENCE, SERVICE, in_turn
from benchmarks.switching import Visit, row, session
from benchmarks.throughput import SCENARIOS, figures_of, missed, rate_ratio
from tests.support.virtual_time import in_virtual_time


class Desk:
    """Answers after so many seconds, and knows how many were there at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.most = self._present = 0
        self.asked: list[int] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content)["seed"])
        self._present += 1
        self.most = max(self.most, self._present)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self._present -= 1
        return httpx.Response(200, json={})


async def _crowd(desk: Any, requests: int, clients: int, abandon_every: int | None = None) -> Turn:
    transport = httpx.MockTransport(desk)
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
        bodies = [{"seed": number} for number in range(requests)]
        return await closed_loop(client, bodies, clients, abandon_every)


@in_virtual_time
async def test_clients_run_concurrently_and_send_requests_in_order() -> None:
    desk = Desk(0.02)
    turn = await _crowd(desk, requests=10, clients=4)
    assert desk.most == 4
    assert desk.asked == list(range(10))
    assert len(turn.latencies) == 10
    assert turn.latencies == pytest.approx([0.02] * 10)
    # Three waves: 4, 4 and 2.
    assert turn.seconds == pytest.approx(0.06)
    assert turn.rate == 10 / turn.seconds


@in_virtual_time
async def test_every_fourth_client_hangs_up() -> None:
    slow = await _crowd(Desk(2 * PATIENCE_SECONDS), requests=8, clients=8, abandon_every=4)
    assert (len(slow.latencies), slow.abandoned) == (6, 2)
    quick = await _crowd(Desk(PATIENCE_SECONDS / 2), requests=8, clients=8, abandon_every=4)
    assert (len(quick.latencies), quick.abandoned) == (8, 0)


async def test_error_response_fails_the_benchmark() -> None:
    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    with pytest.raises(ExceptionGroup) as caught:
        await _crowd(refuse, requests=1, clients=1)
    assert caught.group_contains(httpx.HTTPStatusError)


def _turns(seconds: float, latency: float) -> list[Turn]:
    return [Turn(seconds, (latency,) * 4, 0)] * 2


def test_slow_service_misses_the_limits() -> None:
    fast = {SERVICE: _turns(1, 0.5), REFERENCE: _turns(2, 1.0)}
    even = {SERVICE: _turns(1, 1.05), REFERENCE: _turns(1, 1.0)}
    names = [scenario.name for scenario in SCENARIOS]
    good = figures_of(dict.fromkeys(names, fast))
    assert good["mixed_rate"] == 2.0
    assert good["mixed_p95"] == good["single_latency"] == 0.5
    assert missed(good) == []
    assert set(missed(figures_of(dict.fromkeys(names, even)))) == set(good)


def test_rates_are_compared_round_by_round() -> None:
    ours = [Turn(seconds, (1.0,) * 4, 0) for seconds in (1, 10, 1)]
    theirs = [Turn(seconds, (1.0,) * 4, 0) for seconds in (2, 20, 2)]
    assert rate_ratio({SERVICE: ours, REFERENCE: theirs}) == 2.0
    assert in_turn(0) == in_turn(1)[::-1] == in_turn(2)


def test_rounds_are_reproducible_and_differ_by_seed() -> None:
    for scenario in SCENARIOS:
        first, again, other = (
            scenario.bodies(np.random.default_rng(seed), scenario.requests, 6) for seed in (1, 1, 2)
        )
        assert first == again != other
        kinds = {(body["model"], body["era"], body["width"], body["height"]) for body in first}
        assert (len(kinds) > 10) is scenario.mixed


def test_loss_is_what_the_first_request_takes_beyond_its_followers() -> None:
    kind = ("base", "modern")
    visits = [
        Visit(kind, 1.0, (1.0, 1.1)),
        Visit(kind, 3.0, (2.0, 2.0)),
        Visit(kind, 2.25, (2.0, 2.0)),
        Visit(kind, 1.5, (1.0, 9.0)),
    ]
    assert [each.lost for each in visits] == pytest.approx([-0.05, 1.0, 0.25, -3.5])
    figures = row(visits)
    assert figures["change"] == pytest.approx(0.1)
    assert figures["lost s"] == pytest.approx(0.4)


def test_every_request_of_a_session_changes_the_era() -> None:
    bodies = session(100, seed=1, steps=6, models=["base"])
    assert {body["model"] for body in bodies} == {"base"}
    assert len({body["era"] for body in bodies}) == 11
    assert all(a["era"] != b["era"] for a, b in itertools.pairwise(bodies))
    assert bodies == session(100, seed=1, steps=6, models=["base"])


def test_a_session_of_several_variants_changes_the_variant_every_time() -> None:
    bodies = session(20, seed=1, steps=6, models=["base", "hyper", "lightning"])
    assert len({body["model"] for body in bodies}) == 3
    assert all(a["model"] != b["model"] for a, b in itertools.pairwise(bodies))


def test_requests_have_the_installations_guidance_and_control() -> None:
    (body,) = session(1, seed=1, steps=6, models=["base"])
    assert (body["cfg"], body["control_guidance_end"], body["steps"]) == (2.0, 0.8, 6)
