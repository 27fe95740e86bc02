"""Who shares the next batch, and that no group starves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from runners.picker import GroupPicker
from runners.sample import Sample


@dataclass(eq=False)
class FakeSample:
    group: str
    rows: int = 1

    @property
    def group_key(self) -> tuple[Any, ...]:
        return (self.group,)


def samples(*groups: str) -> list[Sample]:
    return cast("list[Sample]", [FakeSample(group) for group in groups])


def groups_of(picked: list[Sample]) -> str:
    return "".join(sample.group_key[0] for sample in picked)


def test_the_oldest_group_goes_first_with_its_members_only() -> None:
    assert groups_of(GroupPicker(2.0).pick(samples("a", "b", "a"), 8, 0.0)) == "aa"


def test_the_batch_ends_at_the_bound_and_one_sample_may_exceed_it() -> None:
    picker = GroupPicker(2.0)
    assert groups_of(picker.pick(samples("a", "a", "a"), 2, 0.0)) == "aa"
    guided = cast("list[Sample]", [FakeSample("a", rows=2), FakeSample("a", rows=2)])
    assert len(picker.pick(guided, 1, 0.0)) == 1


def test_a_group_keeps_the_device_for_its_quantum_then_yields() -> None:
    picker = GroupPicker(2.0)
    pending = samples("a", "b")
    turns = [groups_of(picker.pick(pending, 8, now)) for now in (0.0, 1.0, 1.9, 2.0, 3.0, 4.1)]
    assert turns == ["a", "a", "a", "b", "b", "a"]


def test_groups_that_keep_arriving_do_not_starve_one_that_waits() -> None:
    picker = GroupPicker(1.0)
    served: list[str] = []
    pending = samples("old", "x0")
    for turn in range(8):
        served.append(groups_of(picker.pick(pending, 1, float(turn)))[0:3])
        pending = [*samples("old"), *samples(f"x{turn}"), *samples(f"x{turn + 1}")]
    assert served.count("old") >= 2


def test_alone_a_group_never_yields_and_nothing_pending_is_no_batch() -> None:
    picker = GroupPicker(1.0)
    assert all(groups_of(picker.pick(samples("a"), 8, float(now))) == "a" for now in range(5))
    assert picker.pick([], 8, 6.0) == []
    assert groups_of(picker.pick(samples("b"), 8, 7.0)) == "b"
