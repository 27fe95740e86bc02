"""Recognition of adapters for other models, and of files that are no adapters, by tensor names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_OTHER_MODELS = (
    (r"(^|[._])lora_prior_|(^|[._])prior\.", "Stable Cascade"),
    (r"(^|[._])(img_mlp|txt_mlp)[._]net|transformer_blocks[._]\d+[._]img_mod", "Qwen-Image"),
    (r"double_blocks[._]\d+|single_blocks[._]\d+|single_transformer_blocks[._]\d+", "Flux"),
    (r"joint_blocks[._]\d+|(transformer_blocks[._]\d+[._])(attn2?[._])add_[qkv]_proj",
     "Stable Diffusion 3"),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn)[._]", "Wan"),
    (r"(^|[._])(layers|context_refiner|noise_refiner)[._]\d+[._](attention|feed_forward)[._]",
     "Lumina or Z-Image"),
    (r"(^|[._])(temporal_transformer|motion_modules)[._]", "AnimateDiff"),
    (r"(^|[._])lora_te3_|(^|[._])t5xxl[._]", "a model with a T5 text encoder"),
)  # fmt: skip
_TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner"}
_OTHER_FILES = (
    (r"lllite_", "a ControlNet-LLLite, which this service does not apply"),
    (r"^lora_controlnet$", "a control-LoRA, which this service does not apply"),
    (r"string_to_param|^(emb_params|clip_[gl])$", "a textual inversion, which is not applied"),
    (r"(^|\.)ip_adapter\.|^image_proj\.", "an IP-Adapter, which this service does not apply"),
    (r"^control_model\.|controlnet_cond_embedding|input_hint_block|^controlnet_",
     "a ControlNet: name it as the source of a controlnets entry"),
    (r"^(model\.diffusion_model|first_stage_model|conditioner|cond_stage_model)\.",
     "a checkpoint, not a LoRA: name it as the source of a models entry"),
    (r"^(encoder|decoder)\.(mid|conv_in|down|up)", "an autoencoder: name it as a variant's vae"),
    (r"^(down_blocks|up_blocks|input_blocks|output_blocks)\.\d+\.",
     "a UNet, not a LoRA: name it as a variant's unet"),
    (r"^(text_model|transformer\.resblocks)\.",
     "a text encoder: name it as a variant's text_encoder or text_encoder_2"),
)  # fmt: skip


def find_other_model(keys: Iterable[str], text_widths: Iterable[int]) -> str | None:
    """Return the model that an adapter is for if it is not SDXL, else None.

    Args:
        keys: names of the adapter's tensors.
        text_widths: channels of the text embeddings that its cross-attention layers read.
    """
    names = list(keys)
    for pattern, model in _OTHER_MODELS:
        if any(re.search(pattern, name) for name in names):
            return model
    return next((_TEXT_WIDTHS[width] for width in text_widths if width in _TEXT_WIDTHS), None)


def describe_other_file(keys: Iterable[str]) -> str | None:
    """Return what a file without an adapter's tensors is and where it belongs, or None."""
    names = list(keys)
    for pattern, kind in _OTHER_FILES:
        if any(re.search(pattern, name) for name in names):
            return kind
    return None
