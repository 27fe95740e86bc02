"""The LoRAs: low-rank changes of the base UNet (Hu et al., 2021), one per look, made with peft."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from models.demo.autoencoder import encode
from models.demo.denoiser import Denoiser
from models.demo.latents import LatentPool
from models.demo.looks import apply_look
from models.demo.pools import Bytes, Pool

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
"""Attention, and the residual blocks too: the first level, which sets tones, has no attention."""


SCALE = 0.8
"""What a LoRA is multiplied with when it is saved: at strength 1.5, well beyond the look it has
learned, the relief must still show."""


class LoraLearner(nn.Module):
    """The base with one LoRA on its UNet; only the LoRA learns and is stored."""

    def __init__(self, denoiser: Denoiser, look: str) -> None:
        super().__init__()
        denoiser.requires_grad_(False)
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS))
        denoiser.unet.add_adapter(config, adapter_name=look)
        # Not a submodule: a checkpoint holds the factors, not the base.
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
        """The base, which the LoRA changes while it learns."""
        return self._denoiser[0]


def look_latents(
    look: str, pools: Sequence[Pool], autoencoder: AutoencoderKL, counts: Sequence[int]
) -> list[LatentPool]:
    """The first `counts` terrains of each pool in every era, in a look, encoded; all in memory."""
    found = []
    for pool, count in zip(pools, counts, strict=True):
        depths: Bytes = np.asarray(pool.depths[:count])
        parts = [_encoded(look, pool.pictures[i], depths[i], autoencoder) for i in range(count)]
        found.append(LatentPool(torch.stack(parts), depths, degraded=False))
    return found


def _encoded(look: str, pictures: Bytes, depth: Bytes, autoencoder: AutoencoderKL) -> Tensor:
    height = depth.astype(np.float32) / 255
    changed = np.stack([apply_look(look, picture, height) for picture in pictures])
    return encode(autoencoder, changed).half()


def save_lora(unet: UNet2DConditionModel, look: str, path: Path) -> None:
    """Write the LoRA in diffusers' format, half precision, multiplied with `SCALE`."""
    scaled = {
        name: tensor * SCALE if name.endswith("lora_B.weight") else tensor
        for name, tensor in get_peft_model_state_dict(unet, adapter_name=look).items()
    }
    StableDiffusionXLPipeline.save_lora_weights(
        path.parent,
        unet_lora_layers={name: tensor.half().contiguous() for name, tensor in scaled.items()},
        weight_name=path.name,
    )
