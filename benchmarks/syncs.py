"""Device waits, kernel launches, copies to the device and the host's time, per step and admission.

    python -m benchmarks.syncs [--rounds N]

Counts the installation's request with two LoRAs at SDXL's size on the meta device, against
diffusers' pipeline, whose LoRAs are fused. A wait is a read of device values by the host; a launch
is an operator that is no view; a copy goes from the host to the device. The first step is left out,
because it fills caches. Copies are counted for each scheduler. A change of LoRAs and low-rank
products are counted apart.

The host's time is measured on the meta device, where most of it goes to torch's own rules for
shapes, and a second time on one thread of the CPU, on narrow networks with all of SDXL's layers,
whose arithmetic takes little. Engine and pipeline take turns.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from benchmarks.flops import installation_job, merge_anew, with_loras
from benchmarks.support.host_time import Work, host_ratio, narrow_contest
from benchmarks.support.reference_counts import paint
from benchmarks.support.report import finish
from common.protocol import GenerateJob
from common.scheduler_table import SCHEDULER_NAMES
from testing.flop_count import CountedEngine, sdxl
from testing.op_count import OperatorCount
from testing.random_networks import add_random_loras

LAUNCH_BAR = 0.9
STEP_BAR = 1720
HOST_BAR = 0.7
"""Host's seconds per step on the meta device, over those of diffusers."""
COPIES_PER_ADMISSION = 1
_COPY_SIDE = 256


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


def low_rank_launches(job: GenerateJob) -> list[int]:
    """Return the launches of each step but the first, with LoRAs as low-rank products."""
    networks = sdxl("lightning", "small", "low_rank")
    add_random_loras(networks[0])
    engine = CountedEngine(*networks)
    return [step.launches for step in per_step(lambda on_step: engine.paint(job, on_step))]


def launches_of(work: Callable[[], object]) -> int:
    """Return the kernel launches of a call."""
    count = OperatorCount()
    with count.watching():
        work()
    return count.launches.total()


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="timed images of either kind")
    options = parser.parse_args()
    job = installation_job()
    networks = with_loras("small")
    engine = CountedEngine(*networks)
    plain = per_step(
        lambda on_step: CountedEngine(*networks).paint(replace(job, loras=()), on_step)
    )
    change = launches_of(lambda: merge_anew(job))
    own = per_step(lambda on_step: engine.paint(job, on_step))
    reference = per_step(lambda on_step: paint(job, "small", on_step))
    for step, (mine, theirs) in enumerate(zip(own, reference, strict=True), start=2):
        print(
            f"step {step}: {mine.launches} launches, {mine.waits} waits, {mine.copies} copies; "
            f"diffusers {theirs.launches}, {theirs.waits}, {theirs.copies}"
        )
    print(f"without LoRAs: {', '.join(str(step.launches) for step in plain)} launches")
    print(f"low-rank products: {', '.join(map(str, low_rank_launches(job)))} launches")
    print(f"a change of LoRAs: {change} launches")
    on_meta = host_ratio(
        lambda on_step: engine.paint(job, on_step),
        lambda on_step: paint(job, "small", on_step),
        2,
    )
    print(f"seconds per step on the meta device, over diffusers': {on_meta:.3f}")
    with narrow_contest() as (paint_own, paint_plain):
        host = host_ratio(paint_own, paint_plain, options.rounds)
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
        "launches that LoRAs add": max(
            mine.launches - theirs.launches for mine, theirs in zip(own, plain, strict=True)
        ),
        "launches per step": max(step.launches for step in own),
        "host": round(on_meta, 4),
        "waits": sum(mine.waits for mine in own),
        "copies per step": max(steps),
        "copies per admission": max(admissions),
    }
    bars = {
        "launches": LAUNCH_BAR,
        "launches that LoRAs add": 0,
        "launches per step": STEP_BAR,
        "host": HOST_BAR,
        "waits": 0,
        "copies per step": 0,
        "copies per admission": COPIES_PER_ADMISSION,
    }
    passed = all(figures[name] <= bar for name, bar in bars.items())
    finish(figures, bars, passed, worst_step=round(inside, 4), narrow_host=round(host, 4))


if __name__ == "__main__":
    main()
