"""SDXL networks (arXiv:2307.01952) with random weights, created on the device without files."""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    ControlNetUnionModel,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from common.protocol import LoraMode, LoraWeight
from models.catalog import load_catalog
from runners.device import Device
from runners.networks.loading import extract_hint_embedding
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import ControlNet, SdxlModel
from testing.catalog import WEIGHTS
from testing.sdxl_set import configurations, controlnet_config

_LORA_LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
)  # fmt: skip
"""Layers of a UNet that kohya's trainer changes by default: 722 of SDXL's."""
_UNION_TYPES = 8


def random_parts(device: Device, small: bool, is_deep: bool = False) -> dict[str, Any]:
    """Return networks and tokenizers by kind.

    Args:
        device: device and dtype of the networks.
        small: narrow networks of the same layout, with fewer transformer blocks.
        is_deep: give a narrow UNet all transformer blocks of SDXL's.
    """
    networks = empty_networks(small, is_deep)
    for network in networks.values():
        fill(network, device)
    tokenizers = {
        kind: CLIPTokenizer.from_pretrained(WEIGHTS / kind, local_files_only=True)
        for kind in ("tokenizer", "tokenizer_2")
    }
    return {**networks, **tokenizers}


def empty_networks(small: bool = False, is_deep: bool = False) -> dict[str, Any]:
    """Return SDXL's networks and the small ControlNet by kind, on the meta device.

    The arguments are those of `random_parts`. The autoencoder stays finite in half precision, like
    the catalog's.
    """
    configs = configurations(small)
    if is_deep:
        layers = configurations(small=False)["unet"]["transformer_layers_per_block"]
        configs["unet"] = {**configs["unet"], "transformer_layers_per_block": layers}
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config({**configs["vae"], "force_upcast": False}),
            # The defaults of diffusers' class have TAESDXL's shapes.
            "tiny_decoder": AutoencoderTiny(),
            "controlnet": ControlNetModel.from_config(controlnet_config(small)),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig(**configs["text_encoder_2"])
            ),
        }
    return {kind: network.eval() for kind, network in networks.items()}


def fill(network: nn.Module, device: Device) -> None:
    """Initialize a network with random weights that keep deep networks finite."""
    network.to(device.dtype).to_empty(device=device.torch_device)
    generator = torch.Generator(device.torch_device).manual_seed(0)
    for name, tensor in network.named_parameters():
        if tensor.dim() == 1:
            nn.init.constant_(tensor, 1.0 if name.endswith(".weight") else 0.0)
        else:
            scale = 1.0 / math.sqrt(math.prod(tensor.shape[1:]))
            nn.init.normal_(tensor, std=scale, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]))
    network.eval().requires_grad_(False)


def shared_copies(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return new modules that share the same tensors, with the same tokenizers."""
    return {
        kind: _shared_copy(part) if isinstance(part, nn.Module) else part
        for kind, part in parts.items()
    }


def _shared_copy(network: Any) -> Any:
    with torch.device("meta"):
        if hasattr(network, "from_config"):
            twin = type(network).from_config(network.config)
        else:
            twin = type(network)(network.config)
    twin.load_state_dict(network.state_dict(), assign=True)
    for name, buffer in network.named_buffers():
        owner, _, attribute = name.rpartition(".")
        twin.get_submodule(owner).register_buffer(attribute, buffer, persistent=False)
    return twin.eval().requires_grad_(False)


def union_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a union ControlNet that differs from a plain one in its modules."""
    known = inspect.signature(ControlNetUnionModel.__init__).parameters
    width = config["block_out_channels"][0]
    return {
        **{key: value for key, value in config.items() if key in known},
        "num_control_type": _UNION_TYPES,
        "num_trans_channel": width,
        "num_proj_channel": width,
    }


def demo_union() -> ControlNetUnionModel:
    """Return a new union ControlNet, float32 on the CPU, in eval mode.

    It has the eight control types of the published network, and its random modules change pictures
    visibly.
    """
    plain = ControlNetModel.from_pretrained(WEIGHTS / "controlnet", dtype=torch.float32)
    union = ControlNetUnionModel(**union_settings(plain.config))
    incomplete = union.load_state_dict(plain.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(8)
    for name in incomplete.missing_keys:
        tensor = union.get_parameter(name)
        if name.endswith((".ln_1.weight", ".ln_2.weight")):
            continue
        scale = 1.0 if tensor.dim() == 1 else 1.0 / math.sqrt(tensor.shape[1])
        nn.init.normal_(tensor, std=0.5 * scale, generator=generator)
    return union.eval().requires_grad_(False)


def engine_networks(
    parts: Mapping[str, Any], native_size: int, lora_mode: LoraMode = "merged"
) -> tuple[SdxlModel, ControlNet]:
    """Return the networks in the engine's representation."""
    spec = lightning_spec(native_size)
    copy = WorkingCopy() if lora_mode == "merged" else None
    variant = SdxlModel.from_components("lightning", spec, parts, "random", copy)
    return variant, extract_hint_embedding("sdxl_small", parts["controlnet"])


def lightning_spec(native_size: int) -> Any:
    """Return the catalog's `lightning` with another native size, in pixels."""
    spec = load_catalog("experimance").models["lightning"]
    return spec.model_copy(update={"native_size": native_size})


def write_lora(path: Path, unet: nn.Module, rank: int, seed: int) -> None:
    """Write a LoRA (arXiv:2106.09685) for the layers that kohya's trainer changes by default.

    The factors have the UNet's dtype and diffusers' names; for a UNet on the meta device they are
    zeros.

    Args:
        path: the safetensors file to write.
        unet: the UNet.
        rank: rank of the LoRA's matrices.
        seed: seed of the random weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, like: torch.Tensor) -> torch.Tensor:
        if like.is_meta:
            return torch.zeros(shape, dtype=like.dtype)
        return torch.randn(shape, generator=generator).to(like.dtype)

    state = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(_LORA_LAYERS):
            weight = layer.weight
            down = draw(rank, layer.in_features, like=weight) / layer.in_features**0.5
            up = draw(layer.out_features, rank, like=weight) * 0.01
            state[f"unet.{name}.lora_A.weight"] = down
            state[f"unet.{name}.lora_B.weight"] = up
    save_file(state, path)


INSTALLATION_LORAS = (LoraWeight("drone", 0.8), LoraWeight("experimance", 0.4))
"""LoRAs of the installation's request in the wilderness."""


def add_random_loras(variant: SdxlModel, rank: int = 32) -> None:
    """Give a variant the installation's LoRAs with random weights, unless it has them."""
    if set(variant.loras.names) >= {lora.name for lora in INSTALLATION_LORAS}:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lora.safetensors")
        for seed, lora in enumerate(INSTALLATION_LORAS):
            write_lora(path, variant.unet, rank, seed)
            variant.loras.add(lora.name, path)
