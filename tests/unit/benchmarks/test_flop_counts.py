"""Operations, kernel launches and synchronisations counted per step."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from benchmarks.flops import UNEXPLAINED, installation_job, savings
from benchmarks.memory import variants_on
from benchmarks.support.reference_counts import paint
from benchmarks.syncs import LAUNCH_BAR, copies, per_step
from testing.flop_count import CountedEngine, counted, sdxl
from testing.live_bytes import peak_bytes
from testing.op_count import OperatorCount

pytestmark = pytest.mark.slow

JOB = replace(installation_job(256, loras=()), steps=2, control_guidance_end=0.5)


def counts(work: object) -> OperatorCount:
    count = OperatorCount()
    with count.watching():
        assert callable(work)
        work()
    return count


def test_a_wait_is_seen() -> None:
    there = torch.zeros(3, device="meta")
    assert counts(lambda: there.sum().item()).waits.total() == 1
    assert counts(lambda: there.to("cpu")).waits.total() == 1
    assert counts(lambda: bool((there == 1).all())).waits.total() == 1
    assert counts(lambda: there.nonzero()).waits.total() == 1
    assert counts(lambda: torch.zeros(3).sum().item()).waits.total() == 0


def test_launches_are_kernels_and_not_views() -> None:
    there = torch.zeros(2, 4, 8, 16, device="meta")
    assert counts(lambda: there.view(2, 4, -1).transpose(1, 2)[0]).launches.total() == 0
    assert counts(lambda: (there + 1) * 2).launches.total() == 2
    attend = torch.nn.functional.scaled_dot_product_attention
    assert counts(lambda: attend(there, there, there)).launches.total() == 1
    linear = torch.nn.Linear(16, 16, device="meta")
    with torch.inference_mode():
        assert counts(lambda: linear(there)).launches.total() == 1


def test_step_never_synchronises_and_launches_fewer_kernels() -> None:
    engine = CountedEngine(*sdxl("lightning", "small"))
    job = replace(JOB, control_guidance_end=1.0)
    (own,) = per_step(lambda on_step: engine.paint(job, on_step))
    (theirs,) = per_step(lambda on_step: paint(job, "small", on_step))
    assert own.waits == own.copies == 0
    assert own.launches <= LAUNCH_BAR * theirs.launches


def test_one_copy_per_admission_and_none_per_step() -> None:
    engine = CountedEngine(*sdxl("lightning", "small"))
    assert copies(engine, replace(JOB, scheduler="euler_a")) == (1, 0)


def test_a_copy_is_seen() -> None:
    there = torch.zeros(3, device="meta")
    assert counts(lambda: torch.zeros(3).to("meta")).copies.total() == 1
    assert counts(lambda: there.copy_(torch.ones(3))).copies.total() == 1
    assert counts(lambda: torch.tensor([1.0, 2.0], device="meta")).copies.total() == 1
    assert counts(lambda: there[torch.tensor([0, 2])]).copies.total() == 1
    assert counts(lambda: there * 2.0 + torch.arange(3, device="meta")).copies.total() == 0


def test_itemised_savings_explain_the_difference() -> None:
    variant, controlnet, device = sdxl("lightning", "small")
    engine = CountedEngine(variant, controlnet, device)
    engine.operations(JOB)
    reference = counted(lambda: paint(JOB, "small"))
    saved = sum(savings(JOB, variant, controlnet, warm=True).values())
    assert saved > 0
    assert abs(reference - saved - engine.operations(JOB)) <= UNEXPLAINED * reference


def test_live_bytes_are_those_at_once() -> None:
    there = torch.zeros(1000, device="meta", dtype=torch.float16)

    def work() -> torch.Tensor:
        first = there + 1
        second = first * 2
        del first
        third = second.view(10, 100) + 1
        del second
        return third.sum()

    # Two results at once, and never the input; a view is no memory.
    assert peak_bytes(work) == 2 * there.nbytes
    pairs = torch.zeros(1, 1, 512, 8, device="meta", dtype=torch.float16)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert peak_bytes(lambda: attend(pairs, pairs, pairs)) == pairs.nbytes


def test_variants_on_a_card() -> None:
    parts = {"unet": 5_000_000_000, "shared": 2_000_000_000, "full ControlNet": 2_500_000_000}
    assert variants_on(12, parts, 2_000_000_000) == 1
    assert variants_on(24, parts, 2_000_000_000) == 4
    assert variants_on(8, parts, 2_000_000_000) == 0
