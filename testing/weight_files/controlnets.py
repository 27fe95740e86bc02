"""Small random ControlNets of each kind, with diffusers' and the training code's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from safetensors.torch import save_file

from models.conversion.controlnet_key_map import layer_depths
from models.conversion.sdxl_key_map import key_mappings
from testing.sdxl_set import configurations

UNET = configurations(small=True)["unet"]
PUBLISHED = configurations(small=False)["unet"]
KINDS = ("full", "mid", "flat", "bare", "small", "union", "promax")
_DEPTHS = {"mid": [1, 1, 1], "flat": [0, 0, 1], "bare": [0, 0, 0], "small": [1, 1, 1]}
_SHARED = (
    "addition_embed_type", "addition_time_embed_dim", "attention_head_dim", "block_out_channels",
    "cross_attention_dim", "norm_num_groups", "projection_class_embeddings_input_dim",
    "use_linear_projection",
)  # fmt: skip
_DOWN = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
Tensors = dict[str, torch.Tensor]


def settings(kind: str, unet: dict[str, Any] = UNET, **changes: Any) -> dict[str, Any]:
    """A ControlNet's settings for a UNet, as its publisher would write them."""
    own: dict[str, Any] = {
        **{key: unet[key] for key in _SHARED},
        "down_block_types": _DOWN,
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
    }
    if unet is UNET:
        own["conditioning_embedding_out_channels"] = [8, 16, 24, 32]
    own["transformer_layers_per_block"] = _DEPTHS.get(kind, unet["transformer_layers_per_block"])
    if kind == "small":
        own |= {"down_block_types": ["DownBlock2D"] * 3, "mid_block_type": "UNetMidBlock2D"}
    if kind in ("union", "promax"):
        width = unet["block_out_channels"][0]
        own |= {"num_control_type": 8 if kind == "promax" else 6}
        own |= {"num_trans_channel": width, "num_proj_channel": width}
    return {**own, **changes}


def network(kind: str, unet: dict[str, Any] = UNET, **changes: Any) -> Any:
    """Network of diffusers of a kind, with random weights; without memory if it is SDXL's size."""
    cls = ControlNetUnionModel if kind in ("union", "promax") else ControlNetModel
    with torch.device("cpu" if unet is UNET else "meta"):
        made = cls(**settings(kind, unet, **changes))
    if unet is UNET:
        generator = torch.Generator().manual_seed(3)
        for tensor in made.parameters():
            # Its outputs start at zero, which would hide the rest.
            tensor.data.normal_(std=0.2, generator=generator)
    return made.eval()


def ldm_tensors(controlnet: Any) -> Tensors:
    """The network's tensors with the names of the training code."""
    depths = layer_depths(controlnet.config)
    # An attention without transformer blocks has names too.
    deep = [max(depth, 1) for depth in depths]
    config = {**UNET, **controlnet.config, "transformer_layers_per_block": deep}
    renamed = {
        move.target: move.source.removeprefix("model.diffusion_model.")
        for move in key_mappings("unet", config)
    }
    hint = "controlnet_cond_embedding"
    convolutions = ["conv_in", *(f"blocks.{number}" for number in range(6)), "conv_out"]
    layers = {
        f"{hint}.{name}": f"input_hint_block.{2 * number}"
        for number, name in enumerate(convolutions)
    }
    residuals = range(len(controlnet.controlnet_down_blocks))
    layers |= {f"controlnet_down_blocks.{number}": f"zero_convs.{number}.0" for number in residuals}
    layers["controlnet_mid_block"] = "middle_block_out.0"
    result = {}
    for name, tensor in controlnet.state_dict().items():
        layer, _, kind = name.rpartition(".")
        found = f"{layers[layer]}.{kind}" if layer in layers else renamed[name]
        result[found] = tensor.clone()
    return result


def write_file(path: Path, tensors: Tensors, prefix: str = "") -> Path:
    """One safetensors file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def write_folder(
    folder: Path,
    controlnet: Any,
    name: str = "diffusion_pytorch_model.safetensors",
    **changes: Any,
) -> Path:
    """A folder as diffusers saves it, with changed settings; returns its path."""
    write_file(folder / name, controlnet.state_dict())
    content = {**json.loads(controlnet.to_json_string()), **changes}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
