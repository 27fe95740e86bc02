"""Configurations of ControlNets: derived from tensors, checked, and compared with UNets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from models.conversion.config import canonicalize_config
from models.conversion.controlnet_key_map import Config, layer_depths, residual_widths
from models.conversion.safetensors_io import Shape, WeightsError

ADVICE = "name a ControlNet for SDXL, such as hf://diffusers/controlnet-depth-sdxl-1.0-small"
_PLAIN, _UNION = "ControlNetModel", "ControlNetUnionModel"
_OWN_CLASSES = frozenset({_PLAIN, _UNION, "ControlNetModel_Union"})
_TASKS = "task_embedding"
_HINT = "controlnet_cond_embedding"
_ATTENTION = "attentions.0.norm.weight"
_OTHER_CLASSES = {
    "FluxControlNetModel": "a ControlNet for Flux",
    "SD3ControlNetModel": "a ControlNet for Stable Diffusion 3",
    "HunyuanDiT2DControlNetModel": "a ControlNet for Hunyuan-DiT",
    "QwenImageControlNetModel": "a ControlNet for Qwen-Image",
    "SparseControlNetModel": "a SparseCtrl ControlNet for AnimateDiff",
    "ControlNetXSAdapter": "a ControlNet-XS, which this service does not apply",
    "T2IAdapter": "a T2I-Adapter, which this service does not apply",
    "UNet2DConditionModel": "a UNet, not a ControlNet",
}
_OTHER_MODELS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner"}
_KOLORS_PROJECTION = 5632
# Settings that do not show in shapes. As diffusers does in `ControlNetModel.from_unet`, they are
# taken from the UNet, of which a ControlNet's encoder is a copy.
_UNET_SETTINGS = (
    "act_fn", "addition_time_embed_dim", "attention_head_dim", "downsample_padding",
    "flip_sin_to_cos", "freq_shift", "mid_block_scale_factor", "norm_eps", "norm_num_groups",
    "num_attention_heads", "only_cross_attention", "resnet_time_scale_shift", "upcast_attention",
)  # fmt: skip
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish", "mish", "gelu", "relu"),
    "addition_embed_type": ("text_time",),
    "class_embed_type": (None,),
    "conditioning_channels": (3,),
    "controlnet_conditioning_channel_order": ("rgb",),
    "downsample_padding": (1,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True, False),
    "freq_shift": (0, 1),
    "global_pool_conditions": (False,),
    "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default",),
    "upcast_attention": (False, True),
    "use_linear_projection": (False, True),
}
"""Values of settings with which a ControlNet takes a depth map and fits SDXL."""
_DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
_MIDDLE_BLOCKS = ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn")
DEPTH_MODE = 1
"""Number of the control type of depth maps in xinsir's union ControlNets."""
_MAX_BLOCKS = 64
"""Bound of the numbers of levels, layers and transformer blocks, against hostile configurations."""
_HINT_LEVELS = 4
"""Levels of a hint embedding that divides sides by eight, as latents do."""


def complete_config(
    content: Mapping[str, Any] | None, shapes: Mapping[str, Shape], unets: Mapping[str, Config]
) -> dict[str, Any]:
    """Return a ControlNet's canonical configuration.

    Args:
        content: its config.json; without any, the configuration is derived from the tensors.
        shapes: shapes of its tensors, by diffusers' name. They alone decide whether it is a union
            ControlNet, because published configurations do not.
        unets: configurations of the UNets that it must fit, by the name of their model.

    Raises:
        WeightsError: it is no ControlNet that these UNets can use; the message says what it is.
    """
    is_union = _TASKS in shapes
    given = _derive(shapes, unets.values()) if content is None else dict(content)
    if is_union:
        given = {"conditioning_embedding_out_channels": _hint_channels(shapes), **given}
        given |= _derive_union(shapes)
    label = str(given.get("_class_name") or _PLAIN)
    if label not in _OWN_CLASSES:
        kind = _OTHER_CLASSES.get(label, f"a {label}, not a ControlNet for SDXL")
        raise WeightsError(f"its configuration is for {kind}; {ADVICE}")
    if given.get("controlnet_conditioning_channel_order") == "bgr":
        # A depth map has three equal channels.
        given["controlnet_conditioning_channel_order"] = "rgb"
    given["_class_name"] = _UNION if is_union else _PLAIN
    config = canonicalize_config("controlnet_union" if is_union else "controlnet", given)
    _check_structure(config)
    check_fit(config, unets)
    _check_settings(config)
    return {**config, "transformer_layers_per_block": _used_depths(config)}


