"""Selection of the next batch without starving any group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from runners.diffusion.sample import Sample
from runners.engine.batch_scheduler import effective_arrival, next_batch


@dataclass(eq=False)
class FakeSample:
    group: str
    batch_rows: int = 1
    arrived: float = 0.0
    worked: float = 0.0
    cost: float = 1.0

    @property
    def group_key(self) -> tuple[Any, ...]:
        return (self.group,)


def pick_batch(pending: list[FakeSample], max_batch_rows: int = 1) -> list[FakeSample]:
    line = {each: effective_arrival(each.arrived, each.worked) for each in pending}
    return cast("list[FakeSample]", next_batch(cast("dict[Sample, float]", line), max_batch_rows))


def run(arriving: list[FakeSample], step: float = 0.5) -> list[FakeSample]:
    """Everything to its end, on one device; in the order of the ends."""
    now, pending, ended = 0.0, list[FakeSample](), list[FakeSample]()
    while arriving or pending:
        pending += [each for each in arriving if each.arrived <= now]
        arriving = [each for each in arriving if each.arrived > now]
        now += step
        for each in pick_batch(pending):
            each.worked += step
            if each.worked >= each.cost:
                pending.remove(each)
                ended.append(each)
    return ended


def test_oldest_group_runs_first_without_others() -> None:
    first, other, second = FakeSample("a"), FakeSample("b", arrived=1), FakeSample("a", arrived=2)
    assert pick_batch([first, other, second], max_batch_rows=8) == [first, second]
    assert pick_batch([]) == []


def test_batch_stops_at_row_limit_except_for_one_large_sample() -> None:
    assert len(pick_batch([FakeSample("a") for _ in range(3)], max_batch_rows=2)) == 2
    assert len(pick_batch([FakeSample("a", batch_rows=2) for _ in range(2)], max_batch_rows=1)) == 1


@pytest.mark.parametrize("groups", ["abababababab", "aaaaaabbbbbb", "abbbbbbbbbba", "abcdefghijkl"])
def test_short_requests_end_in_the_order_they_came(groups: str) -> None:
    """Whoever has a backlog: one group's newcomers do not pass another's older requests."""
    arriving = [FakeSample(group, arrived=n * 0.3) for n, group in enumerate(groups)]
    assert [each.arrived for each in run(list(arriving))] == [each.arrived for each in arriving]


def test_later_short_requests_overtake_a_long_running_one() -> None:
    long = FakeSample("long", cost=20.0)
    short = [FakeSample(f"short{n}", arrived=0.5 + 4.0 * n) for n in range(6)]
    ended = run([long, *short])
    # The first comes in the long one's first quantum, and waits for its end.
    assert [ended.index(each) for each in short[:4]] == [0, 1, 2, 3]
    assert long in ended


def test_groups_that_keep_arriving_do_not_starve_one_that_waits() -> None:
    """They take all of the device, and the long one still ends."""
    long = FakeSample("long", cost=5.0)
    others = [FakeSample(f"x{n}", arrived=float(n)) for n in range(40)]
    assert run([long, *others]).index(long) <= 10


def test_two_long_requests_take_turns_of_a_quantum() -> None:
    a, b = FakeSample("a", cost=8.0), FakeSample("b", arrived=0.1, cost=8.0)
    turns = []
    for _ in range(16):
        (picked,) = pick_batch([a, b])
        picked.worked += 0.5
        turns.append(picked.group)
    assert "".join(turns) == "aaaabbbb" * 2
