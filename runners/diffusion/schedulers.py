"""Schedulers, built by name for a variant's noise schedule."""

from __future__ import annotations

from typing import Any

import diffusers

from common.scheduler_table import SCHEDULERS, has_karras_sigmas
from models.catalog import SchedulerSpec
from runners.errors import SchedulerChoiceError


def build_scheduler(spec: SchedulerSpec, name: str, use_karras_sigmas: bool | None) -> Any:
    """Return a new diffusers scheduler; each image has its own instance.

    Args:
        spec: the variant's noise schedule and its default scheduler.
        name: a key of SCHEDULERS, or `auto` for the default scheduler.
        use_karras_sigmas: whether to use the noise levels of arXiv:2206.00364; None keeps the
            scheduler's setting.

    Raises:
        SchedulerChoiceError: the name is unknown, or the class does not support Karras sigmas.
    """
    class_name: str
    if name == "auto":
        class_name, options = spec.class_name, dict(spec.options)
    elif name in SCHEDULERS:
        class_name, options = SCHEDULERS[name].class_name, dict(SCHEDULERS[name].options)
    else:
        raise SchedulerChoiceError(f"scheduler: {name} is not one of auto, {', '.join(SCHEDULERS)}")
    scheduler_class = getattr(diffusers, class_name)
    if use_karras_sigmas is not None:
        if not has_karras_sigmas(class_name):
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
