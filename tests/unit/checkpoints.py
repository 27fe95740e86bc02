"""Small SDXL checkpoints with the original names, as training code saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.sdxl_set import configurations
from models.sdxl_keys import PREFIXES, moves

CONFIGS = configurations(small=True)


def original_tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A small checkpoint's tensors, with those that only training needed."""
    generator = torch.Generator().manual_seed(11)
    made = {}
    for part in PREFIXES:
        for move in moves(part, CONFIGS[part]):
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
