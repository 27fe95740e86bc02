"""Schedulers that a request or a catalog may name; imports no torch.

Papers: DDIM arXiv:2010.02502, DPM-Solver++ arXiv:2211.01095, Euler and Karras sigmas
arXiv:2206.00364, LCM arXiv:2310.04378, UniPC arXiv:2302.04867.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

SchedulerName = Literal[
    "auto", "euler", "euler_a", "dpm_sde", "dpm_multi", "dpm_single", "ddim", "lcm", "unipc"
]
SCHEDULER_NAMES: tuple[str, ...] = get_args(SchedulerName)
"""Accepted values of a request's `scheduler`; `auto` selects the variant's own."""

SchedulerClass = Literal[
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "UniPCMultistepScheduler",
]
"""diffusers classes that a catalog may name."""

CLASSES_WITHOUT_KARRAS = frozenset(
    {"DDIMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"}
)
"""Classes without the setting `use_karras_sigmas`."""


@dataclass(frozen=True, slots=True)
class NamedScheduler:
    """diffusers class and its settings, except for the variant's betas and prediction type."""

    class_name: SchedulerClass
    options: Mapping[str, Any] = field(default_factory=dict)


SCHEDULERS: dict[str, NamedScheduler] = {
    "euler": NamedScheduler("EulerDiscreteScheduler"),
    "euler_a": NamedScheduler("EulerAncestralDiscreteScheduler"),
    "dpm_sde": NamedScheduler("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm_multi": NamedScheduler("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm_single": NamedScheduler("DPMSolverSinglestepScheduler"),
    # DDIM clips samples to [-1, 1], which fits pixels but would distort latents.
    "ddim": NamedScheduler("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "lcm": NamedScheduler("LCMScheduler"),
    "unipc": NamedScheduler("UniPCMultistepScheduler"),
}
"""Schedulers by the names of SCHEDULER_NAMES, without `auto`."""


def has_karras_sigmas(class_name: str) -> bool:
    """Return whether a diffusers class has the setting `use_karras_sigmas`."""
    return class_name not in CLASSES_WITHOUT_KARRAS
