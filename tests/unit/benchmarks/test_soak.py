"""The soak's accounts: one request, one outcome, and the service's own count beside it."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from benchmarks.overload import Ledger as Refusals
from benchmarks.soak import ALLOWED, disagreements
from benchmarks.support.soak_traffic import LEFT, Callers, Ledger


def test_two_outcomes_of_one_request_are_a_fault() -> None:
    ledger = Ledger()
    ledger.send("a")
    ledger.hear("a", "success")
    ledger.hear("a", "overloaded")
    assert ledger.faults == ["a: success, then overloaded"]


def test_request_without_outcome_is_reported() -> None:
    ledger = Ledger()
    for name in ("a", "b"):
        ledger.send(name)
    ledger.hear("b", LEFT)
    assert ledger.unheard == {"a"}
    assert ledger.outcomes == {LEFT: 1}


async def test_broken_connection_is_not_an_outcome() -> None:
    """It is named, and the others go on."""

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset", request=request)

    async with httpx.AsyncClient(
        base_url="http://service", transport=httpx.MockTransport(broken)
    ) as client:
        callers = Callers(client, 0)
        await callers.exercise()
    assert callers.ledger.unheard == set()
    assert set(callers.ledger.outcomes) == {"no answer, ReadError"}
    assert not set(callers.ledger.outcomes) & ALLOWED


@pytest.mark.parametrize("end", ["success", "cancelled", "runner_lost"])
def test_disconnected_request_may_count_as_any_outcome(end: str) -> None:
    ours = Counter({"success": 3, "cancelled": 1, "runner_lost": 1, LEFT: 1})
    theirs = Counter({"success": 3, "cancelled": 1, "runner_lost": 1})
    theirs[end] += 1
    assert disagreements(ours, theirs) == []


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ({"success": 2}, ["3 sent, 2 counted", "success: 3 heard, 2 counted"]),
        ({"success": 4}, ["3 sent, 4 counted"]),
        ({"success": 2, "cancelled": 1}, ["success: 3 heard, 2 counted"]),
        (
            {"success": 2, "overloaded": 1},
            ["success: 3 heard, 2 counted", "overloaded: 0 heard, 1 counted"],
        ),
    ],
)
def test_different_counts_are_named(theirs: dict[str, int], found: list[str]) -> None:
    assert disagreements(Counter({"success": 3}), Counter(theirs)) == found


def test_retry_after_is_compared_with_last_accepted_request() -> None:
    ledger = Refusals(accepted=[(0.0, 4.0), (1.0, 9.0), (6.0, 30.0)], refused=[(5.0, 2.0)])
    assert ledger.waits() == [0.5]
