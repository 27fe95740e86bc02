"""Detection of non-SDXL weight files by tensor names, for error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from models.conversion.safetensors_io import Shape

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
    (r"^encoder\.block\.\d+\.layer\.|^shared\.weight$", "a T5 text encoder"),
)
_OTHER_INPUTS = {
    8: "an editing model (its UNet takes 8 channels)",
    9: "an inpainting model (its UNet takes 9 channels)",
}


class _Shaped(Protocol):
    """A tensor's location, of which only the shape matters."""

    @property
    def shape(self) -> Shape:
        """The tensor's shape."""


def detect_non_sdxl(header: Mapping[str, _Shaped]) -> str | None:
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
