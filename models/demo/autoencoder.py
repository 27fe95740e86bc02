"""The first stage: an autoencoder between pictures and latents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss

from models.demo.pools import Pool
from models.demo.training import Losses

CROP = 128
"""Side of the training crops in pixels."""
KL_WEIGHT = 2e-4
GRADIENT_WEIGHT = 0.5
COARSE_WEIGHT = 1.0


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (n, h, w, 3) to float32 (n, 3, h, w) in [-1, 1]."""
    writable = torch.from_numpy(np.array(pictures))
    return writable.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def random_crops(pools: Sequence[Pool], step: int, batch: int) -> Tensor:
    """Crops of `CROP` pixels from random pictures of all pools: (batch, 3, CROP, CROP)."""
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
    """Forward differences down and across."""
    return pictures[..., 1:, :] - pictures[..., :-1, :], pictures[..., 1:] - pictures[..., :-1]


def picture_losses(decoded: Tensor, pictures: Tensor) -> Losses:
    """L1 on pixels, on 8x8 means (colours first) and on differences (sharp edges)."""
    pixel = l1_loss(decoded, pictures)
    coarse = l1_loss(avg_pool2d(decoded, 8), avg_pool2d(pictures, 8))
    edges = sum(
        (l1_loss(a, b) for a, b in zip(differences(decoded), differences(pictures), strict=True)),
        torch.zeros(()),
    )
    total = pixel + COARSE_WEIGHT * coarse + GRADIENT_WEIGHT * edges
    return {"loss": total, "l1": pixel.detach(), "edge": edges.detach()}


def reconstruction_losses(autoencoder: AutoencoderKL, pictures: Tensor, step: int) -> Losses:
    """The picture's losses after a round trip, and a weak Kullback-Leibler term on the latents."""
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
    """Unscaled latent means (n, 4, h / 8, w / 8) of uint8 pictures (n, h, w, 3), float32."""
    parts = []
    for start in range(0, len(pictures), batch):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = autoencoder.encode(to_tensor(pictures[start : start + batch])).latent_dist
        parts.append(posterior.mean.float())
    return torch.cat(parts)
