"""Schedules as linear combinations: what every step does to the latents, computed before the first.

A scheduler's step is linear in the latents, the network's predictions and the noise that it draws,
and its coefficients depend on the schedule only. diffusers' scheduler runs once on basis vectors in
place of tensors, and its results are the coefficients. The steps of a request then have no state on
the host, copy nothing to the device, and take a few launches each.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from models.catalog import SchedulerSpec
from runners.diffusion.schedulers import build_scheduler

_CACHED_PLANS = 64
_ROUNDING = 1e-9
_lock = threading.Lock()

Kind = Literal["latents", "prediction", "noise", "corrected"]
Operand = tuple[Kind, int]
"""Tensor of a combination: the latents before a step, its prediction, its corrected latents, or the
noise of a draw; steps and draws count from 0."""

_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One denoising step.

    `timestep` is the network's, and `scale` the factor of its input. `combination` has the
    coefficients of the next latents. `corrected` has those of the latents that a corrector puts in
    place of the step's (UniPC, arXiv:2302.04867); it is empty without one. `keeps` lists the
    operands that later steps still need, without noise. `alpha` is the cumulative product of DDPM's
    alphas at the timestep (arXiv:2006.11239).
    """

    timestep: float
    scale: float
    combination: Mapping[Operand, float]
    corrected: Mapping[Operand, float]
    keeps: frozenset[Operand]
    alpha: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Steps of a schedule.

    `init_noise_sigma` is the factor of the initial noise. `start_latents` and `start_noise` are the
    factors that bring an init image's latents to the first step. `draws` counts the steps' draws of
    noise. `scheduler` is the name of diffusers' class.
    """

    scheduler: str
    steps: tuple[PlannedStep, ...]
    init_noise_sigma: float
    start_latents: float
    start_noise: float
    draws: int


_plans: dict[tuple[Any, ...], StepPlan] = {}


def plan_steps(
    spec: SchedulerSpec, name: str, use_karras_sigmas: bool | None, steps: int, first_step: int = 0
) -> StepPlan:
    """Return the plan of a schedule; recent ones are cached.

    Args:
        spec: the variant's noise schedule and its default scheduler.
        name: a key of SCHEDULERS, or `auto`.
        use_karras_sigmas: as in `build_scheduler`.
        steps: number of steps of the whole schedule.
        first_step: number of steps that an init image skips.

    Raises:
        SchedulerChoiceError: as in `build_scheduler`.
    """
    key = (repr(spec), name, use_karras_sigmas, steps, first_step)
    with _lock:
        plan = _plans.pop(key, None)
        if plan is None:
            plan = _plan(build_scheduler(spec, name, use_karras_sigmas), steps, first_step)
        _plans[key] = plan
        if len(_plans) > _CACHED_PLANS:
            del _plans[next(iter(_plans))]
    return plan


@torch.no_grad()
def _plan(scheduler: Any, steps: int, first_step: int) -> StepPlan:
    scheduler.set_timesteps(steps)
    first = first_step * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    timesteps = list(scheduler.timesteps[first:])
    start_latents, start_noise = _start_factors(scheduler, timesteps[0])
    accepted = inspect.signature(scheduler.step).parameters
    arguments = {"generator": torch.Generator()} if "generator" in accepted else {}
    basis = _Basis(len(timesteps))
    alphas = scheduler.alphas_cumprod.numpy()
    planned = []
    for number, timestep in enumerate(timesteps):
        latents = basis.vector(("latents", number))
        scaled = scheduler.scale_model_input(latents, timestep)
        with basis:
            (following,) = scheduler.step(
                basis.vector(("prediction", number)), timestep, latents, **arguments,
                return_dict=False,
            )[:1]  # fmt: skip
        corrected = basis.read(getattr(scheduler, "last_sample", None))
        if len(corrected) > 1:
            # As a tensor of its own, or every step would refer to all earlier ones.
            scheduler.last_sample = basis.vector(("corrected", number))
        else:
            corrected = {}
        planned.append((timestep, basis.read(scaled), basis.read(following), corrected))
    needed: set[Operand] = set()
    result: list[PlannedStep] = []
    for number, (timestep, scaled, combination, corrected) in reversed(list(enumerate(planned))):
        position = float(timestep)
        result.append(
            PlannedStep(
                timestep=position,
                scale=scaled[("latents", number)],
                combination=combination,
                corrected=corrected,
                keeps=frozenset(
                    (kind, place) for kind, place in needed if kind != "noise" and place <= number
                ),
                alpha=float(np.interp(position, np.arange(len(alphas)), alphas)),
            )
        )
        needed |= combination.keys() | corrected.keys()
    return StepPlan(
        scheduler=type(scheduler).__name__,
        steps=tuple(reversed(result)),
        init_noise_sigma=float(scheduler.init_noise_sigma),
        start_latents=start_latents,
        start_noise=start_noise,
        draws=basis.draws,
    )


def _start_factors(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    """Return the factors of latents and noise at a timestep."""
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    when = timestep.reshape(1)
    return (
        float(scheduler.add_noise(one, zero, when)),
        float(scheduler.add_noise(zero, one, when)),
    )


class _Basis(TorchFunctionMode):
    """Basis vectors, [1, n, 1, 1] in float32; while it is active, `torch.randn` returns one too.

    Args:
        steps: number of steps, each of which draws noise at most once.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.draws = 0
        self._steps = steps

    def vector(self, operand: Operand) -> torch.Tensor:
        """Return the vector of an operand."""
        kind, number = operand
        vector = torch.zeros(1, len(_KINDS) * self._steps, 1, 1)
        vector[0, len(_KINDS) * number + _KINDS.index(kind)] = 1
        return vector

    def read(self, vector: torch.Tensor | None) -> dict[Operand, float]:
        """Return the coefficients of a vector that are not 0, or nothing but rounding."""
        if vector is None:
            return {}
        numbers = vector.flatten().tolist()
        least = _ROUNDING * max(map(abs, numbers))
        return {
            (_KINDS[place % len(_KINDS)], place // len(_KINDS)): number
            for place, number in enumerate(numbers)
            if abs(number) > least
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch, or return the vector of the next draw."""
        if function is not torch.randn:
            return function(*args, **(kwargs or {}))
        self.draws += 1
        return self.vector(("noise", self.draws - 1))
