"""Plan of merging a set of adapters into the weights of a UNet, with few launches.

Layers whose weights and factors have equal shapes form a stack, which is merged as a whole. A plan
does not depend on the strengths, so that a change of strengths only computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from runners.networks.lora.weight_change import (
    AdapterLayer,
    Change,
    LowRank,
    factors_of,
    stacked_delta,
)
from runners.networks.projection_layout import self_attention_of, side_by_side

Layers = Mapping[str, AdapterLayer]
"""Changes of one adapter by module name."""
Parts = list[tuple[int, AdapterLayer]]
"""Changes of one layer, each with the number of its adapter."""

_ALIGNMENT = 256
_CHUNK_ELEMENTS = 2**24
"""Weights that a general change computes at a time, in float32."""


class Parameter(NamedTuple):
    """A parameter of a module, `weight` or `bias`."""

    module: Any
    name: str

    @property
    def pristine(self) -> torch.Tensor:
        """The parameter without adapters, also while a set is merged."""
        kept = self.module.__dict__.get(f"pristine_{self.name}")
        tensor: torch.Tensor = getattr(self.module, self.name).data if kept is None else kept
        return tensor

    def assign(self, merged: torch.Tensor) -> None:
        """Give the module a merged parameter, and keep the pristine one."""
        # The module keeps it itself, so that nothing else keeps an unloaded UNet alive.
        self.module.__dict__.setdefault(f"pristine_{self.name}", self.pristine)
        getattr(self.module, self.name).data = merged

    def restore(self) -> None:
        """Give the module its pristine parameter."""
        kept = self.module.__dict__.pop(f"pristine_{self.name}", None)
        if kept is not None:
            getattr(self.module, self.name).data = kept


class MergePlan:
    """Stacks of all parameters that a set of adapters changes in a UNet.

    Args:
        unet: the UNet.
        adapters: changes of each adapter, in the order of the strengths of `write`.
    """

    def __init__(self, unet: nn.Module, adapters: Sequence[Layers]) -> None:
        changes: dict[str, Parts] = defaultdict(list)
        for number, layers in enumerate(adapters):
            for name, layer in layers.items():
                changes[name].append((number, layer))
        groups: dict[Any, list[tuple[Parameter, list[tuple[int, AdapterLayer]]]]] = defaultdict(
            list
        )
        # Query, key and value of a self-attention that are in one stack lie side by side there.
        for name in side_by_side(changes):
            parts = changes[name]
            module = unet.get_submodule(name)
            weights = [part for part in parts if part[1].weight is not None]
            biases = [part for part in parts if part[1].bias is not None]
            if weights:
                parameter = Parameter(module, "weight")
                groups[_weight_key(parameter.pristine, weights)].append((parameter, weights))
            if biases:
                parameter = Parameter(module, "bias")
                key = ("bias", *_tensor_key(parameter.pristine), *(n for n, _ in biases))
                groups[key].append((parameter, biases))
        owners = dict.fromkeys(map(self_attention_of, changes))
        self.attentions = [unet.get_submodule(name) for name in owners if name is not None]
        """Self-attention layers of which the set changes a projection."""
        self._stacks = [_make_stack(key, members) for key, members in groups.items()]
        self._places: list[int] = []
        self.size = 0
        """Bytes of merged memory."""
        for stack in self._stacks:
            self._places.append(self.size)
            self.size += -(-stack.size // _ALIGNMENT) * _ALIGNMENT

    @property
    def own_bytes(self) -> int:
        """Bytes of stacked factors, which the plan holds beside the adapters."""
        return sum(stack.own_bytes for stack in self._stacks)

    @property
    def parameters(self) -> list[Parameter]:
        """All changed parameters, in the order of `views`."""
        return [parameter for stack in self._stacks for parameter in stack.parameters]

    def write(self, memory: torch.Tensor, strengths: Sequence[float]) -> None:
        """Write the merged parameters to memory.

        Args:
            memory: uint8 [size] or more.
            strengths: strength of each adapter.
        """
        for place, stack in zip(self._places, self._stacks, strict=True):
            stack.write(memory[place : place + stack.size], strengths)

    def views(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """Return the merged parameters in memory, in the modules' shapes and formats."""
        found = []
        for place, stack in zip(self._places, self._stacks, strict=True):
            found += stack.views(memory[place : place + stack.size])
        return found


Members = Sequence[tuple[Parameter, Parts]]


