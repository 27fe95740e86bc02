"""Recognition of adapters for other models, by tensor names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from models.conversion.detect_kind import model_of_text_width

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
    return next(filter(None, map(model_of_text_width, text_widths)), None)
