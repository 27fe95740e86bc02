"""Plain diffusers pipeline on networks that are already loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import StableDiffusionXLControlNetPipeline

_KINDS = (
    "unet", "vae", "controlnet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2",
)  # fmt: skip


def plain_pipeline(parts: Mapping[str, Any], scheduler: Any) -> StableDiffusionXLControlNetPipeline:
    """Return the pipeline on networks and tokenizers by kind; other kinds are ignored."""
    pipeline = StableDiffusionXLControlNetPipeline(
        **{kind: parts[kind] for kind in _KINDS}, scheduler=scheduler, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
