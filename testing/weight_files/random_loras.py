"""Random LoRA files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

_ENDINGS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.2")
_TEXT_ENDINGS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "text_projection")


def layers_of(network: torch.nn.Module, endings: tuple[str, ...] = _ENDINGS) -> list[str]:
    """Return the names of the modules with one of the endings."""
    return [name for name, _ in network.named_modules() if name.endswith(endings)]


def lora_file(
    path: Path,
    unet: torch.nn.Module,
    style: str,
    seed: int,
    rank: int,
    text_encoders: Sequence[torch.nn.Module] = (),
) -> Path:
    """A random LoRA in `diffusers` or `kohya` format, with an alpha of its own in the latter."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def add(network: torch.nn.Module, layer: str, key: str) -> None:
        outputs, inputs = network.get_submodule(layer).weight.shape[:2]
        down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        up = torch.randn(outputs, rank, generator=generator) * 0.1
        if style == "diffusers":
            state[f"{key}.lora_A.weight"] = down
            state[f"{key}.lora_B.weight"] = up
        else:
            state[f"{key}.lora_down.weight"] = down
            state[f"{key}.lora_up.weight"] = up
            state[f"{key}.alpha"] = torch.tensor(rank / 2)

    for layer in layers_of(unet):
        kohya = "lora_unet_" + layer.replace(".", "_")
        add(unet, layer, kohya if style == "kohya" else f"unet.{layer}")
    for number, encoder in enumerate(text_encoders):
        for layer in layers_of(encoder, _TEXT_ENDINGS):
            # Trainers' names have a part that newer versions of transformers leave out.
            name = layer if layer.startswith("text_") else f"text_model.{layer}"
            kohya = f"lora_te{number + 1}_" + name.replace(".", "_")
            other = f"text_encoder{'_2' if number else ''}.{name}"
            add(encoder, layer, kohya if style == "kohya" else other)
    save_file(state, path)
    return path
