"""LoRAs fused into diffusers' pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.protocol import LoraWeight


def fuse_loras(pipeline: Any, loras: Sequence[LoraWeight]) -> None:
    """Fuse exactly these LoRAs, as diffusers' documentation recommends for speed.

    Args:
        pipeline: a pipeline of diffusers with at least one adapter loaded.
        loras: names of loaded adapters, with their strengths.
    """
    if pipeline.num_fused_loras:
        pipeline.unfuse_lora()
    if not loras:
        pipeline.disable_lora()
        return
    names = [lora.name for lora in loras]
    pipeline.enable_lora()
    pipeline.set_adapters(names, [lora.strength for lora in loras])
    pipeline.fuse_lora(adapter_names=names)
