"""LoRAs of the base UNet (Hu et al., arXiv:2106.09685), one per look, trained with peft."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from models.demo.training.data.looks import apply_look
from models.demo.training.latents import LatentPool
from models.demo.training.networks.autoencoder import encode
from models.demo.training.networks.denoiser import Denoiser
from models.demo.training.pools import Bytes, Pool

RANK = 8
TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "conv1",
    "conv2",
    "time_emb_proj",
)
"""Attention and residual blocks, because the first level, which sets tones, has no attention."""

SCALE = 0.8
"""Factor of a saved LoRA, chosen so that the relief is still visible at strength 1.5."""


class LoraLearner(nn.Module):
    """The base with one LoRA on its UNet; only the LoRA is trained and stored."""

    def __init__(self, denoiser: Denoiser, look: str) -> None:
        super().__init__()
        denoiser.requires_grad_(False)
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS))
        denoiser.unet.add_adapter(config, adapter_name=look)
        # The list hides the base from nn.Module, so that checkpoints have only the factors.
        self._denoiser = [denoiser]
        self.factors = nn.ParameterDict(
            {
                name.replace(".", "/"): parameter
                for name, parameter in denoiser.unet.named_parameters()
                if parameter.requires_grad
            }
        )

    @property
    def denoiser(self) -> Denoiser:
        """The base, with the LoRA active."""
        return self._denoiser[0]


def look_latents(
    look: str, pools: Sequence[Pool], autoencoder: AutoencoderKL, counts: Sequence[int]
) -> list[LatentPool]:
    """Render terrains of each pool in a look and every era, and encode them, all in memory.

    Args:
        look: Name of the look, a key of LOOKS.
        pools: Rendered images.
        autoencoder: Trained autoencoder.
        counts: Number of terrains of each pool, from its first.
    """
    encoded = []
    for pool, count in zip(pools, counts, strict=True):
        depths: Bytes = np.asarray(pool.depths[:count])
        parts = [_encode_look(look, pool.pictures[i], depths[i], autoencoder) for i in range(count)]
        encoded.append(LatentPool(torch.stack(parts), depths, degraded=False))
    return encoded


def _encode_look(look: str, pictures: Bytes, depth: Bytes, autoencoder: AutoencoderKL) -> Tensor:
    height = depth.astype(np.float32) / 255
    changed = np.stack([apply_look(look, picture, height) for picture in pictures])
    return encode(autoencoder, changed).half()


def save_lora(unet: UNet2DConditionModel, look: str, path: Path) -> None:
    """Write the LoRA in diffusers' format, in float16, multiplied by `SCALE`.

    Args:
        unet: UNet with the LoRA.
        look: Name of the LoRA's adapter.
        path: Safetensors file to write.
    """
    scaled = {
        name: tensor * SCALE if name.endswith("lora_B.weight") else tensor
        for name, tensor in get_peft_model_state_dict(unet, adapter_name=look).items()
    }
    StableDiffusionXLPipeline.save_lora_weights(
        path.parent,
        unet_lora_layers={name: tensor.half().contiguous() for name, tensor in scaled.items()},
        weight_name=path.name,
    )
