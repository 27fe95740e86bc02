"""Networks of the demo set that adapters change, and their outputs for fixed inputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from runners.networks.loading import load_component
from testing.weight_files.adapter_case import AdapterFileCase, apply_expected
from testing.weight_files.predictions import predict
from testing.workbench import DEVICE, WEIGHTS

PARTS = ("unet", "text_encoder", "text_encoder_2")
Outputs = Mapping[str, torch.Tensor]
"""Output of each network, by name."""


@dataclass(frozen=True, slots=True)
class Networks:
    """A UNet and its two text encoders."""

    unet: nn.Module
    text_encoder: nn.Module
    text_encoder_2: nn.Module

    @property
    def text_encoders(self) -> tuple[nn.Module, nn.Module]:
        """Both text encoders."""
        return self.text_encoder, self.text_encoder_2

    def copied(self) -> Networks:
        """Return networks with weights of their own."""
        return copy.deepcopy(self)

    def changed(self, *cases: tuple[AdapterFileCase, float]) -> Networks:
        """Return networks with the cases' expected weights, at their strengths."""
        made = self.copied()
        for part in PARTS:
            apply_expected(getattr(made, part), part, cases)
        return made

    @property
    def unet_config(self) -> Mapping[str, Any]:
        """Configuration of the UNet, with a depth for each of its levels."""
        config: Any = self.unet.config
        depth = config.transformer_layers_per_block
        levels = len(config.block_out_channels)
        return {
            **config,
            "transformer_layers_per_block": [depth] * levels if isinstance(depth, int) else depth,
        }


@lru_cache
def demo_parts() -> Networks:
    """Return the demo set's networks in float32; callers copy them before they change anything."""
    # Mapped weights are not aligned as copies are, which changes the last bits of results.
    return Networks(*(load_component(part, WEIGHTS / part, DEVICE) for part in PARTS)).copied()


def encode(encoders: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    """Return the last hidden states of text encoders for fixed tokens, by the encoder's name."""
    tokens = torch.arange(1, 25).reshape(2, 12)
    found = {}
    with torch.inference_mode():
        for part, encoder in zip(PARTS[1:], encoders, strict=True):
            result = encoder(tokens, output_hidden_states=True)
            states = [*result.hidden_states[-2:]]
            pooled = result.text_embeds if part == "text_encoder_2" else result.pooler_output
            found[part] = torch.cat([*(state.flatten() for state in states), pooled.flatten()])
    return found


def outputs(networks: Networks) -> dict[str, torch.Tensor]:
    """Return the outputs of all networks for fixed inputs, without adapters of the service."""
    return {"unet": predict(networks.unet), **encode(networks.text_encoders)}
