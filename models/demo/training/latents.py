"""Training data of the denoiser: latents, depth maps, and batches of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.demo.training.data import prompts
from models.demo.training.data.eras import ERAS
from models.demo.training.data.fields import Size
from models.demo.training.networks.autoencoder import encode
from models.demo.training.pools import Bytes, Pool

FACTOR = 8
"""Pixels per latent, along each axis."""


@dataclass(frozen=True)
class LatentPool:
    """Unscaled latent means (n, eras, 4, h / 8, w / 8), float16, and uint8 depths (n, h, w)."""

    latents: Tensor
    depths: Bytes
    degraded: bool

    @property
    def size(self) -> Size:
        """Picture size (height, width) in pixels."""
        return self.depths.shape[1], self.depths.shape[2]


def encode_pool(pool: Pool, autoencoder: AutoencoderKL, path: Path) -> LatentPool:
    """Encode a pool's images, or load the latents if `path` exists.

    Args:
        pool: Rendered images.
        autoencoder: Trained autoencoder.
        path: Safetensors file of the latents.
    """
    if not path.exists():
        parts = [encode(autoencoder, pictures).half() for pictures in pool.pictures]
        save_file({"latents": torch.stack(parts).contiguous()}, path)
    return LatentPool(load_file(path)["latents"], np.asarray(pool.depths), pool.spec.degraded)


@dataclass(frozen=True)
class Batch:
    """Batch of one training step; all images have the same size.

    `latents` is (n, 4, h / 8, w / 8), float32 and unscaled. `hints` is (n, 3, h, w), float32 in
    [0, 1]. Both are on the CPU.
    """

    latents: Tensor
    hints: Tensor
    prompts: list[str]

    @property
    def size(self) -> Size:
        """Picture size (height, width) in pixels."""
        return self.hints.shape[2], self.hints.shape[3]


def draw_batch(
    rng: np.random.Generator, pools: Sequence[LatentPool], count: int, size: Size
) -> Batch:
    """Draw random images of random pools, cropped to `size`, each with a new prompt.

    A pool's weight is the square root of its pixels, and a quarter of that if it is degraded.

    Args:
        rng: Generator of the batch.
        pools: Pools to draw from; those with smaller images are skipped.
        count: Number of images.
        size: Height and width of the crops in pixels.
    """
    fitting = [p for p in pools if p.size[0] >= size[0] and p.size[1] >= size[1]]
    weights = np.array([p.depths.size**0.5 * (0.25 if p.degraded else 1) for p in fitting])
    latents, hints, texts = [], [], []
    for _ in range(count):
        pool = fitting[rng.choice(len(fitting), p=weights / weights.sum())]
        number, era = rng.integers(len(pool.depths)), rng.integers(len(ERAS))
        top, left = (
            int(rng.integers((whole - part) // FACTOR + 1))
            for whole, part in zip(pool.size, size, strict=True)
        )
        rows, columns = slice(top, top + size[0] // FACTOR), slice(left, left + size[1] // FACTOR)
        latents.append(pool.latents[number, era, :, rows, columns].float())
        depth = pool.depths[number, top * 8 : top * 8 + size[0], left * 8 : left * 8 + size[1]]
        hints.append(torch.from_numpy(depth / np.float32(255)).expand(3, -1, -1))
        make = prompts.make_flawed_prompt if pool.degraded else prompts.make_prompt
        texts.append(make(rng, list(ERAS)[era]))
    return Batch(torch.stack(latents), torch.stack(hints), texts)