class _Stack(ABC):
    """Parameters of equal shape and format, as one tensor [N, rows, columns] in merged memory.

    `size` is in bytes of merged memory, `own_bytes` in bytes of stacked factors.
    """

    own_bytes = 0

    def __init__(self, members: Members) -> None:
        self.parameters = [parameter for parameter, _ in members]
        self._pristine = [parameter.pristine for parameter in self.parameters]
        first = self._pristine[0]
        self._is_last = _is_channels_last(first)
        self._dtype = first.dtype
        rows = 1 if first.dim() == 1 else first.shape[0]
        self._shape = (len(members), rows, first.numel() // rows)
        self.size = sum(tensor.nbytes for tensor in self._pristine)

    @abstractmethod
    def write(self, memory: torch.Tensor, strengths: Sequence[float]) -> None:
        """Write the merged parameters to memory, uint8 [size]."""

    def _merged(self, memory: torch.Tensor) -> torch.Tensor:
        return memory.view(self._dtype).view(self._shape)

    def views(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """Return the merged parameters in memory, in the modules' shapes and formats."""
        return [
            _from_matrix(matrix, tensor, self._is_last)
            for matrix, tensor in zip(self._merged(memory), self._pristine, strict=True)
        ]


class _LowRankStack(_Stack):
    """Weights to which all adapters add low-rank products (arXiv:2106.09685).

    The adapters' ranks are concatenated, so that each weight is rounded once.
    """

    def __init__(self, members: Members) -> None:
        super().__init__(members)
        downs, self._ups = [], []
        for number, (adapter, _) in enumerate(members[0][1]):
            changes: list[Any] = [parts[number][1].weight for _, parts in members]
            downs.append(torch.stack([_to_matrix(each.down, self._is_last) for each in changes]))
            ups = torch.stack([each.up.flatten(1) for each in changes])
            self._ups.append((adapter, ups))
        self._down = torch.cat(downs, dim=1)
        self.own_bytes = self._down.nbytes + sum(ups.nbytes for _, ups in self._ups)

    def write(self, memory: torch.Tensor, strengths: Sequence[float]) -> None:
        merged = self._merged(memory)
        matrices = [_to_matrix(tensor, self._is_last) for tensor in self._pristine]
        torch.stack(matrices, out=merged)
        scaled = [ups * strengths[adapter] for adapter, ups in self._ups]
        merged.baddbmm_(torch.cat(scaled, dim=2), self._down)


class _GeneralStack(_Stack):
    """Weights with changes of any family, summed in float32 and rounded once.

    Every adapter's change is that of the pristine weights, so that the order does not matter.
    """

    def __init__(self, members: Members) -> None:
        super().__init__(members)
        self._channels = self._pristine[0].shape[1] if self._pristine[0].dim() > 1 else 1
        self._changes: list[tuple[int, list[tuple[Change, torch.Tensor | None]]]] = []
        for number, (adapter, _) in enumerate(members[0][1]):
            layers = [parts[number][1] for _, parts in members]
            changes = [(each.weight, each.magnitude) for each in layers if each.weight is not None]
            self._changes.append((adapter, changes))

    def write(self, memory: torch.Tensor, strengths: Sequence[float]) -> None:
        layers, rows, columns = self._shape
        views = self.views(memory)
        step = max(1, _CHUNK_ELEMENTS // (rows * columns))
        for start in range(0, layers, step):
            chunk = slice(start, start + step)
            pristine = [tensor.reshape(rows, columns) for tensor in self._pristine[chunk]]
            weights = torch.stack(pristine).float()
            total = weights.clone()
            for adapter, changes in self._changes:
                delta = stacked_delta(changes[chunk], weights, self._channels)
                total.add_(delta, alpha=strengths[adapter])
            for view, matrix in zip(views[chunk], total, strict=True):
                view.copy_(matrix.view(view.shape))


class _BiasStack(_Stack):
    """Biases, to which adapters add differences."""

    def __init__(self, members: Members) -> None:
        super().__init__(members)
        self._changes = [
            (adapter, torch.stack([parts[number][1].bias for _, parts in members]))  # type: ignore[misc]
            for number, (adapter, _) in enumerate(members[0][1])
        ]
        self.own_bytes = sum(biases.nbytes for _, biases in self._changes)

    def write(self, memory: torch.Tensor, strengths: Sequence[float]) -> None:
        total = torch.stack(self._pristine).float()
        for adapter, biases in self._changes:
            total.add_(biases, alpha=strengths[adapter])
        self._merged(memory).copy_(total.unsqueeze(1))


def _make_stack(key: tuple[Any, ...], members: Members) -> _Stack:
    if key[0] == "bias":
        return _BiasStack(members)
    is_low_rank = all(layer.is_low_rank for _, layer in members[0][1])
    return _LowRankStack(members) if is_low_rank else _GeneralStack(members)


def _weight_key(weight: torch.Tensor, parts: Sequence[tuple[int, AdapterLayer]]) -> tuple[Any, ...]:
    """Return what layers of one stack have in common."""
    # A product's first factor may be in another format for each layer of equal columns.
    is_low_rank = all(layer.is_low_rank for _, layer in parts)
    size = (weight.shape[0], weight.numel() // weight.shape[0]) if is_low_rank else weight.shape
    changes = tuple(
        (
            number,
            type(layer.weight),
            tuple(
                factor.shape[0] if isinstance(layer.weight, LowRank) else factor.shape
                for factor in factors_of(layer.weight)
            ),
            None if layer.magnitude is None else layer.magnitude.shape,
        )
        for number, layer in parts
    )
    kind = (weight.dtype, weight.device, _is_channels_last(weight))
    return ("weight", tuple(size), weight.dim() == 1, *kind, changes)


def _tensor_key(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tensor.dtype, tensor.device)


def _is_channels_last(weight: torch.Tensor) -> bool:
    # A convolution of 1x1 is in both formats, and a matrix either way.
    return weight.dim() == 4 and not weight.is_contiguous()


def _to_matrix(tensor: torch.Tensor, is_channels_last: bool) -> torch.Tensor:
    """Return a weight or a first factor as a matrix whose columns are in the weight's order."""
    return (tensor.permute(0, 2, 3, 1) if is_channels_last else tensor).flatten(1)


def _from_matrix(matrix: torch.Tensor, like: torch.Tensor, is_channels_last: bool) -> torch.Tensor:
    """Return a matrix as a view in a parameter's shape and memory format."""
    if not is_channels_last:
        return matrix.view(like.shape)
    rows, columns, height, width = like.shape
    return matrix.view(rows, height, width, columns).permute(0, 3, 1, 2)
