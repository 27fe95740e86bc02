"""The schedulers that a request may name, built for a variant's noise schedule."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from models.catalog import SchedulerSpec

# Class and settings beyond the variant's betas and prediction type. DDIM's clipping is for
# pixels in [-1, 1] and would cut latents.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm_multi": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm_single": ("DPMSolverSinglestepScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "lcm": ("LCMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


class SchedulerChoiceError(ValueError):
    """A scheduler, or a setting of one, that does not exist."""


def build_scheduler(spec: SchedulerSpec, name: str, use_karras_sigmas: bool | None) -> Any:
    """A fresh diffusers scheduler; each picture has one of its own.

    Args:
        spec: the variant's noise schedule, and its own scheduler for `auto`.
        name: `auto` or a key of NAMED.
        use_karras_sigmas: overrides the scheduler's setting where its class has one.

    Raises:
        SchedulerChoiceError: unknown name, or a class without Karras sigmas.
    """
    class_name: str
    if name == "auto":
        class_name, options = spec.class_name, dict(spec.options)
    elif name in NAMED:
        class_name, options = NAMED[name][0], dict(NAMED[name][1])
    else:
        raise SchedulerChoiceError(f"scheduler: {name} is none of auto, {', '.join(NAMED)}")
    scheduler_class = getattr(diffusers, class_name)
    if use_karras_sigmas is not None:
        if not has_karras_sigmas(scheduler_class):
            raise SchedulerChoiceError(f"use_karras_sigmas: {class_name} has no such setting")
        options["use_karras_sigmas"] = use_karras_sigmas
    return scheduler_class(
        num_train_timesteps=spec.num_train_timesteps,
        beta_start=spec.beta_start,
        beta_end=spec.beta_end,
        beta_schedule=spec.beta_schedule,
        prediction_type=spec.prediction_type,
        **options,
    )


def has_karras_sigmas(scheduler_class: type) -> bool:
    """Whether the class has the setting `use_karras_sigmas`."""
    return "use_karras_sigmas" in inspect.signature(scheduler_class).parameters