def check_fit(config: Config, unets: Mapping[str, Config]) -> None:
    """Check that a ControlNet takes the inputs and gives the residuals of UNets.

    Args:
        config: canonical configuration of the ControlNet.
        unets: configurations of the UNets, by the name of their model.

    Raises:
        WeightsError: it does not fit one of them; the message says what it is for.
    """
    for model, unet in unets.items():
        own, theirs = _interface(config), _interface(unet)
        if not _reads_text(config):
            del own["cross_attention_dim"]
        for key, found in own.items():
            if found != theirs[key]:
                raise WeightsError(
                    f"{_name_purpose(config, model)}, because its {key} is {found} "
                    f"where {model} has {theirs[key]}; {ADVICE}"
                )


def _interface(config: Config) -> dict[str, Any]:
    """Return what a ControlNet and its UNet must have in common."""
    text = config["cross_attention_dim"]
    return {
        "cross_attention_dim": text[0] if isinstance(text, list) and text else text,
        "addition_embed_type": config["addition_embed_type"],
        "projection_class_embeddings_input_dim": config["projection_class_embeddings_input_dim"],
        "addition_time_embed_dim": config["addition_time_embed_dim"],
        "in_channels": config["in_channels"],
        "list of residual channels": residual_widths(config),
    }


def _used_depths(config: Config) -> list[int]:
    """Return the transformer blocks per level, 1 where none are built."""
    kinds = list(config["down_block_types"])
    if config.get("mid_block_type") != _MIDDLE_BLOCKS[0]:
        # The middle block is as deep as the last level.
        kinds[-1] = _DOWN_BLOCKS[1]
    depths = zip(kinds, layer_depths(config), strict=True)
    return [depth if kind == _DOWN_BLOCKS[1] else 1 for kind, depth in depths]


def _reads_text(config: Config) -> bool:
    kinds = (*config["down_block_types"], config.get("mid_block_type", _MIDDLE_BLOCKS[1]))
    depths = layer_depths(config)
    # The middle block is as deep as the last level.
    return any(
        "CrossAttn" in kind and depth
        for kind, depth in zip(kinds, [*depths, depths[-1]], strict=True)
    )


def _name_purpose(config: Config, model: str) -> str:
    if config["projection_class_embeddings_input_dim"] == _KOLORS_PROJECTION:
        return "a ControlNet for Kolors"
    other = _OTHER_MODELS.get(config["cross_attention_dim"])
    return f"a ControlNet for {other}" if other else f"no ControlNet for {model}"


