"""Every scheduler, at every number of steps that a request may ask for."""

from __future__ import annotations

import inspect
from typing import get_args

import diffusers
import pytest
import torch

from common.scheduler_table import SCHEDULERS, SchedulerClass, has_karras_sigmas
from models.catalog import load_catalog
from models.catalog.schema import SchedulerSpec
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


SPACED = SchedulerSpec(
    **{"class": "EulerDiscreteScheduler"},
    options={"timestep_spacing": "leading", "steps_offset": 1},
)


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_named_schedulers_are_diffusers_from_config(name: str) -> None:
    named = SCHEDULERS[name]
    own = diffusers.EulerDiscreteScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012,
        beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    wanted = getattr(diffusers, named.class_name).from_config(own.config, **named.options)
    got = build_scheduler(SPACED, name, None)
    for scheduler in (wanted, got):
        scheduler.set_timesteps(6)
    assert got.timesteps.tolist() == wanted.timesteps.tolist()
    assert torch.equal(got.alphas_cumprod, wanted.alphas_cumprod)
    if name in {"euler", "euler_a", "ddim"}:
        assert float(got.timesteps[0]) == 831


@pytest.mark.parametrize("name", ["auto", *SCHEDULERS])
def test_zero_terminal_snr_holds_for_every_scheduler(name: str) -> None:
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    spec = SchedulerSpec(
        **{"class": "EulerDiscreteScheduler"}, prediction_type="v_prediction", options=options
    )
    scheduler = build_scheduler(spec, name, None)
    assert float(scheduler.alphas_cumprod[-1]) <= 1e-7
    scheduler.set_timesteps(6)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(scaled * 0.5, timestep, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all()


def test_unknown_scheduler_error_lists_known_ones() -> None:
    with pytest.raises(SchedulerChoiceError, match="euler_a"):
        build_scheduler(SPEC, "heun", None)


def test_karras_sigmas_table_matches_diffusers() -> None:
    for class_name in get_args(SchedulerClass):
        parameters = inspect.signature(getattr(diffusers, class_name)).parameters
        assert has_karras_sigmas(class_name) == ("use_karras_sigmas" in parameters), class_name
