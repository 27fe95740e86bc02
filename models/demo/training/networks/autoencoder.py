"""First stage of the base: the autoencoder between images and latents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss

from models.demo.training.loop import Losses
from models.demo.training.pools import Pool

CROP = 128
"""Side of the training crops in pixels."""
KL_WEIGHT = 2e-4
GRADIENT_WEIGHT = 0.5
COARSE_WEIGHT = 1.0


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Convert uint8 images (n, h, w, 3) to float32 (n, 3, h, w) in [-1, 1], on the CPU."""
    writable = torch.from_numpy(np.array(pictures))
    return writable.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def random_crops(pools: Sequence[Pool], step: int, batch: int) -> Tensor:
    """Draw square crops of random images of all pools.

    Args:
        pools: Rendered images.
        step: Number of the step, the seed of the crops.
        batch: Number of crops.

    Returns:
        Float32 (batch, 3, CROP, CROP) in [-1, 1], on the CPU.
    """
    rng = np.random.default_rng((11, step))
    weights = np.array([pool.pictures.size for pool in pools], float)
    crops = []
    for _ in range(batch):
        pool = pools[rng.choice(len(pools), p=weights / weights.sum())]
        picture = pool.pictures[rng.integers(len(pool)), rng.integers(pool.pictures.shape[1])]
        top, left = (rng.integers(side - CROP + 1) for side in pool.spec.size)
        crops.append(picture[top : top + CROP, left : left + CROP])
    return to_tensor(np.stack(crops))


def differences(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return the forward differences down and across."""
    return pictures[..., 1:, :] - pictures[..., :-1, :], pictures[..., 1:] - pictures[..., :-1]


def picture_losses(decoded: Tensor, pictures: Tensor) -> Losses:
    """Return L1 losses of pixels, of 8x8 means (for colours) and of differences (for edges)."""
    pixel = l1_loss(decoded, pictures)
    coarse = l1_loss(avg_pool2d(decoded, 8), avg_pool2d(pictures, 8))
    edges = sum(
        (l1_loss(a, b) for a, b in zip(differences(decoded), differences(pictures), strict=True)),
        torch.zeros(()),
    )
    total = pixel + COARSE_WEIGHT * coarse + GRADIENT_WEIGHT * edges
    return {"loss": total, "l1": pixel.detach(), "edge": edges.detach()}


def reconstruction_losses(autoencoder: AutoencoderKL, pictures: Tensor, step: int) -> Losses:
    """Return the losses after a round trip, and a weak Kullback-Leibler term of the latents.

    Args:
        autoencoder: Autoencoder in training.
        pictures: Images (n, 3, h, w) in [-1, 1], float32 on the CPU.
        step: Number of the step, the seed of the posterior's noise.
    """
    with torch.autocast("cpu", torch.bfloat16):
        posterior = autoencoder.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
        decoded = autoencoder.decode(posterior.mean + posterior.std * noise).sample
    losses = picture_losses(decoded.float(), pictures)
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return losses | {"loss": losses["loss"] + KL_WEIGHT * divergence, "kl": divergence.detach()}


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pictures: NDArray[np.uint8], batch: int = 16) -> Tensor:
    """Encode images to unscaled latent means.

    Args:
        autoencoder: Trained autoencoder.
        pictures: Images, uint8 (n, h, w, 3).
        batch: Number of images encoded at once.

    Returns:
        Latent means (n, 4, h / 8, w / 8), float32 on the CPU.
    """
    parts = []
    for start in range(0, len(pictures), batch):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = autoencoder.encode(to_tensor(pictures[start : start + batch])).latent_dist
        parts.append(posterior.mean.float())
    return torch.cat(parts)
