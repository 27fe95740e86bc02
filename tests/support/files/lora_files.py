"""Random LoRA files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

_ENDINGS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.2")


def layers_of(unet: torch.nn.Module, endings: tuple[str, ...] = _ENDINGS) -> list[str]:
    return [name for name, _ in unet.named_modules() if name.endswith(endings)]


def lora_file(path: Path, unet: torch.nn.Module, style: str, seed: int, rank: int) -> Path:
    """A random LoRA in `diffusers` or `kohya` format, with an alpha of its own in the latter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer in layers_of(unet):
        outputs, inputs = unet.get_submodule(layer).weight.shape[:2]
        down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        up = torch.randn(outputs, rank, generator=generator) * 0.1
        if style == "diffusers":
            state[f"unet.{layer}.lora_A.weight"] = down
            state[f"unet.{layer}.lora_B.weight"] = up
        else:
            key = "lora_unet_" + layer.replace(".", "_")
            state[f"{key}.lora_down.weight"] = down
            state[f"{key}.lora_up.weight"] = up
            state[f"{key}.alpha"] = torch.tensor(rank / 2)
    save_file(state, path)
    return path
