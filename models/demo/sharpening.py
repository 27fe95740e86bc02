"""A stage between the two others: the decoder learns crisp texture, while the latents stay.

An autoencoder trained on absolute differences alone paints the median of what a latent could
mean, which is blurred. A small patch discriminator (Isola et al., Image-to-image translation with
conditional adversarial networks, 2017) with the hinge loss makes it choose; the balance between
both is kept per step by their gradients at the picture, as in Esser et al., Taming transformers
for high-resolution image synthesis (2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import relu

from models.demo.autoencoder import picture_losses, to_tensor
from models.demo.latents import FACTOR, LatentPool
from models.demo.pools import Pool
from models.demo.training import Losses

CROP = 16
"""Side of the training crops in latents."""
ADVERSARIAL_WEIGHT = 0.6
LATENT_NOISE = 0.08
"""Deviation of noise on the latents, as a share of theirs: the denoiser's will not be perfect."""
HEAD_START = 150
"""Steps in which only the discriminator's opinion forms."""


def make_discriminator() -> nn.Sequential:
    """Picture (n, 3, h, w) to one logit per patch of 26 pixels; positive means true."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1),
        nn.GroupNorm(4, 64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 96, 3, 1, 1),
        nn.GroupNorm(4, 96),
        nn.LeakyReLU(0.2),
        nn.Conv2d(96, 1, 3, 1, 1),
    )


class Sharpener(nn.Module):
    """The decoder and its critic, trained by one optimiser."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.decoder = autoencoder.decoder.requires_grad_(True)
        self.discriminator = make_discriminator()


def random_pairs(
    pools: Sequence[Pool], latents: Sequence[LatentPool], rng: np.random.Generator, count: int
) -> tuple[Tensor, Tensor]:
    """Crops of unscaled latents (n, 4, 16, 16) and their pictures (n, 3, 128, 128)."""
    weights = np.array([pool.pictures.size * (not pool.spec.degraded) for pool in pools], float)
    codes, pictures = [], []
    for _ in range(count):
        chosen = rng.choice(len(pools), p=weights / weights.sum())
        source, encoded = pools[chosen].pictures, latents[chosen].latents
        number, era = rng.integers(len(source)), rng.integers(source.shape[1])
        top, left = (int(rng.integers(side - CROP + 1)) for side in encoded.shape[-2:])
        codes.append(encoded[number, era, :, top : top + CROP, left : left + CROP].float())
        rows, columns = (slice(FACTOR * at, FACTOR * (at + CROP)) for at in (top, left))
        pictures.append(source[number, era, rows, columns])
    return torch.stack(codes), to_tensor(np.stack(pictures))


def sharpening_losses(
    sharpener: Sharpener, autoencoder: AutoencoderKL, codes: Tensor, pictures: Tensor, step: int
) -> Losses:
    """Both parts' losses in one scalar whose gradient is right for each."""
    generator = torch.Generator().manual_seed(step)
    noise = torch.randn(codes.shape, generator=generator)
    codes = codes + LATENT_NOISE / float(autoencoder.config.scaling_factor) * noise
    with torch.autocast("cpu", torch.bfloat16):
        decoded = autoencoder.decode(codes).sample.float()
        likeness = picture_losses(decoded, pictures)
        (towards_likeness,) = torch.autograd.grad(likeness["loss"], decoded, retain_graph=True)
        shown = decoded.detach().requires_grad_(True)
        (towards_truth,) = torch.autograd.grad(
            -sharpener.discriminator(shown).float().mean(), shown
        )
        balance = ADVERSARIAL_WEIGHT * towards_likeness.norm() / (towards_truth.norm() + 1e-12)
        pull = towards_likeness + (balance * towards_truth if step >= HEAD_START else 0)
        true = sharpener.discriminator(pictures).float()
        false = sharpener.discriminator(shown.detach()).float()
    critic = 0.5 * (relu(1 - true).mean() + relu(1 + false).mean())
    return {
        "loss": (decoded * pull).sum() + critic,
        "l1": likeness["l1"],
        "edge": likeness["edge"],
        "critic": critic.detach(),
    }
