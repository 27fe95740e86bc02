"""The stages of a training run; each resumes by itself and returns what the next needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from transformers import CLIPTokenizer

from models.demo.autoencoder import random_crops, reconstruction_losses
from models.demo.denoiser import NOISE, Denoiser, noise_loss
from models.demo.latents import Batch, LatentPool, draw_batch, encode_pool
from models.demo.networks import make_autoencoder
from models.demo.plan import Plan
from models.demo.pools import Pool, open_pool
from models.demo.sharpening import Sharpener, random_pairs, sharpening_losses
from models.demo.training import Losses, train


def open_pools(plan: Plan, work: Path) -> list[Pool]:
    """Render, or find rendered, all of the plan's pictures."""
    return [open_pool(spec, work / "pools") for spec in plan.pools]


def train_autoencoder(
    plan: Plan,
    pools: list[Pool],
    work: Path,
    stop_after: int | None = None,
    start: Path | None = None,
) -> AutoencoderKL:
    """The autoencoder with its averaged weights, frozen; begins with the set at `start`, if any."""
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
    """All pools as latents; the autoencoder's scaling factor becomes one over their deviation."""
    folder = work / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [
        encode_pool(pool, autoencoder, folder / f"{pool.spec.name}.safetensors") for pool in pools
    ]
    sound = [pool.latents.float().flatten() for pool in encoded if not pool.degraded]
    autoencoder.register_to_config(scaling_factor=round(1 / torch.cat(sound).std().item(), 4))
    return encoded


def sharpen(
    plan: Plan,
    pools: list[Pool],
    latents: list[LatentPool],
    autoencoder: AutoencoderKL,
    work: Path,
    stop_after: int | None = None,
) -> None:
    """Train the autoencoder's decoder further, in place."""
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
    """UNet, ControlNet and text encoders, averaged; begins with the set at `start`, if any."""
    torch.manual_seed(2)
    denoiser = Denoiser(tokenizer)
    if start is not None:
        denoiser.load(start, tokenizer)
    scheduler = DDPMScheduler(**NOISE)

    def losses_at(step: int) -> Losses:
        rng = np.random.default_rng((13, step))
        batch = _draw(plan, pools, step, rng)
        return noise_loss(denoiser, tokenizer, scheduler, batch, scaling_factor, rng)

    checkpoint = work / "denoiser.safetensors"
    ema = train("denoiser", denoiser, losses_at, plan.denoiser, checkpoint, stop_after)
    ema.copy_to(denoiser)
    return denoiser.eval().requires_grad_(False)


def _draw(plan: Plan, pools: list[LatentPool], step: int, rng: np.random.Generator) -> Batch:
    """Crops of the smallest size at first; towards the end mostly whole pictures."""
    large = [pool for pool in pools if pool.size != plan.small_size]
    if step < plan.large_from * plan.denoiser.steps or rng.random() < 0.15:
        return draw_batch(rng, pools, plan.small_batch, plan.small_size)
    weights = np.array([len(pool.depths) for pool in large], float)
    size = large[rng.choice(len(large), p=weights / weights.sum())].size
    return draw_batch(rng, large, plan.large_batch, size)
