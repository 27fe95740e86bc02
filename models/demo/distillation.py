"""Few-step students of the base model, one UNet each; text encoders and ControlNet are the base's.

A student sees a point of the teacher's trajectory and predicts the noise whose single Euler step
lands where the teacher arrives after several: progressive distillation's target (Salimans and Ho,
2022) with the teacher's guidance baked in (Meng et al., On distillation of guided diffusion
models, 2023).

- `lightning` learns the six steps of its own grid and nothing else.
- `hyper` learns, from every point of the teacher's trajectory, to reach the end of the third it
  lies in: trajectory-segmented consistency (Ren et al., Hyper-SD, 2024).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.demo.denoiser import Denoiser
from models.demo.training import Losses
from models.demo.trajectories import FINER, STUDENT_STEPS, Trajectories, teacher_grid, true_time_ids

POINTS = STUDENT_STEPS * FINER


@dataclass(frozen=True)
class Goal:
    """Which points a student starts from, and where one step must bring it: indices, paired."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]


def lightning_goal() -> Goal:
    """Every point of the students' grid to the next one."""
    starts = tuple(range(0, POINTS, FINER))
    return Goal(starts, tuple(start + FINER for start in starts))


def hyper_goal() -> Goal:
    """Every point to the end of its third of the trajectory."""
    segment = POINTS // 3
    starts = tuple(range(POINTS))
    return Goal(starts, tuple(start // segment * segment + segment for start in starts))


class Student(nn.Module):
    """A UNet in training beside the frozen rest of its teacher."""

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.unet = copy.deepcopy(teacher.unet).requires_grad_(True)
        # Not a submodule: it must neither be trained nor stored.
        self._teacher = [teacher]

    def predict(self, noisy: Tensor, times: Tensor, told: Trajectories, chosen: Tensor) -> Tensor:
        """The student's noise in `noisy` (n, 4, h, w), variance-preserving, at `times` (n,)."""
        teacher = self._teacher[0]
        with torch.no_grad():
            hidden, pooled = teacher.encode_prompts(told.tokens[chosen])
            kept = told.kept[chosen]
            hidden = hidden * kept[:, None, None]
            added = {
                "text_embeds": pooled * kept[:, None],
                "time_ids": true_time_ids(told.size, len(chosen)),
            }
            down, middle = teacher.controlnet(
                noisy,
                times,
                hidden,
                told.hints(chosen),
                added_cond_kwargs=added,
                return_dict=False,
            )
        scales = told.scales[chosen][:, None, None, None]
        predicted: Tensor = self.unet(
            noisy,
            times,
            hidden,
            added_cond_kwargs=added,
            down_block_additional_residuals=[residual * scales for residual in down],
            mid_block_additional_residual=middle * scales,
        ).sample
        return predicted.float()


def distillation_losses(
    student: Student,
    goal: Goal,
    sets: Sequence[Trajectories],
    rng: np.random.Generator,
    row_pixels: int,
) -> Losses:
    """How far the student's Euler steps miss the points that the teacher reaches.

    `row_pixels` bounds a batch: pictures times their pixels. The error at the point of arrival
    counts in the units that the next prediction sees there, and late errors, which no later step
    mends, count more.
    """
    told = sets[int(rng.integers(len(sets)))]
    count = max(1, row_pixels // (told.size[0] * told.size[1]))
    chosen = torch.from_numpy(rng.integers(len(told), size=count))
    pairs = rng.integers(len(goal.starts), size=count)
    starts = torch.tensor([goal.starts[pair] for pair in pairs])
    ends = torch.tensor([goal.ends[pair] for pair in pairs])
    timesteps, sigmas = teacher_grid()
    here, there = sigmas[starts][:, None, None, None], sigmas[ends][:, None, None, None]
    noisy = told.points[chosen, starts].float()
    origin = noisy * (1 + here**2) ** 0.5
    target = told.points[chosen, ends].float() * (1 + there**2) ** 0.5
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        predicted = student.predict(noisy, timesteps[starts], told, chosen)
    miss = (origin + (there - here) * predicted - target) ** 2 / (there**2 + 0.25)
    return {"miss": miss.mean()}
