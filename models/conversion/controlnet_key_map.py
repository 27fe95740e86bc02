"""Names and shapes of a ControlNet's tensors.

Files have diffusers' names, or those of the training code (arXiv:2302.05543), and either may have a
prefix. A ControlNet consists of the UNet's encoder and of modules of its own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from models.conversion.safetensors_io import Shape
from models.conversion.sdxl_key_map import key_mappings

Config = Mapping[str, Any]

PREFIXES = ("control_model.", "controlnet.", "")
_HINTS = ("controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight")
_DECODER = ("up_blocks.", "conv_norm_out.", "conv_out.")
_MIDDLE_ATTENTION = ("mid_block.attentions.", "mid_block.resnets.1.")

_LAYERS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block_out.0": "controlnet_mid_block",
}
_MIDDLE = {
    "0": "mid_block.resnets.0",
    "1": "mid_block.attentions.0",
    "2": "mid_block.resnets.1",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def find_prefix(names: Collection[str]) -> str | None:
    """Return the prefix of a ControlNet's tensors in a file; None if it contains no ControlNet."""
    return next(
        (prefix for prefix in PREFIXES if any(prefix + hint in names for hint in _HINTS)), None
    )


def to_diffusers_names(names: Collection[str]) -> dict[str, str]:
    """Return diffusers' name of each tensor, by its name without prefix; unknown names stay."""
    if _HINTS[1] not in names:
        return {name: name for name in names}
    blocks = _number_blocks(names)
    last = max(
        int(found[1]) for name in names if (found := re.match(r"input_hint_block\.(\d+)\.", name))
    )
    return {name: _translate(name, blocks, last) for name in names}


