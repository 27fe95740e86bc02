"""Default scheduler of a variant, and the training objective that its UNet's files state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from common.scheduler_table import SchedulerClass
from models.catalog.frozen import Frozen

PredictionType = Literal["epsilon", "v_prediction"]
ZERO_SNR = "rescale_betas_zero_snr"
"""Option of diffusers' schedulers for a zero terminal signal-to-noise ratio (arXiv:2305.08891)."""


class SchedulerSpec(Frozen):
    """A variant's default scheduler, which a request's `scheduler: auto` selects.

    The betas and the prediction type also apply to every other scheduler that a request selects.
    """

    class_name: SchedulerClass = Field(alias="class")
    """Scheduler class of diffusers."""
    beta_start: float = 0.00085
    """Noise variance of the first training step."""
    beta_end: float = 0.012
    """Noise variance of the last training step."""
    beta_schedule: Literal["linear", "scaled_linear"] = "scaled_linear"
    """Interpolation between `beta_start` and `beta_end`."""
    num_train_timesteps: int = Field(default=1000, ge=1)
    """Number of training timesteps."""
    prediction_type: PredictionType | None = None
    """Quantity that the UNet predicts; unset: what its weights state, else `epsilon`."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further arguments of the scheduler class, e.g. `timestep_spacing`."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a UNet's files state about its training; None where they are silent.

    `zero_terminal_snr` says that the last training step was pure noise (arXiv:2305.08891).
    `origin` names the file and the place in it, for messages.
    """

    prediction_type: PredictionType | None = None
    zero_terminal_snr: bool | None = None
    origin: str = ""


SILENT = Prediction()
"""Weights that state nothing about their training."""


def find_contradiction(spec: SchedulerSpec, stated: Prediction) -> str | None:
    """Return a sentence about the first setting in which the catalog contradicts the weights."""
    for key, own, theirs in (
        ("prediction_type", spec.prediction_type, stated.prediction_type),
        (f"options.{ZERO_SNR}", spec.options.get(ZERO_SNR), stated.zero_terminal_snr),
    ):
        if own is not None and theirs is not None and own != theirs:
            return (
                f"scheduler.{key}: the catalog has {_toml(own)}, but {stated.origin} states "
                f"{_toml(theirs)}; leave it out of the catalog to take what the weights state"
            )
    return None


def resolve_scheduler(spec: SchedulerSpec, stated: Prediction) -> SchedulerSpec:
    """Return the scheduler with what the weights state where the catalog is silent.

    As in ComfyUI, a zero terminal signal-to-noise ratio needs v-prediction: from pure noise,
    predicted noise says nothing about the image.
    """
    prediction_type = spec.prediction_type or stated.prediction_type or "epsilon"
    options = spec.options
    if stated.zero_terminal_snr and prediction_type == "v_prediction":
        options = {ZERO_SNR: True, **options}
    return spec.model_copy(update={"prediction_type": prediction_type, "options": options})


def _toml(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
