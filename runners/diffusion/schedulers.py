"""Schedulers, built by name for a variant's noise schedule."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_euler_discrete import rescale_zero_terminal_snr

from common.scheduler_table import SCHEDULERS, has_karras_sigmas
from models.catalog import SchedulerSpec
from models.catalog.scheduler import ZERO_SNR
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
    own_class = getattr(diffusers, spec.class_name)
    noise = {
        "num_train_timesteps": spec.num_train_timesteps,
        "beta_start": spec.beta_start,
        "beta_end": spec.beta_end,
        "beta_schedule": spec.beta_schedule,
        "prediction_type": spec.prediction_type or "epsilon",
    }
    options: dict[str, Any] = {}
    scheduler_class = own_class
    if name in SCHEDULERS:
        scheduler_class = getattr(diffusers, SCHEDULERS[name].class_name)
        options |= SCHEDULERS[name].options
    elif name != "auto":
        raise SchedulerChoiceError(f"scheduler: {name} is not one of auto, {', '.join(SCHEDULERS)}")
    if use_karras_sigmas is not None:
        if not has_karras_sigmas(scheduler_class.__name__):
            raise SchedulerChoiceError(
                f"use_karras_sigmas: {scheduler_class.__name__} has no such setting"
            )
        options["use_karras_sigmas"] = use_karras_sigmas
    own_options = {**_class_defaults(spec.class_name), **spec.options}
    has_zero_snr = bool(own_options.get(ZERO_SNR))
    if not _rescales(own_class):
        own_options.pop(ZERO_SNR, None)
    own = own_class(**noise, **own_options)
    if has_zero_snr:
        # A class without the setting still passes it on to the class that a request names.
        own.register_to_config(**{ZERO_SNR: True})
        if not _rescales(scheduler_class):
            plain = own_class(**noise)
            options["trained_betas"] = _zero_snr_betas(plain.betas)
    # As in diffusers' pipelines, everything that the name does not state is the variant's own.
    return scheduler_class.from_config(own.config, **options)


def _rescales(scheduler_class: Any) -> bool:
    return ZERO_SNR in inspect.signature(scheduler_class).parameters


def _class_defaults(class_name: str) -> Mapping[str, Any]:
    """Return the settings that latents need where a class's own defaults are for pixels."""
    return SCHEDULERS["ddim"].options if class_name == SCHEDULERS["ddim"].class_name else {}


def _zero_snr_betas(betas: torch.Tensor) -> list[float]:
    """Return rescaled betas for a class that does not rescale them itself (arXiv:2305.08891).

    Args:
        betas: the betas before rescaling, [T].
    """
    rescaled = rescale_zero_terminal_snr(betas)
    alphas = torch.cumprod(1 - rescaled.double(), 0)
    # The classes that rescale avoid an infinite noise level by the same smallest alpha.
    last = 1 - 2**-24 / alphas[-2]
    return [*rescaled[:-1].tolist(), float(last)]
