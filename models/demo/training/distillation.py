"""Few-step students of the base model: one UNet each, with the base's other networks.

A student's input is a point of the teacher's trajectory. It predicts the noise whose single Euler
step reaches the point that the teacher reaches after several steps. This is the target of
progressive distillation (Salimans and Ho, arXiv:2202.00512), with the teacher's guidance included
(Meng et al., arXiv:2210.03142).

- `lightning` learns only the six steps of its own grid.
- `hyper` learns to reach the end of the current third of the trajectory from each of its points:
  trajectory-segmented consistency (Ren et al., Hyper-SD, arXiv:2404.13686).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.demo.training.loop import Losses
from models.demo.training.networks.denoiser import Denoiser
from models.demo.training.trajectories import (
    FINER,
    STUDENT_STEPS,
    Trajectories,
    teacher_grid,
    true_time_ids,
)

POINTS = STUDENT_STEPS * FINER
"""Steps of a trajectory."""


@dataclass(frozen=True)
class Goal:
    """Paired indices of the points where a student's step starts and must end."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]


def lightning_goal() -> Goal:
    """Return pairs from every point of the students' grid to the next one."""
    starts = tuple(range(0, POINTS, FINER))
    return Goal(starts, tuple(start + FINER for start in starts))


def hyper_goal() -> Goal:
    """Return pairs from every point to the end of its third of the trajectory."""
    segment = POINTS // 3
    starts = tuple(range(POINTS))
    return Goal(starts, tuple(start // segment * segment + segment for start in starts))


class Student(nn.Module):
    """A UNet in training, with the frozen other networks of its teacher."""

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.unet = copy.deepcopy(teacher.unet).requires_grad_(True)
        # The list hides it from nn.Module, because it is neither trained nor stored.
        self._teacher = [teacher]

    def predict(
        self, noisy: Tensor, times: Tensor, trajectories: Trajectories, chosen: Tensor
    ) -> Tensor:
        """Predict the noise in `noisy`.

        Args:
            noisy: Variance-preserving latents (n, 4, h / 8, w / 8), float32 on the CPU.
            times: Timesteps (n,).
            trajectories: Source of prompts, depth maps and ControlNet scales.
            chosen: Indices (n,) into `trajectories`.

        Returns:
            Predicted noise, float32, of the shape of `noisy`.
        """
        teacher = self._teacher[0]
        with torch.no_grad():
            hidden, pooled = teacher.encode_prompts(trajectories.tokens[chosen])
            kept = trajectories.kept[chosen]
            hidden = hidden * kept[:, None, None]
            added = {
                "text_embeds": pooled * kept[:, None],
                "time_ids": true_time_ids(trajectories.size, len(chosen)),
            }
            down, middle = teacher.controlnet(
                noisy,
                times,
                hidden,
                trajectories.hints(chosen),
                added_cond_kwargs=added,
                return_dict=False,
            )
        scales = trajectories.scales[chosen][:, None, None, None]
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
    """Return the squared distance between the student's Euler steps and the teacher's points.

    The weight 1 / (sigma^2 + 0.25) expresses the error in the units of the next prediction's
    input. Late errors count more, because no later step corrects them.

    Args:
        student: Student in training.
        goal: Starting points and end points of its steps.
        sets: The teacher's trajectories, one set per image size.
        rng: Generator of the batch.
        row_pixels: Maximum number of pixels of a batch, over all images.
    """
    trajectories = sets[int(rng.integers(len(sets)))]
    count = max(1, row_pixels // (trajectories.size[0] * trajectories.size[1]))
    chosen = torch.from_numpy(rng.integers(len(trajectories), size=count))
    pairs = rng.integers(len(goal.starts), size=count)
    starts = torch.tensor([goal.starts[pair] for pair in pairs])
    ends = torch.tensor([goal.ends[pair] for pair in pairs])
    timesteps, sigmas = teacher_grid()
    here, there = sigmas[starts][:, None, None, None], sigmas[ends][:, None, None, None]
    noisy = trajectories.points[chosen, starts].float()
    origin = noisy * (1 + here**2) ** 0.5
    target = trajectories.points[chosen, ends].float() * (1 + there**2) ** 0.5
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        predicted = student.predict(noisy, timesteps[starts], trajectories, chosen)
    miss = (origin + (there - here) * predicted - target) ** 2 / (there**2 + 0.25)
    return {"miss": miss.mean()}
