"""Several LoRAs as one: their factors by layer, and concatenated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from runners.networks.lora_file import LoraLayer


@dataclass(frozen=True, slots=True, eq=False)
class LoraCombination:
    """Combined adapters at their strengths, by layer.

    `bytes` counts only tensors that are not shared with the adapters.
    """

    layers: Mapping[str, LoraLayer]
    bytes: int

    @classmethod
    def from_layers(
        cls, adapters: Sequence[tuple[Mapping[str, LoraLayer], float]]
    ) -> LoraCombination:
        """Combine adapters, each with its strength."""
        layers = {}
        own = 0
        for layer, parts in parts_by_layer(adapters).items():
            (first, strength), *more = parts
            if more:
                down = torch.cat([part.down for part, _ in parts])
                up = torch.cat([part.up * strength for part, strength in parts], dim=1)
                own += down.nbytes + up.nbytes
            elif strength == 1.0:
                down, up = first.down, first.up
            else:
                down, up = first.down, first.up * strength
                own += up.nbytes
            layers[layer] = LoraLayer(down, up)
        return cls(layers, own)


def parts_by_layer(
    adapters: Sequence[tuple[Mapping[str, LoraLayer], float]],
) -> dict[str, list[tuple[LoraLayer, float]]]:
    """Return each layer's factors with their strengths, in the order of the adapters."""
    parts: dict[str, list[tuple[LoraLayer, float]]] = {}
    for adapter, strength in adapters:
        for layer, factors in adapter.items():
            parts.setdefault(layer, []).append((factors, strength))
    return parts
