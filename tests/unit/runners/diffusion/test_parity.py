"""The parity benchmark in small: one case per scheduler against diffusers' pipeline."""

from __future__ import annotations

import pytest

from benchmarks.parity import cases, compare
from testing.workbench import CONTROLNET, UNION

# The last but one has latents with odd sides, as one of the benchmark's.
SIZES = [(64, 64), (64, 96), (72, 88), (96, 64)]


@pytest.mark.slow
def test_the_engine_equals_the_reference_with_every_scheduler() -> None:
    jobs = [job for job in cases(SIZES) if job.steps <= 4][::2]
    for controlnet in (CONTROLNET, UNION):
        tried = {job.scheduler for job in jobs if job.controlnet == controlnet}
        assert tried >= {"auto", "euler_a", "dpm_sde", "lcm", "unipc"}
    outcomes = compare(jobs)
    assert {name: outcome for name, outcome in outcomes.items() if not outcome.passed} == {}
