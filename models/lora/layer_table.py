"""Layers of SDXL's networks that an adapter can change, under the names of all file formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from models.conversion.config import SDXL
from models.conversion.safetensors_io import Shape
from models.conversion.sdxl_key_map import PREFIXES, key_mappings

PARTS = ("unet", "text_encoder", "text_encoder_2")
"""Networks that an adapter can change, with diffusers' names."""

_OLDER_NAMES = {
    "self_attn.q_proj": "self_attn.to_q",
    "self_attn.k_proj": "self_attn.to_k",
    "self_attn.v_proj": "self_attn.to_v",
    "self_attn.out_proj": "self_attn.to_out",
}
_CROSS_ATTENTION_KEY = "attn2.to_k"


@dataclass(frozen=True, slots=True)
class TargetLayer:
    """A layer of a network: its module name in diffusers, and the shapes of its parameters.

    `bias` is None for a layer without one. The weight of a normalisation has one dimension.
    """

    part: str
    name: str
    weight: Shape
    bias: Shape | None

    @property
    def label(self) -> str:
        """Name for messages, with the network's if it is not the UNet."""
        return self.name if self.part == "unet" else f"{self.part}.{self.name}"


class LayerTable:
    """Layers of one model's networks, found by any spelling.

    Dots and underscores are equal in a spelling, because kohya's files replace the one by the
    other.

    Args:
        configs: canonical configurations of the networks, by part.
    """

    def __init__(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        self._layers: dict[str, dict[str, TargetLayer]] = {}
        for part in PARTS:
            if part in configs:
                self._layers[part] = _spellings(part, configs[part])

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the networks."""
        return tuple(self._layers)

    def find(self, part: str, name: str) -> TargetLayer | None:
        """Return the layer of a network with a name in any spelling, or None.

        Args:
            part: the network, of PARTS.
            name: the layer's name without the network's prefix.
        """
        return self._layers.get(part, {}).get(flatten(name))

    @property
    def text_width(self) -> int:
        """Channels of the text embeddings that the UNet's cross-attention reads."""
        for layer in self._layers["unet"].values():
            if layer.name.endswith(_CROSS_ATTENTION_KEY):
                return layer.weight[1]
        raise ValueError("the UNet has no cross-attention")


@cache
def sdxl_table() -> LayerTable:
    """Return the layers of SDXL at its published size."""
    return LayerTable(
        {part: json.loads((SDXL / f"{part}.json").read_text(encoding="utf-8")) for part in PARTS}
    )


def flatten(name: str) -> str:
    """Return a layer's name as kohya's files spell it."""
    return name.replace(".", "_")


def _spellings(part: str, config: Mapping[str, Any]) -> dict[str, TargetLayer]:
    weights, biases, sources = {}, {}, {}
    for mapping in key_mappings(part, config):
        layer, _, parameter = mapping.target.rpartition(".")
        if parameter == "weight":
            weights[layer] = mapping.shape
            # OpenCLIP stacks queries, keys and values in one tensor, which has no layer here.
            if mapping.shape in mapping.source_shapes:
                source = mapping.source.removeprefix(PREFIXES[part]).removesuffix(".weight")
                sources[layer] = source
        else:
            biases[layer] = mapping.shape
    found: dict[str, TargetLayer] = {}
    for layer, shape in weights.items():
        if layer.endswith("_embedding"):
            # Tables of token and position embeddings, which no adapter format changes.
            continue
        target = TargetLayer(part, layer, shape, biases.get(layer))
        spellings = {layer, layer.removeprefix("text_model."), sources.get(layer, layer)}
        # diffusers' older attention processors have no index of the output layer, and one set of
        # names for all networks.
        spellings |= {name.removesuffix(".0") for name in spellings if name.endswith("to_out.0")}
        for own, older in _OLDER_NAMES.items():
            spellings |= {name.replace(own, older) for name in spellings if name.endswith(own)}
        for name in spellings:
            found[flatten(name)] = target
    return found
