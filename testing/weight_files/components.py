"""Tensors of the demo set's components, in the namings of single files."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from models.conversion.component import weight_name
from models.conversion.config import read_config
from models.conversion.sdxl_key_map import key_mappings
from testing.workbench import WEIGHTS


def in_library_names(kind: str) -> dict[str, torch.Tensor]:
    """Return the demo's component with the names of its library."""
    return load_file(WEIGHTS / kind / weight_name(kind))


def in_training_names(kind: str) -> dict[str, torch.Tensor]:
    """Return the demo's component as a part of a checkpoint in the training code's names."""
    weights = in_library_names(kind)
    weights |= {f"text_model.{name}": tensor for name, tensor in weights.items()}
    stacked: dict[str, list[torch.Tensor]] = {}
    for move in key_mappings(kind, read_config(kind, WEIGHTS / kind)):
        tensor = weights[move.target]
        tensor = tensor.T if move.transposed else tensor
        stacked.setdefault(move.source, []).append(tensor.reshape(-1, *move.source_shapes[0][1:]))
    return {name: torch.cat(rows).contiguous() for name, rows in stacked.items()}
