"""Small SDXL checkpoints with the original names, as training code saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from models.conversion.sdxl_key_map import PREFIXES, key_mappings
from testing.sdxl_set import configurations

CONFIGS = configurations(small=True)


def original_tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A small checkpoint's tensors, with those that only training needed."""
    generator = torch.Generator().manual_seed(11)
    made = {}
    for part in PREFIXES:
        for move in key_mappings(part, CONFIGS[part]):
            if move.source not in made:
                values = torch.randn(move.source_shapes[0], generator=generator) / 8
                made[move.source] = values.to(dtype)
    positions = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    made[positions] = torch.arange(77)[None]
    made["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6, dtype=dtype)
    made["denoiser.sigmas"] = torch.linspace(0, 1, 1000, dtype=dtype)
    return made


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A single-file checkpoint; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def network(part: str, config: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        if part == "unet":
            return UNet2DConditionModel.from_config(config)
        if part == "vae":
            return AutoencoderKL.from_config(config)
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**config))
        return CLIPTextModelWithProjection(CLIPTextConfig(**config))


def converted(part: str, config: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    """What diffusers makes of the original tensors."""
    if part == "unet":
        return convert_ldm_unet_checkpoint(original, config)
    if part == "vae":
        return convert_ldm_vae_checkpoint(original, config)
    if part == "text_encoder":
        return convert_ldm_clip_checkpoint(original)
    text_model = network(part, config)
    return convert_open_clip_checkpoint(text_model, original, PREFIXES[part])
