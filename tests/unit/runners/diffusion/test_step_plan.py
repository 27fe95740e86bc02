"""Plans of steps against diffusers' schedulers on the same predictions and noise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest
import torch

from common.scheduler_table import SCHEDULERS
from models.catalog import VariantSpec, load_catalog
from runners.diffusion.schedulers import build_scheduler
from runners.diffusion.step_plan import Operand, StepPlan, plan_steps

VARIANTS = load_catalog("experimance").models
MIXING = 0.3 * torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


def predict(latents: torch.Tensor) -> torch.Tensor:
    """A network that is not linear."""
    return torch.einsum("ij,bjhw->bihw", MIXING, latents).tanh()


def follow(plan: StepPlan, latents: torch.Tensor, noise: list[torch.Tensor]) -> torch.Tensor:
    """The last latents of a plan; what no later step needs is dropped at once."""
    drawn: dict[Operand, torch.Tensor] = {("noise", n): each for n, each in enumerate(noise)}
    operands: dict[Operand, torch.Tensor] = {}
    for number, step in enumerate(plan.steps):
        operands["latents", number] = latents
        operands["prediction", number] = predict(latents * step.scale)
        if step.corrected:
            operands["corrected", number] = combine(step.corrected, drawn | operands)
        latents = combine(step.combination, drawn | operands)
        operands = {key: operands[key] for key in step.keeps}
    return latents


def combine(
    coefficients: Mapping[Operand, float], operands: dict[Operand, torch.Tensor]
) -> torch.Tensor:
    return torch.stack([factor * operands[key] for key, factor in coefficients.items()]).sum(0)


@pytest.mark.parametrize(("steps", "first"), [(1, 0), (2, 0), (3, 1), (6, 0), (20, 7), (50, 0)])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("name", ["auto", *SCHEDULERS])
def test_plan_gives_the_latents_of_diffusers(
    name: str, variant: VariantSpec, steps: int, first: int
) -> None:
    plan = plan_steps(variant.scheduler, name, None, steps, first)
    scheduler = build_scheduler(variant.scheduler, name, None)
    scheduler.set_timesteps(steps)
    begin = first * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    generator, ahead = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    latents = scheduler.init_noise_sigma * torch.randn(1, 4, 8, 8, generator=generator)
    torch.randn(1, 4, 8, 8, generator=ahead)
    noise = [torch.randn(1, 4, 8, 8, generator=ahead) for _ in range(plan.draws)]
    ours = follow(plan, latents, noise)
    accepted = inspect.signature(scheduler.step).parameters
    arguments = {"generator": generator} if "generator" in accepted else {}
    assert len(plan.steps) == len(scheduler.timesteps) - begin
    for step, timestep in zip(plan.steps, scheduler.timesteps[begin:], strict=True):
        assert step.timestep == float(timestep)
        prediction = predict(scheduler.scale_model_input(latents, timestep))
        latents = scheduler.step(
            prediction, timestep, latents, **arguments, return_dict=False
        )[0]  # fmt: skip
    assert torch.equal(generator.get_state(), ahead.get_state()), "it drew as often as the plan"
    assert (ours - latents).abs().max() <= 5e-6 * latents.abs().max()


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_step_refers_to_few_tensors(name: str) -> None:
    plan = plan_steps(VARIANTS["base"].scheduler, name, None, 50)
    assert max(len(step.combination) for step in plan.steps) <= 7
    assert max(len(step.corrected) for step in plan.steps) <= 7
    assert max(len(step.keeps) for step in plan.steps) <= 8
    assert plan.steps[-1].keeps == frozenset()


def test_init_images_start_at_the_noise_of_their_step() -> None:
    spec = VARIANTS["base"].scheduler
    for name in SCHEDULERS:
        plan = plan_steps(spec, name, None, 20, 10)
        assert plan.start_latents > 0, name
        assert plan.start_noise > 0, name


def test_plans_are_cached_by_all_that_they_depend_on() -> None:
    spec = VARIANTS["base"].scheduler
    plan = plan_steps(spec, "euler", None, 8)
    assert plan_steps(spec, "euler", None, 8) is plan
    for other in [("euler", None, 9, 0), ("euler", False, 8, 0), ("euler", None, 8, 2)]:
        assert plan_steps(spec, *other) != plan
