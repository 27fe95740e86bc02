"""Small SDXL checkpoints with the original names, and the configurations they follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.component_config import complete
from models.sdxl_keys import PREFIXES, Move, moves

_TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_SMALL: dict[str, dict[str, Any]] = {
    "text_encoder": {**_TEXT, "projection_dim": 32},
    "text_encoder_2": {**_TEXT, "hidden_act": "gelu", "projection_dim": 48},
    "unet": {
        "block_out_channels": [32, 64, 96],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 3],
        "attention_head_dim": [2, 4, 6],
        "cross_attention_dim": 64,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 48 + 6 * 8,
        "use_linear_projection": True,
        "norm_num_groups": 8,
        "sample_size": 32,
    },
    "vae": {
        "block_out_channels": [8, 16, 24, 24],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "sample_size": 64,
        "scaling_factor": 0.13025,
    },
}
CONFIGS = {kind: complete(kind, config) for kind, config in _SMALL.items()}


def all_moves(configs: dict[str, dict[str, Any]] = CONFIGS) -> dict[str, list[Move]]:
    """Every tensor of every part."""
    return {part: moves(part, configs[part]) for part in PREFIXES}


def original_tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A small checkpoint's tensors, with those that only training needed."""
    generator = torch.Generator().manual_seed(11)
    made = {}
    for moved in all_moves().values():
        for move in moved:
            if move.source not in made:
                values = torch.randn(move.source_shapes[0], generator=generator) / 8
                made[move.source] = values.to(dtype)
    positions = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    made[positions] = torch.arange(77)[None]
    made["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6, dtype=dtype)
    made["denoiser.sigmas"] = torch.linspace(0, 1, 1000, dtype=dtype)
    return made


def write_configs(folder: Path) -> Path:
    """The small configurations as files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, config in CONFIGS.items():
        (folder / f"{part}.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A single-file checkpoint as training code saves it; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors or original_tensors(), path)
    return path
