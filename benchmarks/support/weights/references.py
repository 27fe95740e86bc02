"""Files that peft and diffusers write, and the outputs that these libraries give for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from benchmarks.support.weights.adapters import measure_adapter, written_adapter
from benchmarks.support.weights.kind import Kind, WrittenKind
from testing.weight_files.networks import Networks, Outputs, demo_parts, outputs

_ADAPTER = "default"
_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
_TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]
_SETTINGS: dict[str, dict[str, Any]] = {
    "LoRA": {"lora_alpha": 8},
    "rsLoRA": {"lora_alpha": 4, "use_rslora": True},
    "patterns": {
        "lora_alpha": 2,
        "rank_pattern": {"attn2.to_k": 8},
        "alpha_pattern": {"attn2.to_k": 32, "attn1.to_q": 1},
    },
    "DoRA": {"lora_alpha": 4, "use_dora": True},
    "LoCon": {"lora_alpha": 8, "target_modules": ["conv1", "conv2", "conv_shortcut"]},
    "DoRA of convolutions": {
        "lora_alpha": 4, "use_dora": True, "target_modules": ["conv1", "conv_shortcut"],
    },
    "bias of lora_B": {
        "lora_alpha": 2, "lora_bias": True, "target_modules": ["to_out.0", "proj_in", "proj_out"],
    },
}  # fmt: skip


def outputs_of_diffusers(file: Path, strength: float) -> Outputs:
    """Return the outputs that diffusers' `load_lora_weights` gives for a file.

    Args:
        file: a safetensors file.
        strength: weight of the adapter.
    """
    networks = demo_parts().copied()
    pipeline: Any = StableDiffusionXLPipeline(
        None, networks.text_encoder, networks.text_encoder_2, None, None, networks.unet,
        EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="own")
    pipeline.set_adapters(["own"], [strength])
    return outputs(networks)


def randomize(network: nn.Module, seed: int = 7) -> None:
    """Give peft's adapters random weights: a new adapter has no effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.named_parameters():
        if ".lora_magnitude_vector." in name:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.data.mul_(1.1 + 0.1 * noise)
        elif ".lora_" in name:
            scale = 0.3 if ".lora_A." in name else 0.1
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * scale)


def train_script_file(
    folder: Path, settings: Mapping[str, Any], text: bool = False
) -> tuple[Path, Networks]:
    """Write a file as diffusers' training scripts do, and return it with the networks it is from.

    Args:
        folder: folder of the file.
        settings: settings of peft's LoraConfig for the UNet.
        text: whether the text encoders have adapters, too.
    """
    networks = demo_parts().copied()
    arguments: dict[str, Any] = {}
    parts: list[tuple[str, Any]] = [("unet", networks.unet)]
    if text:
        parts += [("text_encoder", networks.text_encoder)]
        parts += [("text_encoder_2", networks.text_encoder_2)]
    for part, network in parts:
        own = settings if part == "unet" else {"lora_alpha": 2, "target_modules": _TEXT_LAYERS}
        config = LoraConfig(**{"r": 4, "target_modules": _LAYERS, **own})
        network.add_adapter(config)
        randomize(network)
        state = get_peft_model_state_dict(network, adapter_name=_ADAPTER)
        arguments[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(state)
        arguments[f"{part}_lora_adapter_metadata"] = config.to_dict()
    StableDiffusionXLPipeline.save_lora_weights(folder, **arguments)
    return folder / "pytorch_lora_weights.safetensors", networks


def peft_file(folder: Path) -> tuple[Path, Networks]:
    """Write a file by peft's `save_pretrained`, and return it with the networks it is from."""
    networks = demo_parts().copied()
    # peft keeps alpha in another file, so only alpha = rank is known from this one.
    config = LoraConfig(r=4, lora_alpha=4, target_modules=_LAYERS)
    model = get_peft_model(networks.unet, config)  # type: ignore[arg-type]
    randomize(networks.unet)
    model.save_pretrained(str(folder))
    return folder / "adapter_model.safetensors", networks


def peft_state_file(folder: Path) -> tuple[Path, Networks]:
    """Write peft's tensors with the adapter's name, as a model's `state_dict` has them."""
    networks = demo_parts().copied()
    config = LoraConfig(r=4, lora_alpha=4, target_modules=_LAYERS)
    model = get_peft_model(networks.unet, config, adapter_name="style")  # type: ignore[arg-type]
    randomize(networks.unet)
    state = {key: tensor for key, tensor in model.state_dict().items() if ".lora_" in key}
    save_file(state, folder / "state.safetensors")
    return folder / "state.safetensors", networks


def library_kinds() -> list[Kind]:
    """Return files written by peft and diffusers themselves, with their outputs."""
    found = [
        _kind(f"diffusers' script: {name}", lambda folder, own=own: train_script_file(folder, own))
        for name, own in _SETTINGS.items()
    ]
    return [
        *found,
        _kind(
            "diffusers' script: all networks",
            lambda folder: train_script_file(folder, {"lora_alpha": 8}, text=True),
        ),
        _kind("peft's save_pretrained", peft_file),
        _kind("peft's state with an adapter's name", peft_state_file),
    ]


def _kind(name: str, make: Callable[[Path], tuple[Path, Networks]]) -> Kind:
    def write(folder: Path) -> WrittenKind:
        file, networks = make(folder)
        return written_adapter(file, measure_adapter(outputs(networks)))

    return Kind(name, "exact", write)
