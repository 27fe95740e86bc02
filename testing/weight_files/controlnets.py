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
    """Return a ControlNet's settings for a UNet, as its publisher would write them.

    Args:
        kind: one of KINDS.
        unet: configuration of the UNet.
        **changes: further settings.
    """
    own: dict[str, Any] = {
        **{key: unet[key] for key in _SHARED},
        "down_block_types": _DOWN,
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
    }
    if unet is not PUBLISHED:
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
    """Return diffusers' network of a kind, with random weights.

    Args:
        kind: one of KINDS.
        unet: configuration of its UNet; at SDXL's published size, the network has no memory.
        **changes: further settings of the ControlNet.
    """
    cls = ControlNetUnionModel if kind in ("union", "promax") else ControlNetModel
    with torch.device("meta" if unet is PUBLISHED else "cpu"):
        made = cls(**settings(kind, unet, **changes))
    if unet is not PUBLISHED:
        generator = torch.Generator().manual_seed(3)
        for tensor in made.parameters():
            # Its outputs start at zero, which would hide the rest.
            tensor.data.normal_(std=0.2, generator=generator)
    return made.eval()


def ldm_tensors(controlnet: Any) -> Tensors:
    """Return the network's tensors with the names of the training code."""
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
    """Write one safetensors file and return its path.

    Args:
        path: the file.
        tensors: its tensors by name.
        prefix: prefix of all names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def write_folder(
    folder: Path,
    controlnet: Any,
    name: str = "diffusion_pytorch_model.safetensors",
    **changes: Any,
) -> Path:
    """Write a folder as diffusers saves it and return its path.

    Args:
        folder: the folder.
        controlnet: the network.
        name: name of the weights' file.
        **changes: changed settings in config.json.
    """
    write_file(folder / name, controlnet.state_dict())
    content = {**json.loads(controlnet.to_json_string()), **changes}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def residuals(controlnet: Any) -> list[torch.Tensor]:
    """Return a ControlNet's residuals for fixed inputs of 64x64 pixels; a union's in depth mode."""
    generator = torch.Generator().manual_seed(0)
    config = controlnet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    depth = torch.rand(1, 3, 64, 64, generator=generator)
    inputs: dict[str, Any] = {
        "sample": torch.randn(1, 4, 8, 8, generator=generator),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": torch.randn(
            1, 77, config.cross_attention_dim, generator=generator
        ),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(1, pooled, generator=generator),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]),
        },
        "controlnet_cond": depth,
        "return_dict": False,
    }
    if isinstance(controlnet, ControlNetUnionModel):
        types = torch.eye(config.num_control_type)[1:2]
        inputs |= {"controlnet_cond": [depth], "control_type": types, "control_type_idx": [1]}
    with torch.inference_mode():
        down, middle = controlnet(**inputs)
    return [*down, middle]
