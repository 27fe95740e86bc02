"""Every scheduler, at every number of steps that a request may ask for."""

from __future__ import annotations

import pytest
import torch

from models.catalog import load_catalog
from runners.schedulers import NAMED, SchedulerChoiceError, build_scheduler, has_karras_sigmas

SPEC = load_catalog("demo").models["base"].scheduler


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 20, 50])
@pytest.mark.parametrize("name", ["auto", *NAMED])
def test_it_runs_to_its_end(name: str, steps: int) -> None:
    scheduler = build_scheduler(SPEC, name, None)
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(scaled * 0.5, timestep, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize("name", list(NAMED))
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


@pytest.mark.parametrize("name", list(NAMED))
def test_karras_sigmas_where_the_class_has_them(name: str) -> None:
    scheduler = build_scheduler(SPEC, name, None)
    if has_karras_sigmas(type(scheduler)):
        assert build_scheduler(SPEC, name, True).config.use_karras_sigmas is True
    else:
        with pytest.raises(SchedulerChoiceError, match="use_karras_sigmas"):
            build_scheduler(SPEC, name, True)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SchedulerChoiceError, match="euler_a"):
        build_scheduler(SPEC, "heun", None)
