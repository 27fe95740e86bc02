"""Memory format of the networks' convolutions: contiguous or channels-last."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from runners.networks.projection_layout import adjacent_view, projection_groups
from runners.networks.static_conditioning import join_projections

Group = Literal["denoiser", "decoder"]

_GROUPS: dict[str, Group] = {
    "unet": "denoiser",
    "controlnet": "denoiser",
    "vae": "decoder",
    "tiny_decoder": "decoder",
}


class MemoryFormats:
    """Memory formats on one device, by group of networks.

    At first only decoders in half precision are channels-last. Warm-up changes that on a GPU where
    the other format is faster. UNet and ControlNet share a format, because they exchange
    activations.
    """

    def __init__(self) -> None:
        self._chosen: dict[tuple[Group, torch.dtype], bool] = {}

    def choose(self, group: Group, dtype: torch.dtype, is_channels_last: bool) -> None:
        """Set the format of networks of a group and dtype that are loaded from now on."""
        self._chosen[group, dtype] = is_channels_last

    def is_channels_last(self, kind: str, dtype: torch.dtype) -> bool:
        """Return the format of a kind of component.

        Args:
            kind: a kind of network.
            dtype: the dtype of the network's weights.
        """
        group = _GROUPS.get(kind)
        if group is None:
            return False
        is_default = group == "decoder" and dtype != torch.float32
        return self._chosen.get((group, dtype), is_default)

    def apply(self, kind: str, network: Any) -> None:
        """Give a component that has just been loaded the format of its kind."""
        if kind in _GROUPS and self.is_channels_last(kind, network.dtype):
            turn_to_channels_last(network)


def turn_to_channels_last(network: nn.Module) -> None:
    """Turn a network's convolutions, and free the buffer in which all weights arrived.

    Query, key and value weights that lie side by side stay so.
    """
    network.to(memory_format=torch.channels_last)
    parameters = dict(network.named_parameters())
    for group in projection_groups(parameters):
        tensors = [parameters[name] for name in group]
        joined = adjacent_view(tensors) if len(tensors) > 1 else None
        if joined is None:
            for tensor in tensors:
                if tensor.untyped_storage().nbytes() > tensor.nbytes:
                    tensor.data = tensor.data.clone()
        elif joined.untyped_storage().nbytes() > joined.nbytes:
            parts = joined.clone().split([len(tensor) for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.data = part
    for layer in network.modules():
        join_projections(layer)
