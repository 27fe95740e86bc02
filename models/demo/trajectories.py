"""How the base model gets from noise to a picture, kept so that few-step students learn from it.

A trajectory is the solution of the probability-flow ODE (Song et al., Score-based generative
modeling through stochastic differential equations, 2021) from pure noise, with classifier-free
guidance, recorded at every evaluation. DPM-Solver++ of second order solves it on trailing
timesteps, so that every third point is a point of the students' six-step grid.
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

from models.demo import prompts
from models.demo.denoiser import NOISE, Denoiser, tokenise
from models.demo.eras import ERAS
from models.demo.fields import Size
from models.demo.terrain import make_terrain

STUDENT_STEPS = 6
FINER = 3
"""Teacher evaluations per student step."""
GUIDANCE = 3.0
UNWANTED = ", ".join(prompts.FLAWS)
"""What guidance steers away from: students need no negative prompt for clean pictures."""
SEED = 4_000_000_000
UNPROMPTED = 0.08
"""Share of trajectories without prompt and guidance: students must know what guidance leaves."""
CONTROL_SCALES = (0.6, 1.0)


@dataclass(frozen=True)
class TrajectorySpec:
    """How many trajectories of which size (height, width) in pixels."""

    size: Size
    count: int
    batch: int


@dataclass(frozen=True)
class Trajectories:
    """`points` (n, 19, 4, h / 8, w / 8), float16, variance-preserving; the last is the picture.

    Beside them what the teacher was told: `depths` (n, h, w) uint8, `tokens` (n, 77),
    `kept` (n,), 0 where the prompt was dropped, and `scales` (n,) of the ControlNet.
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
        """Depth maps (n, 3, h, w) in [0, 1]."""
        return as_hints(self.depths[chosen])


def as_hints(depths: Tensor) -> Tensor:
    """Depth maps uint8 (n, h, w) as the ControlNet reads them: (n, 3, h, w) in [0, 1]."""
    return (depths.float() / 255)[:, None].expand(-1, 3, -1, -1)


def teacher_grid() -> tuple[Tensor, Tensor]:
    """The 18 timesteps, and the 19 noise levels sigma (of x = x0 + sigma * noise), 0 at the end."""
    scheduler = _solver()
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    sigmas = ((1 - alphas) / alphas) ** 0.5
    return scheduler.timesteps, torch.cat([sigmas, torch.zeros(1)])


def true_time_ids(size: Size, count: int) -> Tensor:
    """The micro-conditioning of whole pictures as float32 (count, 6)."""
    return torch.tensor([[*size, 0, 0, *size]] * count, dtype=torch.float32)


def open_trajectories(
    spec: TrajectorySpec, teacher: Denoiser, tokenizer: CLIPTokenizer, path: Path
) -> Trajectories:
    """The trajectories kept at `path`, or made now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = []
        for first in range(0, spec.count, spec.batch):
            parts.append(_follow(teacher, tokenizer, spec, first))
            print(f"trajectories {first + spec.batch}/{spec.count} of {spec.size}", flush=True)
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        partial = path.with_suffix(".partial")
        save_file(joined, partial)
        partial.replace(path)
    return Trajectories(**load_file(path))


def _solver() -> DPMSolverMultistepScheduler:
    scheduler = DPMSolverMultistepScheduler(**NOISE, timestep_spacing="trailing")
    scheduler.set_timesteps(STUDENT_STEPS * FINER)
    return scheduler


@torch.no_grad()
def _follow(
    teacher: Denoiser, tokenizer: CLIPTokenizer, spec: TrajectorySpec, first: int
) -> dict[str, Tensor]:
    """A batch of trajectories, with fresh terrains, prompts and noise."""
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
    scheduler = _solver()
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
            free, prompted = predicted.chunk(2)
            x = scheduler.step(free + guidance * (prompted - free), timestep, x).prev_sample
            points.append(x)
    return {
        "points": torch.stack(points, 1).half(),
        "depths": depths,
        "tokens": tokens,
        "kept": kept,
        "scales": scales,
    }
