"""Small decoder for previews: a distilled autoencoder with TAESD's architecture (Bohan, 2023).

Plain convolutions without norms or attention map the large autoencoder's scaled latents to its
images and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn.functional import mse_loss

from models.demo.training.latents import LatentPool
from models.demo.training.loop import Losses
from models.demo.training.networks.autoencoder import picture_losses
from models.demo.training.pools import Pool
from models.demo.training.sharpening import random_pairs

WIDTH = 16
LATENT_NOISE = 0.1
"""Deviation of noise on the scaled latents, because previews decode unfinished latents."""


def make_tiny_decoder() -> AutoencoderTiny:
    """Return a network between latents (n, 4, h / 8, w / 8) and images (n, 3, h, w) in [-1, 1]."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(3, 3, 2, 1),
    )


def tiny_losses(
    tiny: AutoencoderTiny,
    autoencoder: AutoencoderKL,
    pools: Sequence[Pool],
    latents: Sequence[LatentPool],
    step: int,
    batch: int,
) -> Losses:
    """Return the losses of the decoder against the large decoder, and of the encoder.

    Args:
        tiny: Tiny autoencoder in training.
        autoencoder: Trained large autoencoder.
        pools: Rendered images.
        latents: Latents of the same pools.
        step: Number of the step, the seed of crops and noise.
        batch: Number of crops.
    """
    rng = np.random.default_rng((19, step))
    codes, pictures = random_pairs(pools, latents, rng, batch)
    codes = codes * float(autoencoder.config.scaling_factor)
    noisy = codes + LATENT_NOISE * torch.randn(
        codes.shape, generator=torch.Generator().manual_seed(step)
    )
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            target = decode_full(autoencoder, noisy)
        decoded = tiny.decode(noisy).sample.float()
        encoded = tiny.encode(pictures).latents.float()
    losses = picture_losses(decoded, target)
    return losses | {"loss": losses["loss"] + 0.2 * mse_loss(encoded, codes)}


def decode_full(autoencoder: AutoencoderKL, codes: Tensor) -> Tensor:
    """Decode scaled latents (n, 4, h / 8, w / 8) to images (n, 3, h, w), float32 in [-1, 1]."""
    unscaled = codes / float(autoencoder.config.scaling_factor)
    decoded: Tensor = autoencoder.decode(unscaled).sample
    return decoded.float().clamp(-1, 1)
