"""Loaded networks: what a variant and a ControlNet are in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTokenizer

from models.catalog import VariantSpec
from runners.adapters import AdapterBank
from runners.device import Device
from runners.pinned import PinnedStore
from runners.text_attention import TextBank
from runners.weights import load_network


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """An SDXL model in memory. `text_key` is equal for variants that share text encoders;
    `tiny_decoder` is None where the catalog has none."""

    name: str
    spec: VariantSpec
    tokenizers: tuple[Any, Any]
    text_encoders: tuple[Any, Any]
    text_key: str
    unet: Any
    vae: Any
    tiny_decoder: Any
    adapters: AdapterBank
    text: TextBank

    @classmethod
    def of(cls, name: str, spec: VariantSpec, parts: Mapping[str, Any], text_key: str) -> Variant:
        """A variant of loaded components, by kind; its LoRAs are its own."""
        for kind in ("vae", "tiny_decoder"):
            if kind in parts and parts[kind].dtype != torch.float32:
                # Nearly all convolutions, which in half precision are faster so.
                parts[kind].to(memory_format=torch.channels_last)
        return cls(
            name=name,
            spec=spec,
            tokenizers=(parts["tokenizer"], parts["tokenizer_2"]),
            text_encoders=(parts["text_encoder"], parts["text_encoder_2"]),
            text_key=text_key,
            unet=parts["unet"],
            vae=parts["vae"],
            tiny_decoder=parts.get("tiny_decoder"),
            adapters=AdapterBank(parts["unet"]),
            text=TextBank(parts["unet"]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ControlNet:
    """A ControlNet in memory, its hint embedding apart.

    diffusers embeds the depth picture anew at every step; the engine does it once per request
    with `hint`, and `network` takes the result in place of the picture.
    """

    name: str
    network: Any
    hint: nn.Module
    text: TextBank


def load_component(kind: str, path: Path, device: Device, pinned: PinnedStore | None = None) -> Any:
    """Load one component of the store: a network in eval mode on the device, or a tokenizer."""
    if kind.startswith("tokenizer"):
        return CLIPTokenizer.from_pretrained(path, local_files_only=True)
    return load_network(kind, path, device, pinned)


def split_hint(name: str, network: Any) -> ControlNet:
    """Take the hint embedding out of a ControlNet."""
    hint = network.controlnet_cond_embedding
    network.controlnet_cond_embedding = nn.Identity()
    return ControlNet(name, network, hint, TextBank(network))
