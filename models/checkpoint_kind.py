"""What a weight file is that is not an SDXL checkpoint, told from its tensors' names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from models.safetensors_file import TensorSpan

_UNET = "model.diffusion_model."

# The first that any name matches. Whole checkpoints of other models come before their parts.
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


def other_kind(header: Mapping[str, TensorSpan]) -> str | None:
    """What the file is instead of an SDXL checkpoint, such as `a LoRA`; None where that is not
    apparent.

    A checkpoint of SDXL that someone stripped of a part is not another kind.
    """
    first = header.get(f"{_UNET}input_blocks.0.0.weight")
    if first is not None and len(first.shape) == 4 and first.shape[1] in _OTHER_INPUTS:
        return _OTHER_INPUTS[first.shape[1]]
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in header):
            return kind
    return None
