"""Device waits, kernel launches and copies to the device, per step and per admission.

    python -m benchmarks.syncs

Counts the installation's request at SDXL's size on the meta device, against diffusers' pipeline. A
wait is a read of device values by the host; a launch is an operator that is no view; a copy goes
from the host to the device. The first step is left out, because it fills caches. Copies are counted
for each scheduler.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from benchmarks.flops import installation_job
from benchmarks.support.reference_counts import paint
from benchmarks.support.report import finish
from common.protocol import GenerateJob
from common.scheduler_table import SCHEDULER_NAMES
from testing.flop_count import CountedEngine, sdxl
from testing.op_count import OperatorCount

LAUNCH_BAR = 0.9
COPIES_PER_ADMISSION = 1
_COPY_SIDE = 256
Work = Callable[[Callable[[int], None]], None]


class StepCount(NamedTuple):
    """Operators of one step."""

    launches: int
    waits: int
    copies: int


def per_step(work: Work) -> list[StepCount]:
    """Return the counts of each step but the first; `work` calls back after each step."""
    marks: list[tuple[int, int, int]] = []
    count = OperatorCount()

    def mark(_: int) -> None:
        marks.append((count.launches.total(), count.waits.total(), count.copies.total()))

    with count.watching():
        work(mark)
    return [
        StepCount(*(after - before for before, after in zip(a, b, strict=True)))
        for a, b in itertools.pairwise(marks)
    ]


def copies(engine: CountedEngine, job: GenerateJob) -> tuple[int, int]:
    """Return the copies of a job's admission and the most of a step, the first included."""
    admission = OperatorCount()
    with admission.watching():
        (sample,) = engine.admit(job)
    most = 0
    while not sample.done:
        step = OperatorCount()
        with step.watching():
            engine.step(sample)
        most = max(most, step.copies.total())
    return admission.copies.total(), most


def main() -> None:
    """Count all, print each step and scheduler, and finish with the figures that have bars."""
    job = installation_job()
    engine = CountedEngine(*sdxl("lightning", "small"))
    own = per_step(lambda on_step: engine.paint(job, on_step))
    reference = per_step(lambda on_step: paint(job, "small", on_step))
    for step, (mine, theirs) in enumerate(zip(own, reference, strict=True), start=2):
        print(
            f"step {step}: {mine.launches} launches, {mine.waits} waits, {mine.copies} copies; "
            f"diffusers {theirs.launches}, {theirs.waits}, {theirs.copies}"
        )
    admissions, steps = [], []
    for name in SCHEDULER_NAMES:
        changed = replace(installation_job(_COPY_SIDE), scheduler=name, prompt=f"hills, {name}")
        admission, most = copies(engine, changed)
        print(f"{name}: {admission} copies per admission, at most {most} per step")
        admissions.append(admission)
        steps.append(most)
    ratio = sum(mine.launches for mine in own) / sum(theirs.launches for theirs in reference)
    inside = max(
        mine.launches / theirs.launches for mine, theirs in zip(own, reference, strict=True)
    )
    figures = {
        "launches": round(ratio, 4),
        "waits": sum(mine.waits for mine in own),
        "copies per step": max(steps),
        "copies per admission": max(admissions),
    }
    bars = {
        "launches": LAUNCH_BAR,
        "waits": 0,
        "copies per step": 0,
        "copies per admission": COPIES_PER_ADMISSION,
    }
    passed = all(figures[name] <= bar for name, bar in bars.items())
    finish(figures, bars, passed, worst_step=round(inside, 4))


if __name__ == "__main__":
    main()
