"""Denoising trajectories of the base model, the training data of few-step students.

A trajectory is a solution of the probability-flow ODE (Song et al., arXiv:2011.13456) from pure
noise with classifier-free guidance (arXiv:2207.12598), recorded at every evaluation. It is solved
by DPM-Solver++ of second order (arXiv:2211.01095) on trailing timesteps, so that every third point
is on the students' six-step grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from models.demo.training.data import prompts
from models.demo.training.data.eras import ERAS
from models.demo.training.data.fields import Size
from models.demo.training.data.terrain import make_terrain
from models.demo.training.networks.denoiser import NOISE, Denoiser, tokenise

STUDENT_STEPS = 6
FINER = 3
"""Teacher evaluations per student step."""
GUIDANCE = 3.0
UNWANTED = ", ".join(prompts.FLAWS)
"""Negative prompt of the guidance, so that students need none."""
SEED = 4_000_000_000
UNPROMPTED = 0.08
"""Share of trajectories without prompt and guidance, so that students learn them too."""
CONTROL_SCALES = (0.6, 1.0)
"""Range of the ControlNet's scale."""


@dataclass(frozen=True)
class TrajectorySpec:
    """Number, size (height, width) in pixels, and batch size of trajectories."""

    size: Size
    count: int
    batch: int


@dataclass(frozen=True)
class Trajectories:
    """Trajectories and the teacher's inputs, all on the CPU.

    `points` is (n, 19, 4, h / 8, w / 8), float16, variance-preserving; the last point is the
    clean latents. `depths` is (n, h, w), uint8. `tokens` is (n, 77), int64. `kept` is (n,),
    float32, 0 where the prompt was dropped, else 1. `scales` is (n,), float32, the ControlNet's
    scale.
    """

    points: Tensor
    depths: Tensor
    tokens: Tensor
    kept: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.points)

    @property
    def size(self) -> Size:
        """Picture size (height, width) in pixels."""
        return self.depths.shape[1], self.depths.shape[2]

    def hints(self, chosen: Tensor) -> Tensor:
        """Return the ControlNet's inputs (n, 3, h, w), float32 in [0, 1]."""
        return as_hints(self.depths[chosen])


def as_hints(depths: Tensor) -> Tensor:
    """Convert uint8 depth maps (n, h, w) to the ControlNet's input (n, 3, h, w), float32 [0, 1]."""
    return (depths.float() / 255)[:, None].expand(-1, 3, -1, -1)


def teacher_grid() -> tuple[Tensor, Tensor]:
    """Return the 18 timesteps and the 19 noise levels sigma, where x = x0 + sigma * noise.

    The last sigma is 0.
    """
    scheduler = _make_solver()
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    sigmas = ((1 - alphas) / alphas) ** 0.5
    return scheduler.timesteps, torch.cat([sigmas, torch.zeros(1)])


def true_time_ids(size: Size, count: int) -> Tensor:
    """Return the micro-conditioning of whole images, float32 (count, 6)."""
    return torch.tensor([[*size, 0, 0, *size]] * count, dtype=torch.float32)


def open_trajectories(
    spec: TrajectorySpec, teacher: Denoiser, tokenizer: CLIPTokenizer, path: Path
) -> Trajectories:
    """Load the trajectories at `path`, or generate and save them.

    Args:
        spec: Size and number of the trajectories.
        teacher: Trained base.
        tokenizer: Tokenizer of the base.
        path: Safetensors file of the trajectories.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = []
        for first in range(0, spec.count, spec.batch):
            parts.append(_generate_batch(teacher, tokenizer, spec, first))
            print(f"trajectories {first + spec.batch}/{spec.count} of {spec.size}", flush=True)
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        partial = path.with_suffix(".partial")
        save_file(joined, partial)
        partial.replace(path)
    return Trajectories(**load_file(path))


def _make_solver() -> DPMSolverMultistepScheduler:
    scheduler = DPMSolverMultistepScheduler(**NOISE, timestep_spacing="trailing")
    scheduler.set_timesteps(STUDENT_STEPS * FINER)
    return scheduler


@torch.no_grad()
def _generate_batch(
    teacher: Denoiser, tokenizer: CLIPTokenizer, spec: TrajectorySpec, first: int
) -> dict[str, Tensor]:
    """Generate a batch of trajectories with new terrains, prompts and noise."""
    count, (height, width) = spec.batch, spec.size
    rng = np.random.default_rng((SEED, height, width, first))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    terrains = [make_terrain(SEED + 7 * height + first + i, spec.size) for i in range(count)]
    depths = torch.from_numpy(np.stack([terrain.depth for terrain in terrains]))
    tokens = tokenise(tokenizer, [prompts.make_prompt(rng, rng.choice(list(ERAS))) for _ in depths])
    kept = torch.from_numpy(rng.random(count) >= UNPROMPTED).float()
    scales = torch.from_numpy(rng.uniform(*CONTROL_SCALES, count)).float()
    hints = as_hints(depths)
    x = torch.randn((count, 4, height // 8, width // 8), generator=generator)
    scheduler = _make_solver()
    points = [x]
    with torch.autocast("cpu", torch.bfloat16):
        hidden, pooled = teacher.encode_prompts(tokens)
        flawed, flawed_pooled = teacher.encode_prompts(tokenise(tokenizer, [UNWANTED] * count))
        added = {
            "text_embeds": torch.cat([flawed_pooled, pooled * kept[:, None]]),
            "time_ids": true_time_ids(spec.size, 2 * count),
        }
        hidden = torch.cat([flawed, hidden * kept[:, None, None]])
        guidance = (1 + (GUIDANCE - 1) * kept)[:, None, None, None]
        for timestep in scheduler.timesteps:
            predicted = teacher(
                torch.cat([x, x]),
                timestep.expand(2 * count),
                hidden,
                added,
                torch.cat([hints, hints]),
                torch.cat([scales, scales]),
            ).float()
            unprompted, prompted = predicted.chunk(2)
            x = scheduler.step(
                unprompted + guidance * (prompted - unprompted), timestep, x
            ).prev_sample
            points.append(x)
    return {
        "points": torch.stack(points, 1).half(),
        "depths": depths,
        "tokens": tokens,
        "kept": kept,
        "scales": scales,
    }
