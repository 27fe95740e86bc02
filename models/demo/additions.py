"""What comes after the base: LoRAs, the tiny decoder, the few-step students, and what reads depth
back out of their pictures; each resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer, GLPNForDepthEstimation

from models.demo.denoiser import NOISE, Denoiser, noise_loss
from models.demo.distillation import Goal, Student, distillation_losses
from models.demo.estimator import (
    SETTLING,
    Examples,
    estimator_losses,
    make_estimator,
    settle,
)
from models.demo.latents import LatentPool, draw_batch
from models.demo.lora import LoraLearner, look_latents, save_lora
from models.demo.painted import open_painted
from models.demo.plan import Plan
from models.demo.pools import Pool
from models.demo.tiny_decoder import make_tiny_decoder, tiny_losses
from models.demo.training import Losses, Schedule, train
from models.demo.trajectories import Trajectories, open_trajectories

LARGE_SHARE = 0.35
"""Share of LoRA batches with whole pictures instead of the smallest crops."""
STUDENT_PIXELS = 16 * 128 * 128


def train_tiny(
    plan: Plan,
    pools: list[Pool],
    latents: list[LatentPool],
    autoencoder: AutoencoderKL,
    work: Path,
) -> AutoencoderTiny:
    """The tiny autoencoder with its averaged weights."""
    torch.manual_seed(4)
    tiny = make_tiny_decoder()

    def losses_at(step: int) -> Losses:
        return tiny_losses(tiny, autoencoder, pools, latents, step, plan.autoencoder_batch)

    ema = train("tiny", tiny, losses_at, plan.tiny, work / "tiny.safetensors")
    ema.copy_to(tiny)
    return tiny.eval().requires_grad_(False)


def train_lora(
    look: str,
    plan: Plan,
    pools: list[Pool],
    autoencoder: AutoencoderKL,
    denoiser: Denoiser,
    tokenizer: CLIPTokenizer,
    work: Path,
) -> Path:
    """Train the LoRA of a look and return its file; the denoiser is left as it was."""
    torch.manual_seed(5)
    learner = LoraLearner(denoiser, look)
    small, large = pools[:2]
    encoded = look_latents(look, (small, large), autoencoder, plan.lora_terrains)
    scheduler = DDPMScheduler(**NOISE)
    scaling_factor = float(autoencoder.config.scaling_factor)

    def losses_at(step: int) -> Losses:
        rng = np.random.default_rng((23, step))
        if rng.random() < LARGE_SHARE:
            batch = draw_batch(rng, encoded[1:], plan.large_batch, large.spec.size)
        else:
            batch = draw_batch(rng, encoded, plan.small_batch, plan.small_size)
        return noise_loss(denoiser, tokenizer, scheduler, batch, scaling_factor, rng)

    checkpoint = work / f"lora-{look}.safetensors"
    ema = train(f"lora {look}", learner, losses_at, plan.lora, checkpoint)
    ema.copy_to(learner)
    path = work / "loras" / f"{look}.safetensors"
    save_lora(denoiser.unet, look, path)
    denoiser.unet.unload_lora()
    return path


def make_trajectories(
    plan: Plan, denoiser: Denoiser, tokenizer: CLIPTokenizer, work: Path
) -> list[Trajectories]:
    """The teacher's trajectories of every size."""
    folder = work / "trajectories"
    return [
        open_trajectories(spec, denoiser, tokenizer, folder / f"{spec.size[0]}.safetensors")
        for spec in plan.trajectories
    ]


def train_student(
    name: str,
    goal: Goal,
    schedule: Schedule,
    denoiser: Denoiser,
    trajectories: list[Trajectories],
    work: Path,
) -> UNet2DConditionModel:
    """A few-step UNet with its averaged weights; begins as a copy of the base."""
    student = Student(denoiser)

    def losses_at(step: int) -> Losses:
        rng = np.random.default_rng((29, step))
        return distillation_losses(student, goal, trajectories, rng, STUDENT_PIXELS)

    ema = train(name, student, losses_at, schedule, work / f"{name}.safetensors")
    ema.copy_to(student)
    return student.unet.eval().requires_grad_(False)


def train_estimator(plan: Plan, pool: Pool, weights: Path, work: Path) -> GLPNForDepthEstimation:
    """The depth estimator with its averaged weights; `weights` is an exported set, which paints a
    part of the pictures that it learns from."""
    examples = Examples(pool, open_painted(plan.painted, weights, work / "painted"))
    torch.manual_seed(6)
    estimator = make_estimator()

    def losses_at(step: int) -> Losses:
        return estimator_losses(estimator, examples, step, plan.estimator.steps)

    ema = train("estimator", estimator, losses_at, plan.estimator, work / "estimator.safetensors")
    ema.copy_to(estimator)
    settle(estimator, examples, min(SETTLING, plan.estimator.steps))
    return estimator.eval().requires_grad_(False)
