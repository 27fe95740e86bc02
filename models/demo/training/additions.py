"""Training stages after the base: LoRAs, tiny decoder, few-step students and depth estimator.

Every stage resumes after an interruption.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer, GLPNForDepthEstimation

from models.demo.training.data.painted import open_painted
from models.demo.training.distillation import Goal, Student, distillation_losses
from models.demo.training.latents import LatentPool, draw_batch
from models.demo.training.loop import Losses, Schedule, train
from models.demo.training.networks.denoiser import NOISE, Denoiser, noise_loss
from models.demo.training.networks.estimator import (
    SETTLING,
    Examples,
    estimator_losses,
    make_estimator,
    settle,
)
from models.demo.training.networks.lora import LoraLearner, look_latents, save_lora
from models.demo.training.networks.tiny_decoder import make_tiny_decoder, tiny_losses
from models.demo.training.plan import Plan
from models.demo.training.pools import Pool
from models.demo.training.trajectories import Trajectories, open_trajectories

LARGE_SHARE = 0.35
"""Share of LoRA batches with whole images instead of the smallest crops."""


def train_tiny(
    plan: Plan,
    pools: list[Pool],
    latents: list[LatentPool],
    autoencoder: AutoencoderKL,
    work: Path,
) -> AutoencoderTiny:
    """Train the tiny autoencoder and return it, frozen, with averaged weights.

    Args:
        plan: Schedules and batch sizes.
        pools: Rendered images.
        latents: Latents of the same images.
        autoencoder: Trained autoencoder, the teacher.
        work: Folder for checkpoints.
    """
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
    """Train the LoRA of a look and return its file; the denoiser's own weights do not change.

    Args:
        look: Name of the look, a key of LOOKS.
        plan: Schedules and batch sizes.
        pools: Rendered images; the first two pools are used.
        autoencoder: Trained autoencoder.
        denoiser: Trained base.
        tokenizer: Tokenizer of the base.
        work: Folder for checkpoints and the LoRA.
    """
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
    """Load or generate the teacher's trajectories of every size.

    Args:
        plan: Sizes and counts of the trajectories.
        denoiser: Trained base, the teacher.
        tokenizer: Tokenizer of the base.
        work: Folder for the trajectories.
    """
    folder = work / "trajectories"
    return [
        open_trajectories(spec, denoiser, tokenizer, folder / f"{spec.size[0]}.safetensors")
        for spec in plan.trajectories
    ]


def train_student(
    name: str,
    goal: Goal,
    schedule: Schedule,
    pixels: int,
    denoiser: Denoiser,
    trajectories: list[Trajectories],
    work: Path,
) -> UNet2DConditionModel:
    """Train a few-step UNet from a copy of the base, and return it, frozen and averaged.

    Args:
        name: Name of the student, for progress and the checkpoint.
        goal: Starting points and end points of the student's steps.
        schedule: Number of steps and learning rate.
        pixels: Pixels of a batch, over all images.
        denoiser: Trained base, the teacher.
        trajectories: The teacher's trajectories.
        work: Folder for checkpoints.
    """
    student = Student(denoiser)

    def losses_at(step: int) -> Losses:
        rng = np.random.default_rng((29, step))
        return distillation_losses(student, goal, trajectories, rng, pixels)

    ema = train(name, student, losses_at, schedule, work / f"{name}.safetensors")
    ema.copy_to(student)
    return student.unet.eval().requires_grad_(False)


def train_estimator(plan: Plan, pool: Pool, weights: Path, work: Path) -> GLPNForDepthEstimation:
    """Train the depth estimator and return it, frozen, with averaged weights.

    Args:
        plan: Schedules, and the number of generated images.
        pool: Rendered images with their depth maps.
        weights: Folder of an exported set, which generates part of the training images.
        work: Folder for checkpoints and generated images.
    """
    examples = Examples(pool, open_painted(plan.painted, weights, work / "painted"))
    torch.manual_seed(6)
    estimator = make_estimator()

    def losses_at(step: int) -> Losses:
        return estimator_losses(estimator, examples, step, plan.estimator.steps)

    ema = train("estimator", estimator, losses_at, plan.estimator, work / "estimator.safetensors")
    ema.copy_to(estimator)
    settle(estimator, examples, min(SETTLING, plan.estimator.steps))
    return estimator.eval().requires_grad_(False)
