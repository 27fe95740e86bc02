"""Detection of non-SDXL weight files by tensor names, for error messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from models.conversion.safetensors_io import TensorEntry

_UNET = "model.diffusion_model."

# The first match wins, so whole checkpoints of other models precede their parts.
_KINDS = (
    (r"(^|\.)lora_(down|up|A|B|unet|te)|\.lora\.|hada_w1|lokr_w1|oft_blocks", "a LoRA"),
    (r"(^|\.)double_blocks\.\d+\.img_attn", "a Flux checkpoint"),
    (r"(^|\.)joint_blocks\.\d+\.", "a Stable Diffusion 3 checkpoint"),
    (r"^cond_stage_model\.model\.", "a Stable Diffusion 2 checkpoint"),
    (r"^cond_stage_model\.", "a Stable Diffusion 1 checkpoint"),
    (r"^conditioner\.embedders\.0\.model\.", "an SDXL refiner"),
    (r"^control_model\.|controlnet_cond_embedding|input_hint_block", "a ControlNet"),
    (r"(^|\.)motion_modules\.", "a motion module"),
    (r"^(down|up)_blocks\.\d+\.", "a UNet alone, with diffusers' names: give it as unet ="),
    (r"^(encoder|decoder)\.(mid|conv_in|down|up)", "an autoencoder alone: give it as vae ="),
    (r"string_to_param|^(emb_params|clip_[gl])$", "a textual inversion"),
)
_OTHER_INPUTS = {
    8: "an editing model (its UNet takes 8 channels)",
    9: "an inpainting model (its UNet takes 9 channels)",
}

# The first match wins, so files with names of several kinds come first.
_CONTROLS = (
    (r"^lora_controlnet$", "a control-LoRA, which this service does not apply"),
    (r"lllite_", "a ControlNet-LLLite, which this service does not apply"),
    (r"(^|\.)ip_adapter\.|^image_proj\.", "an IP-Adapter, which this service does not apply"),
    (r"^(adapter\.)?body\.\d+\.", "a T2I-Adapter, which this service does not apply"),
    (r"^style_embedding$", "a T2I style adapter, which this service does not apply"),
    (r"base_to_c(on)?tro?l|c(on)?tro?l_to_base|enc_zero_convs",
     "a ControlNet-XS, which this service does not apply"),
    (r"(^|\.)motion_modules\.", "a SparseCtrl ControlNet or a motion module for AnimateDiff"),
    (r"^difference$", "the difference between a ControlNet and another model"),
    (r"(^|\.)control_(img_in|blocks)\.|\.img_mlp\.net", "a ControlNet for Qwen-Image"),
    (r"(^|\.)(double_blocks|single_transformer_blocks|controlnet_single_blocks)\.\d+\.",
     "a ControlNet for Flux"),
    (r"^controlnet_(x_embedder|mode_embedder)\.", "a ControlNet for Flux"),
    (r"^pos_embed_input\.|(^|\.)joint_blocks\.\d+\.", "a ControlNet for Stable Diffusion 3"),
    (r"^(after_proj_list|before_proj|controlnet_blocks)\.",
     "a ControlNet for a transformer, such as Hunyuan-DiT"),
    (r"^control_(all_x_embedder|layers|noise_refiner)\.", "a ControlNet for Z-Image"),
    (r"^backbone\.\d+\.", "a ControlNet for Stable Cascade"),
    (r"^encoder_hid_proj\.", "a ControlNet for Kolors"),
    (r"(^|[._])lora_(down|up|A|B|unet|te)|\.lora\.|hada_w1|lokr_w1",
     "a LoRA, not a ControlNet: name it as the source of a loras entry"),
)  # fmt: skip
_CONTROLNET = r"controlnet_cond_embedding|input_hint_block"
_CHECKPOINT = r"^(model\.diffusion_model|conditioner)\."


def detect_non_controlnet(names: Iterable[str]) -> str | None:
    """Return the kind of a file that is no ControlNet for SDXL's UNet, or None if it may be one.

    Stable Diffusion's other ControlNets have the same names; their shapes tell them apart.
    """
    found = list(names)
    for pattern, kind in _CONTROLS:
        if any(re.search(pattern, name) for name in found):
            return kind
    if any(re.search(_CONTROLNET, name) for name in found):
        return None
    if any(re.search(_CHECKPOINT, name) for name in found):
        return "a checkpoint, not a ControlNet: name it as the source of a models entry"
    return next(
        (kind for pattern, kind in _KINDS if any(re.search(pattern, name) for name in found)), None
    )


def detect_non_sdxl(header: Mapping[str, TensorEntry]) -> str | None:
    """Return the kind of a non-SDXL file, such as `a LoRA`, or None if undetermined.

    An SDXL checkpoint without some of its parts is not another kind.
    """
    first = header.get(f"{_UNET}input_blocks.0.0.weight")
    if first is not None and len(first.shape) == 4 and first.shape[1] in _OTHER_INPUTS:
        return _OTHER_INPUTS[first.shape[1]]
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in header):
            return kind
    return None
