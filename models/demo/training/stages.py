"""Training stages of the base; each one resumes and returns the next stage's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from transformers import CLIPTokenizer

from models.demo.training.latents import Batch, LatentPool, draw_batch, encode_pool
from models.demo.training.loop import Losses, train
from models.demo.training.networks.autoencoder import random_crops, reconstruction_losses
from models.demo.training.networks.building import make_autoencoder
from models.demo.training.networks.denoiser import NOISE, Denoiser, noise_loss
from models.demo.training.plan import Plan
from models.demo.training.pools import Pool, open_pool
from models.demo.training.sharpening import Sharpener, random_pairs, sharpening_losses


def open_pools(plan: Plan, work: Path) -> list[Pool]:
    """Open all of the plan's pools; render those that are missing."""
    return [open_pool(spec, work / "pools") for spec in plan.pools]


def train_autoencoder(
    plan: Plan,
    pools: list[Pool],
    work: Path,
    stop_after: int | None = None,
    start: Path | None = None,
) -> AutoencoderKL:
    """Train the autoencoder and return it, frozen, with averaged weights.

    Args:
        plan: Schedules and batch sizes.
        pools: Rendered images.
        work: Folder for checkpoints.
        stop_after: Number of steps after which to stop, to simulate a kill in tests.
        start: Folder of an exported set with the initial weights; None starts from random ones.
    """
    torch.manual_seed(1)
    autoencoder = make_autoencoder()
    if start is not None:
        autoencoder = AutoencoderKL.from_pretrained(
            start / "vae", use_safetensors=True, dtype=torch.float32
        )
    ema = train(
        "autoencoder",
        autoencoder,
        lambda step: reconstruction_losses(
            autoencoder, random_crops(pools, step, plan.autoencoder_batch), step
        ),
        plan.autoencoder,
        work / "autoencoder.safetensors",
        stop_after,
    )
    ema.copy_to(autoencoder)
    return autoencoder.eval().requires_grad_(False)


def encode_pools(pools: list[Pool], autoencoder: AutoencoderKL, work: Path) -> list[LatentPool]:
    """Encode all pools, and set the autoencoder's scaling factor to 1 / standard deviation.

    Args:
        pools: Rendered images.
        autoencoder: Trained autoencoder; its configuration is modified.
        work: Folder for the latents.
    """
    folder = work / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [
        encode_pool(pool, autoencoder, folder / f"{pool.spec.name}.safetensors") for pool in pools
    ]
    intact = [pool.latents.float().flatten() for pool in encoded if not pool.degraded]
    autoencoder.register_to_config(scaling_factor=round(1 / torch.cat(intact).std().item(), 4))
    return encoded


def sharpen(
    plan: Plan,
    pools: list[Pool],
    latents: list[LatentPool],
    autoencoder: AutoencoderKL,
    work: Path,
    stop_after: int | None = None,
) -> None:
    """Sharpen the autoencoder's decoder, in place.

    Args:
        plan: Schedules and batch sizes.
        pools: Rendered images.
        latents: Latents of the same pools.
        autoencoder: Trained autoencoder.
        work: Folder for checkpoints.
        stop_after: Number of steps after which to stop, to simulate a kill in tests.
    """
    torch.manual_seed(3)
    sharpener = Sharpener(autoencoder)

    def losses_at(step: int) -> Losses:
        rng = np.random.default_rng((17, step))
        codes, pictures = random_pairs(pools, latents, rng, plan.autoencoder_batch)
        return sharpening_losses(sharpener, autoencoder, codes, pictures, step)

    checkpoint = work / "sharpener.safetensors"
    ema = train("sharpening", sharpener, losses_at, plan.sharpening, checkpoint, stop_after)
    ema.copy_to(sharpener)
    autoencoder.requires_grad_(False)


def train_denoiser(
    plan: Plan,
    pools: list[LatentPool],
    scaling_factor: float,
    tokenizer: CLIPTokenizer,
    work: Path,
    stop_after: int | None = None,
    start: Path | None = None,
) -> Denoiser:
    """Train UNet, ControlNet and text encoders; return them frozen, with averaged weights.

    Args:
        plan: Schedules and batch sizes.
        pools: Latents with their depth maps.
        scaling_factor: Factor from the autoencoder's latents to unit deviation.
        tokenizer: Tokenizer of the prompts.
        work: Folder for checkpoints.
        stop_after: Number of steps after which to stop, to simulate a kill in tests.
        start: Folder of an exported set with the initial weights; None starts from random ones.
    """
    torch.manual_seed(2)
    denoiser = Denoiser(tokenizer)
    if start is not None:
        denoiser.load(start, tokenizer)
    scheduler = DDPMScheduler(**NOISE)

    def losses_at(step: int) -> Losses:
        rng = np.random.default_rng((13, step))
        batch = _draw_batch(plan, pools, step, rng)
        return noise_loss(denoiser, tokenizer, scheduler, batch, scaling_factor, rng)

    checkpoint = work / "denoiser.safetensors"
    ema = train("denoiser", denoiser, losses_at, plan.denoiser, checkpoint, stop_after)
    ema.copy_to(denoiser)
    return denoiser.eval().requires_grad_(False)


def _draw_batch(plan: Plan, pools: list[LatentPool], step: int, rng: np.random.Generator) -> Batch:
    """Draw crops of the smallest size at first, and later mostly whole images."""
    large = [pool for pool in pools if pool.size != plan.small_size]
    if step < plan.large_from * plan.denoiser.steps or rng.random() < 0.15:
        return draw_batch(rng, pools, plan.small_batch, plan.small_size)
    weights = np.array([len(pool.depths) for pool in large], float)
    size = large[rng.choice(len(large), p=weights / weights.sum())].size
    return draw_batch(rng, large, plan.large_batch, size)