def _derive(shapes: Mapping[str, Shape], unets: Iterable[Config]) -> dict[str, Any]:
    """Return the settings that tensors show, and a UNet's for the rest."""
    levels = min(_count(shapes, r"down_blocks\.(\d+)\."), _MAX_BLOCKS)
    widths = [
        _shape(shapes, f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(levels)
    ]
    blocks = r"attentions\.0\.transformer_blocks\.(\d+)\."
    depths = [_count(shapes, rf"down_blocks\.{level}\.{blocks}") for level in range(levels)]
    middle = _count(shapes, rf"mid_block\.{blocks}")
    attends = [f"down_blocks.{level}.{_ATTENTION}" in shapes for level in range(levels)]
    has_middle = f"mid_block.{_ATTENTION}" in shapes
    if has_middle and attends and attends[-1] and depths[-1] != middle:
        raise WeightsError(
            f"its middle block has {middle} transformer blocks and its last level {depths[-1]}; "
            "diffusers builds both with equal numbers only"
        )
    if has_middle and depths:
        depths[-1] = middle
    candidates = list(unets)
    unet = next((each for each in candidates if each["block_out_channels"] == widths), None)
    text = [shape for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight")]
    projections = [shape for name, shape in shapes.items() if name.endswith(".proj_in.weight")]
    added = shapes.get("add_embedding.linear_1.weight")
    settings = unet or candidates[0]
    return {key: settings[key] for key in _UNET_SETTINGS} | {
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": [_DOWN_BLOCKS[has] for has in attends],
        "mid_block_type": _MIDDLE_BLOCKS[has_middle],
        "transformer_layers_per_block": depths,
        "use_linear_projection": all(len(shape) == 2 for shape in projections),
        "cross_attention_dim": text[0][-1] if text else settings["cross_attention_dim"],
        "in_channels": _shape(shapes, "conv_in.weight")[1],
        "conditioning_channels": _shape(shapes, f"{_HINT}.conv_in.weight")[1],
        "conditioning_embedding_out_channels": _hint_channels(shapes),
        "addition_embed_type": "text_time" if added else None,
        "projection_class_embeddings_input_dim": added[-1] if added else None,
    }


def _derive_union(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    types, width = _shape(shapes, _TASKS)
    return {
        "num_control_type": types,
        "num_trans_channel": width,
        "num_trans_layer": _count(shapes, r"transformer_layes\.(\d+)\."),
        "num_proj_channel": _shape(shapes, "spatial_ch_projs.weight")[0],
    }


def _hint_channels(shapes: Mapping[str, Shape]) -> list[int]:
    """Return the channels of each level of the hint embedding."""
    numbers = range(1, _count(shapes, rf"{_HINT}\.blocks\.(\d+)\."), 2)
    names = ["conv_in", *(f"blocks.{number}" for number in numbers)]
    return [_shape(shapes, f"{_HINT}.{name}.weight")[0] for name in names]


def _shape(shapes: Mapping[str, Shape], name: str) -> Shape:
    """Return the shape of a matrix or kernel.

    Raises:
        WeightsError: there is none with that name.
    """
    if name not in shapes:
        raise WeightsError(f"incomplete, without {name}")
    if len(shape := shapes[name]) < 2:
        raise WeightsError(f"{name} has the shape {list(shape)}, which is no matrix or kernel")
    return shape


def _count(names: Iterable[str], pattern: str) -> int:
    """Return the number of different values of the pattern's group."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _check_structure(config: Config) -> None:
    """Raise WeightsError unless the settings that determine shapes are numbers of a network."""
    levels = len(_positive(config, "block_out_channels", list))
    if levels > _MAX_BLOCKS:
        _refuse(config, "block_out_channels", f"at most {_MAX_BLOCKS} levels")
    if len(_positive(config, "conditioning_embedding_out_channels", list)) != _HINT_LEVELS:
        _refuse(config, "conditioning_embedding_out_channels", f"{_HINT_LEVELS} numbers")
    depths = layer_depths(config)
    if len(depths) != levels or any(type(depth) is not int or depth < 0 for depth in depths):
        _refuse(config, "transformer_layers_per_block", f"{levels} numbers")
    kinds = config["down_block_types"]
    if not isinstance(kinds, list) or len(kinds) != levels or set(kinds) - set(_DOWN_BLOCKS):
        _refuse(config, "down_block_types", f"{levels} of {', '.join(_DOWN_BLOCKS)}")
    if config.get("mid_block_type", _MIDDLE_BLOCKS[0]) not in _MIDDLE_BLOCKS:
        _refuse(config, "mid_block_type", " or ".join(_MIDDLE_BLOCKS))
    for key in ("layers_per_block", "in_channels", "conditioning_channels", "cross_attention_dim"):
        _positive(config, key, int)
    if max(config["layers_per_block"], *depths) > _MAX_BLOCKS:
        _refuse(config, "layers_per_block", f"at most {_MAX_BLOCKS}, like its transformer layers")
    if config["addition_embed_type"] == "text_time":
        for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
            _positive(config, key, int)


def _check_settings(config: Config) -> None:
    """Raise WeightsError for a setting with which the network cannot be built or evaluated."""
    for key, accepted in _ACCEPTED.items():
        if config[key] not in accepted:
            _refuse(config, key, " or ".join(map(str, accepted)))
    only_cross = config["only_cross_attention"]
    if any(only_cross) if isinstance(only_cross, list) else only_cross:
        _refuse(config, "only_cross_attention", "False")
    for key in ("norm_eps", "mid_block_scale_factor"):
        if not isinstance(config[key], int | float) or not 0 < config[key] < math.inf:
            _refuse(config, key, "a positive number")
    heads = "attention_head_dim" if config["num_attention_heads"] is None else "num_attention_heads"
    for key in ("norm_num_groups", heads):
        numbers = _positive(config, key, int, list)
        widths = config["block_out_channels"]
        if len(numbers) == 1:
            numbers = numbers * len(widths)
        if len(numbers) != len(widths) or any(
            width % number for width, number in zip(widths, numbers, strict=True)
        ):
            _refuse(config, key, f"divisors of {', '.join(map(str, widths))}")
    if "num_control_type" in config:
        first = config["block_out_channels"][0]
        for key in ("num_trans_channel", "num_proj_channel"):
            if config[key] != first:
                _refuse(config, key, str(first))
        if first % _positive(config, "num_trans_head", int)[0]:
            _refuse(config, "num_trans_head", f"a divisor of {first}")
        if config["num_control_type"] <= DEPTH_MODE:
            _refuse(config, "num_control_type", f"more than {DEPTH_MODE}, the number of depth maps")


def _positive(config: Config, key: str, *kinds: type) -> list[int]:
    """Return a setting's positive integers; a single one as a list of one."""
    value = config[key]
    numbers = value if isinstance(value, list) else [value]
    if not isinstance(value, kinds) or not numbers or any(
        type(number) is not int or number < 1 for number in numbers
    ):  # fmt: skip
        _refuse(config, key, "positive integers")
    return numbers


def _refuse(config: Config, key: str, accepted: str) -> NoReturn:
    raise WeightsError(
        f"its {key} is {config[key]}, where a depth ControlNet for SDXL has {accepted}; {ADVICE}"
    )
