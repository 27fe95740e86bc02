"""Loaded SDXL variants (arXiv:2307.01952) and ControlNets (arXiv:2302.05543)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from models.catalog import VariantSpec
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.static_conditioning import CrossAttentionCache


@dataclass(frozen=True, slots=True, eq=False)
class SdxlModel:
    """An SDXL model in memory.

    `text_encoder_key` is equal for variants that share text encoders. `tiny_decoder` is None if the
    catalog has none.
    """

    name: str
    spec: VariantSpec
    tokenizers: tuple[Any, Any]
    text_encoders: tuple[Any, Any]
    text_encoder_key: str
    unet: Any
    vae: Any
    tiny_decoder: Any
    loras: LoraManager
    cross_attention: CrossAttentionCache

    @classmethod
    def from_components(
        cls,
        name: str,
        spec: VariantSpec,
        parts: Mapping[str, Any],
        text_key: str,
        working_copy: WorkingCopy | None = None,
    ) -> SdxlModel:
        """Build a variant with its own LoRA manager from loaded components.

        Args:
            name: the variant's name in the catalog.
            spec: the variant's catalog entry.
            parts: the components by kind.
            text_key: the `text_encoder_key`.
            working_copy: memory of merged LoRAs; None for low-rank products.
        """
        text_encoders = parts["text_encoder"], parts["text_encoder_2"]
        return cls(
            name=name,
            spec=spec,
            tokenizers=(parts["tokenizer"], parts["tokenizer_2"]),
            text_encoders=text_encoders,
            text_encoder_key=text_key,
            unet=parts["unet"],
            vae=parts["vae"],
            tiny_decoder=parts.get("tiny_decoder"),
            loras=LoraManager(parts["unet"], text_encoders, working_copy),
            cross_attention=CrossAttentionCache(parts["unet"], working_copy is not None),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ControlNet:
    """A ControlNet in memory with a separate hint embedding.

    diffusers embeds the depth map at every step. The engine embeds it once per request with `hint`,
    and `network` takes the embedding instead of the depth map.
    """

    name: str
    network: Any
    hint: nn.Module
    cross_attention: CrossAttentionCache
