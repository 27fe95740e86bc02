"""Every scheduler, at every number of steps that a request may ask for."""

from __future__ import annotations

import inspect
from typing import get_args

import diffusers
import pytest
import torch

from common.scheduler_table import SCHEDULERS, SchedulerClass, has_karras_sigmas
from models.catalog import load_catalog
from runners.diffusion.schedulers import build_scheduler
from runners.errors import SchedulerChoiceError

SPEC = load_catalog("demo").models["base"].scheduler


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 20, 50])
@pytest.mark.parametrize("name", ["auto", *SCHEDULERS])
def test_every_scheduler_gives_finite_latents(name: str, steps: int) -> None:
    scheduler = build_scheduler(SPEC, name, None)
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(scaled * 0.5, timestep, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_the_variants_noise_schedule_is_kept(name: str) -> None:
    config = build_scheduler(SPEC, name, None).config
    assert (config.beta_start, config.beta_end) == (SPEC.beta_start, SPEC.beta_end)
    assert config.beta_schedule == SPEC.beta_schedule
    assert config.prediction_type == SPEC.prediction_type


def test_auto_is_the_catalogs_own() -> None:
    scheduler = build_scheduler(SPEC, "auto", None)
    assert type(scheduler).__name__ == SPEC.class_name
    for option, value in SPEC.options.items():
        assert scheduler.config[option] == value


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_karras_sigmas_require_class_support(name: str) -> None:
    scheduler = build_scheduler(SPEC, name, None)
    if has_karras_sigmas(type(scheduler).__name__):
        assert build_scheduler(SPEC, name, True).config.use_karras_sigmas is True
    else:
        with pytest.raises(SchedulerChoiceError, match="use_karras_sigmas"):
            build_scheduler(SPEC, name, True)


def test_unknown_scheduler_error_lists_known_ones() -> None:
    with pytest.raises(SchedulerChoiceError, match="euler_a"):
        build_scheduler(SPEC, "heun", None)


def test_karras_sigmas_table_matches_diffusers() -> None:
    for class_name in get_args(SchedulerClass):
        parameters = inspect.signature(getattr(diffusers, class_name)).parameters
        assert has_karras_sigmas(class_name) == ("use_karras_sigmas" in parameters), class_name
