"""Names of tensors in adapter files: network, layer, and role of the tensor.

The names are those of kohya's sd-scripts, LyCORIS, diffusers, peft, ComfyUI and OneTrainer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRAPPERS = ("base_model.model.", "module.", "_orig_mod.")
"""Prefixes of libraries that wrap a network."""

_NETWORKS = (
    ("lora_unet_", "unet"), ("lycoris_unet_", "unet"), ("lycoris_", "unet"), ("oft_unet_", "unet"),
    ("unet.", "unet"), ("model.diffusion_model.", "unet"), ("diffusion_model.", "unet"),
    ("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2"), ("lora_te_", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"), ("text_encoder.", "text_encoder"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.clip_l.", "text_encoder"), ("text_encoders.clip_g.", "text_encoder_2"),
    ("clip_l.transformer.", "text_encoder"), ("clip_g.transformer.", "text_encoder_2"),
    ("clip_l.", "text_encoder"), ("clip_g.", "text_encoder_2"),
    ("conditioner.embedders.0.transformer.", "text_encoder"),
    ("conditioner.embedders.1.model.", "text_encoder_2"),
)  # fmt: skip
"""Prefixes of a network, longer ones first, and its name."""

_ROLES = (
    # Before the factors, whose pattern takes `alpha` for the name of an adapter.
    (r"(\.lora|_lora|\.lora_linear_layer)(\.down\.weight)?\.alpha", "alpha"),
    (r"\.lora_(A|down)(\.[^.]+)??(\.weight)?\.alpha", "alpha"),
    (r"\.alpha", "alpha"),
    # peft, with the name of the adapter or without.
    (r"\.lora_A(\.[^.]+)??(\.weight)?", "down"),
    (r"\.lora_B(\.[^.]+)??\.bias", "up_bias"),
    (r"\.lora_B(\.[^.]+)??(\.weight)?", "up"),
    (r"\.lora_magnitude_vector(\.[^.]+)??(\.weight)?", "row_magnitude"),
    # kohya and LyCORIS.
    (r"\.lora_down\.weight", "down"),
    (r"\.lora_mid\.weight", "mid"),
    (r"\.lora_up\.weight", "up"),
    (r"\.lora_up\.bias", "up_bias"),
    (r"\.dora_scale", "magnitude"),
    # diffusers' older formats.
    (r"(\.lora|_lora|\.lora_linear_layer)\.down\.weight", "down"),
    (r"(\.lora|_lora|\.lora_linear_layer)\.up\.weight", "up"),
    # In peft's state, the factors too have the name of the adapter.
    (r"\.hada_(w1_a|w1_b|w2_a|w2_b|t1|t2)(\.[^.]+)?", "hada"),
    (r"\.lokr_(w1|w1_a|w1_b|w2|w2_a|w2_b|t1|t2)(\.[^.]+)?", "lokr"),
    (r"\.diff", "diff"),
    (r"\.diff_b", "bias"),
    (r"\.w_norm", "diff"),
    (r"\.b_norm", "bias"),
    # Families that are recognised but not applied.
    (r"\.(oft_blocks|oft_diag|oft_R(\.[^.]+)??(\.weight)?)", "oft"),
    (r"\.(a1|a2|b1|b2|bm1|bm2)(\.weight)?", "glora"),
    (r"\.(on_input|ia3_l(\.[^.]+)?)", "ia3"),
    (r"\.(set_weight|reshape_weight|scalar)", "other"),
)  # fmt: skip
_ROLE_PATTERNS = tuple((re.compile(rf"(.+?){pattern}"), role) for pattern, role in _ROLES)


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """Parsed name of a tensor in an adapter file.

    `part` is the network, "" if the name has none. `layer` is the layer's name in the file's own
    spelling. `role` is what the tensor is in its family, such as `up`, `alpha` or `w1_a`.
    """

    part: str
    layer: str
    role: str


def parse_key(key: str) -> AdapterKey | None:
    """Return the parsed name of a tensor, or None if it is no tensor of an adapter."""
    for pattern, role in _ROLE_PATTERNS:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        if role in {"hada", "lokr"}:
            role = f"{role}_{match.group(2)}"
        part, layer = split_network(match.group(1))
        # The older processors stand between the attention layer and its projection.
        return AdapterKey(part, layer.replace(".processor.", "."), role)
    return None


def split_network(name: str) -> tuple[str, str]:
    """Return the network that a name's prefix states, "" without one, and the rest of the name."""
    while wrapper := next((prefix for prefix in _WRAPPERS if name.startswith(prefix)), None):
        name = name.removeprefix(wrapper)
    for prefix, part in _NETWORKS:
        if name.startswith(prefix):
            return part, name.removeprefix(prefix)
    return "", name