def _number_blocks(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return the names of the resnet and the attention, or twice the downsampler, by block."""
    numbers = {
        int(found[1]) for name in names if (found := re.match(r"input_blocks\.(\d+)\.", name))
    }
    level = layer = 0
    blocks = {}
    for number in sorted(numbers - {0}):
        if f"input_blocks.{number}.0.op.weight" in names:
            downsampler = f"down_blocks.{level}.downsamplers.0"
            blocks[str(number)] = (downsampler, downsampler)
            level, layer = level + 1, 0
        else:
            there = f"down_blocks.{level}"
            blocks[str(number)] = (f"{there}.resnets.{layer}", f"{there}.attentions.{layer}")
            layer += 1
    return blocks


def _translate(name: str, blocks: Mapping[str, tuple[str, str]], last: int) -> str:
    """Return diffusers' name of a tensor with the training code's name, or the name itself.

    Args:
        name: name of the tensor.
        blocks: result of `_number_blocks`.
        last: number of the hint embedding's last layer.
    """
    layer, _, kind = name.rpartition(".")
    if layer in _LAYERS:
        return f"{_LAYERS[layer]}.{kind}"
    parts = layer.split(".")
    match parts:
        case ["zero_convs", number, "0"]:
            return f"controlnet_down_blocks.{number}.{kind}"
        case ["input_hint_block", number] if number.isdecimal():
            return f"controlnet_cond_embedding.{_hint_layer(int(number), last)}.{kind}"
        case ["input_blocks", number, "0", "op"] if number in blocks:
            return f"{blocks[number][0]}.conv.{kind}"
        case ["input_blocks", number, "0", *inner] if number in blocks:
            return f"{blocks[number][0]}.{_RESNET.get('.'.join(inner), '.'.join(inner))}.{kind}"
        case ["input_blocks", number, "1", *inner] if number in blocks:
            return f"{blocks[number][1]}.{'.'.join(inner)}.{kind}"
        case ["middle_block", number, *inner] if number in _MIDDLE:
            return f"{_MIDDLE[number]}.{_RESNET.get('.'.join(inner), '.'.join(inner))}.{kind}"
    return name


def _hint_layer(number: int, last: int) -> str:
    # An activation without weights follows each convolution.
    if number in (0, last):
        return "conv_in" if number == 0 else "conv_out"
    return f"blocks.{number // 2 - 1}"


def controlnet_shapes(config: Config) -> dict[str, Shape]:
    """Return the shape of each tensor of a ControlNet, by diffusers' name.

    Args:
        config: canonical configuration of a ControlNetModel or a ControlNetUnionModel.
    """
    depths = layer_depths(config)
    encoder = {
        **config,
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "out_channels": config["in_channels"],
        "time_cond_proj_dim": None,
    }
    shapes = {
        move.target: move.shape
        for move in key_mappings("unet", encoder)
        if not move.target.startswith(_DECODER)
    }
    # An attention without transformer blocks still has its normalisation and projections.
    empty = [f"down_blocks.{level}." for level, depth in enumerate(depths) if not depth]
    empty += [] if depths[-1] else ["mid_block."]
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if ".transformer_blocks." not in name or not name.startswith(tuple(empty))
    }
    if config.get("mid_block_type") == "UNetMidBlock2D":
        shapes = {
            name: shape for name, shape in shapes.items() if not name.startswith(_MIDDLE_ATTENTION)
        }
    if not config["use_linear_projection"]:
        for name, shape in shapes.items():
            if name.endswith((".proj_in.weight", ".proj_out.weight")):
                shapes[name] = (*shape, 1, 1)
    return {**shapes, **dict(_own_shapes(config)), **dict(_union_shapes(config))}


def layer_depths(config: Config) -> list[int]:
    """Return the number of transformer blocks per attention, for each level."""
    depths = config["transformer_layers_per_block"]
    levels = len(config["block_out_channels"])
    return list(depths) if isinstance(depths, list | tuple) else [depths] * levels


def residual_widths(config: Config) -> list[int]:
    """Return the channels of each skip connection of a UNet or a ControlNet."""
    widths: list[int] = config["block_out_channels"]
    layers = config["layers_per_block"]
    counts = layers if isinstance(layers, list | tuple) else [layers] * len(widths)
    result = [widths[0]]
    for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
        downsamplers = 1 if level < len(widths) - 1 else 0
        result += [width] * (count + downsamplers)
    return result


def _layer(name: str, *shape: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _own_shapes(config: Config) -> Iterator[tuple[str, Shape]]:
    embedding = "controlnet_cond_embedding"
    channels = config["conditioning_embedding_out_channels"]
    first, last = config["block_out_channels"][0], config["block_out_channels"][-1]
    yield from _layer(f"{embedding}.conv_in", channels[0], config["conditioning_channels"], 3, 3)
    number = 0
    for entering, leaving in itertools.pairwise(channels):
        for width in (entering, leaving):
            yield from _layer(f"{embedding}.blocks.{number}", width, entering, 3, 3)
            number += 1
    yield from _layer(f"{embedding}.conv_out", first, channels[-1], 3, 3)
    for number, width in enumerate(residual_widths(config)):
        yield from _layer(f"controlnet_down_blocks.{number}", width, width, 1, 1)
    yield from _layer("controlnet_mid_block", last, last, 1, 1)


def _union_shapes(config: Config) -> Iterable[tuple[str, Shape]]:
    if "num_control_type" not in config:
        return
    types, width = config["num_control_type"], config["num_trans_channel"]
    time = 4 * config["block_out_channels"][0]
    yield "task_embedding", (types, width)
    yield from _layer("spatial_ch_projs", config["num_proj_channel"], width)
    embedded = types * config["addition_time_embed_dim"]
    yield from _layer("control_add_embedding.linear_1", time, embedded)
    yield from _layer("control_add_embedding.linear_2", time, time)
    for number in range(config["num_trans_layer"]):
        block = f"transformer_layes.{number}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _layer(f"{block}.attn.out_proj", width, width)
        yield from _layer(f"{block}.mlp.c_fc", 4 * width, width)
        yield from _layer(f"{block}.mlp.c_proj", width, 4 * width)
        for norm in ("ln_1", "ln_2"):
            yield from _layer(f"{block}.{norm}", width)
