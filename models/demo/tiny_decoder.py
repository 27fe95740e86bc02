"""A small decoder for previews: a distilled autoencoder in TAESD's shape.

After Bohan, TAESD (2023): plain convolutions without norms or attention, which map the large
autoencoder's scaled latents to its pictures and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn.functional import mse_loss

from models.demo.autoencoder import picture_losses
from models.demo.latents import LatentPool
from models.demo.pools import Pool
from models.demo.sharpening import random_pairs
from models.demo.training import Losses

WIDTH = 16
LATENT_NOISE = 0.1
"""Deviation of noise on the latents, as a share of theirs: previews are of unfinished latents."""


def make_tiny_decoder() -> AutoencoderTiny:
    """Scaled latents (n, 4, h / 8, w / 8) to pictures (n, 3, h, w) in [-1, 1], and back."""
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
    """Decoder against the large decoder's picture of the same latents; encoder against latents."""
    rng = np.random.default_rng((19, step))
    codes, pictures = random_pairs(pools, latents, rng, batch)
    codes = codes * float(autoencoder.config.scaling_factor)
    noisy = codes + LATENT_NOISE * torch.randn(
        codes.shape, generator=torch.Generator().manual_seed(step)
    )
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            wanted = decode_full(autoencoder, noisy)
        decoded = tiny.decode(noisy).sample.float()
        encoded = tiny.encode(pictures).latents.float()
    losses = picture_losses(decoded, wanted)
    return losses | {"loss": losses["loss"] + 0.2 * mse_loss(encoded, codes)}


def decode_full(autoencoder: AutoencoderKL, codes: Tensor) -> Tensor:
    """The large decoder's pictures of scaled latents, clamped to [-1, 1], float32."""
    unscaled = codes / float(autoencoder.config.scaling_factor)
    decoded: Tensor = autoencoder.decode(unscaled).sample
    return decoded.float().clamp(-1, 1)
