"""Several adapters as one where they are not merged: what acts on each layer's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from runners.networks.lora.weight_change import AdapterLayer, Change, LowRank, stacked_delta


@dataclass(frozen=True, slots=True, eq=False)
class LayerCombination:
    """Combined changes of one layer.

    `low_rank` has the concatenated factors of all plain products, with the strengths folded in.
    `others` has the remaining changes with magnitude and strength. `bias` is the sum of the
    differences, and `own_bytes` the bytes that are not shared with the adapters.
    """

    low_rank: LowRank | None
    others: Sequence[tuple[Change, torch.Tensor | None, float]] = ()
    bias: torch.Tensor | None = None
    own_bytes: int = 0

    def add_to(self, module: Any, inputs: torch.Tensor, output: torch.Tensor) -> None:
        """Add the change to a layer's output in place.

        Changes that are no low-rank products are computed for this call, because a copy of all
        weights does not fit where this path is taken.

        Args:
            module: a linear layer, a convolution or a normalisation.
            inputs: the layer's input.
            output: its output without the change.
        """
        weight = self._weight_difference(module) if self.others else None
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            _add_norm(module, inputs, output, weight, self.bias)
            return
        if self.low_rank is not None:
            _add_product(module, inputs, output, self.low_rank)
        if weight is not None and isinstance(module, nn.Conv2d):
            output.add_(
                F.conv2d(inputs, weight, None, module.stride, module.padding, module.dilation)
            )
        elif weight is not None:
            output.add_(F.linear(inputs, weight))
        if self.bias is not None:
            output.add_(self.bias[:, None, None] if output.dim() == 4 else self.bias)

    def _weight_difference(self, module: Any) -> torch.Tensor:
        pristine = module.weight
        rows = 1 if pristine.dim() == 1 else pristine.shape[0]
        weights = pristine.reshape(1, rows, -1).float()
        channels = pristine.shape[1] if pristine.dim() > 1 else 1
        total = torch.zeros_like(weights)
        for change, magnitude, strength in self.others:
            delta = stacked_delta([(change, magnitude)], weights, channels)
            total.add_(delta, alpha=strength)
        return total.view(pristine.shape).to(pristine.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class LoraCombination:
    """Combined adapters at their strengths, by layer."""

    layers: Mapping[str, LayerCombination] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of tensors that are not shared with the adapters."""
        return sum(layer.own_bytes for layer in self.layers.values())

    @classmethod
    def from_layers(
        cls, adapters: Sequence[tuple[Mapping[str, AdapterLayer], float]]
    ) -> LoraCombination:
        """Combine adapters, each with its strength."""
        parts: dict[str, list[tuple[AdapterLayer, float]]] = {}
        for adapter, strength in adapters:
            for name, layer in adapter.items():
                parts.setdefault(name, []).append((layer, strength))
        return cls({name: _combine(layers) for name, layers in parts.items()})


def _combine(layers: Sequence[tuple[AdapterLayer, float]]) -> LayerCombination:
    products: list[tuple[LowRank, float]] = []
    others = []
    bias: torch.Tensor | None = None
    for layer, strength in layers:
        if layer.is_low_rank:
            products.append((layer.weight, strength))  # type: ignore[arg-type]
        elif layer.weight is not None:
            others.append((layer.weight, layer.magnitude, strength))
        if layer.bias is not None:
            own = layer.bias * strength
            bias = own if bias is None else bias + own
    low_rank, own_bytes = _concatenate(products) if products else (None, 0)
    own_bytes += 0 if bias is None else bias.nbytes
    return LayerCombination(low_rank, others, bias, own_bytes)


def _concatenate(products: Sequence[tuple[LowRank, float]]) -> tuple[LowRank, int]:
    """Return one product with the sum of the ranks, and the bytes that it does not share."""
    (first, strength), *more = products
    if more:
        down = torch.cat([part.down for part, _ in products])
        up = torch.cat([part.up * strength for part, strength in products], dim=1)
        return LowRank(down, up), down.nbytes + up.nbytes
    if strength == 1.0:
        return first, 0
    up = first.up * strength
    return LowRank(first.down, up), up.nbytes


def _add_product(module: Any, inputs: torch.Tensor, output: torch.Tensor, product: LowRank) -> None:
    if isinstance(module, nn.Conv2d):
        reduced = F.conv2d(
            inputs, product.down, None, module.stride, module.padding, module.dilation
        )
        output.add_(F.conv2d(reduced, product.up))
        return
    reduced = F.linear(inputs, product.down)
    rows = output.view(-1, output.shape[-1])
    rows.addmm_(reduced.view(-1, reduced.shape[-1]), product.up.T)


def _add_norm(
    module: nn.LayerNorm | nn.GroupNorm,
    inputs: torch.Tensor,
    output: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> None:
    # Without a weight the normalised input itself would be added.
    weight = torch.zeros_like(module.weight) if weight is None else weight
    if isinstance(module, nn.GroupNorm):
        output.add_(F.group_norm(inputs, module.num_groups, weight, bias, module.eps))
    else:
        output.add_(F.layer_norm(inputs, module.normalized_shape, weight, bias, module.eps))
