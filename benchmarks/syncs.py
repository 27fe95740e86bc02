"""Device waits and kernel launches per step, against diffusers' pipeline.

    python -m benchmarks.syncs

Counts the installation's request at SDXL's size on the meta device. A wait is a read of device
values by the host; a launch is an operator that is no view. The first step is left out, because it
fills caches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from benchmarks.flops import installation_job
from benchmarks.support.reference_counts import paint
from benchmarks.support.report import finish
from testing.flop_count import CountedEngine, sdxl
from testing.op_count import OperatorCount

LAUNCH_BAR = 0.9
Work = Callable[[Callable[[int], None]], None]


def per_step(work: Work) -> list[tuple[int, int]]:
    """Return launches and waits of each step but the first; `work` calls back after each step."""
    marks: list[tuple[int, int]] = []
    count = OperatorCount()
    with count.watching():
        work(lambda _: marks.append((count.launches.total(), count.waits.total())))
    return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]


def main() -> None:
    """Count both, print each step, and finish with the ratio of launches and the waits."""
    job = installation_job()
    engine = CountedEngine(*sdxl("lightning", "small"))
    own = per_step(lambda on_step: engine.paint(job, on_step))
    reference = per_step(lambda on_step: paint(job, "small", on_step))
    for step, ((launches, waits), (theirs, their_waits)) in enumerate(
        zip(own, reference, strict=True), start=2
    ):
        print(f"step {step}: {launches} launches, {waits} waits; diffusers {theirs}, {their_waits}")
    waits = sum(waits for _, waits in own)
    ratio = sum(launches for launches, _ in own) / sum(launches for launches, _ in reference)
    inside = max(mine / theirs for (mine, _), (theirs, _) in zip(own, reference, strict=True))
    finish(
        {"launches": round(ratio, 4), "waits": waits},
        {"launches": LAUNCH_BAR, "waits": 0},
        ratio <= LAUNCH_BAR and waits == 0,
        worst_step=round(inside, 4),
    )


if __name__ == "__main__":
    main()
