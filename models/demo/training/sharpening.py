"""Adversarial training of the decoder for sharp texture; the latents do not change.

An autoencoder trained only on absolute differences decodes a latent to the median of the possible
images, which is blurred. A small patch discriminator (Isola et al., arXiv:1611.07004) with the
hinge loss counters that. The adversarial weight is adapted per step to the ratio of both losses'
gradients at the decoded image (Esser et al., arXiv:2012.09841).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import relu

from models.demo.training.latents import FACTOR, LatentPool
from models.demo.training.loop import Losses
from models.demo.training.networks.autoencoder import picture_losses, to_tensor
from models.demo.training.pools import Pool

CROP = 16
"""Side of the training crops in latents."""
ADVERSARIAL_WEIGHT = 0.6
LATENT_NOISE = 0.08
"""Relative deviation of noise on the latents, because the denoiser's latents are imperfect."""
HEAD_START = 150
"""Steps before the decoder is trained against the discriminator."""


def make_discriminator() -> nn.Sequential:
    """Return a network from images (n, 3, h, w) in [-1, 1] to one logit per patch.

    A patch is 26 pixels wide. A positive logit means a true rendering.
    """
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
    """The decoder and its discriminator, trained by one optimiser."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.decoder = autoencoder.decoder.requires_grad_(True)
        self.discriminator = make_discriminator()


def random_pairs(
    pools: Sequence[Pool], latents: Sequence[LatentPool], rng: np.random.Generator, count: int
) -> tuple[Tensor, Tensor]:
    """Draw crops of latents and the corresponding crops of images.

    Args:
        pools: Rendered images; degraded pools are skipped.
        latents: Latents of the same pools.
        rng: Generator of the crops.
        count: Number of crops.

    Returns:
        Unscaled latents (n, 4, 16, 16) and images (n, 3, 128, 128) in [-1, 1], both float32 on
        the CPU.
    """
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
    """Return the losses of both parts.

    `loss` is one scalar whose gradient is correct for the decoder and for the discriminator.

    Args:
        sharpener: Decoder and discriminator in training.
        autoencoder: Autoencoder that owns the decoder.
        codes: Unscaled latents (n, 4, h / 8, w / 8), float32 on the CPU.
        pictures: Images (n, 3, h, w) in [-1, 1], float32 on the CPU.
        step: Number of the step, the seed of the latents' noise.
    """
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
