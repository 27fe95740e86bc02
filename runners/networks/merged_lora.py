"""Working copy of a UNet's weights into which a set of LoRAs is merged.

A merged set makes a step cost what it costs without LoRAs. The pristine weights are never written,
so leaving a set is exact, and a set does not depend on those before it.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from runners.networks.lora_file import LoraLayer

_ALIGNMENT = 256
# A module keeps its pristine weight itself, so that the working copy does not keep an unloaded UNet
# alive.
_PRISTINE = "pristine_weight"

Parts = Sequence[tuple[LoraLayer, float]]
"""Factors of one layer, each with its strength."""


class _Stack(NamedTuple):
    """What layers that are merged with the same launches have in common.

    `rows` and `columns` are those of the weight as a matrix, and `adapters` has the rank and the
    strength of each.
    """

    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device
    is_channels_last: bool
    adapters: tuple[tuple[int, float], ...]


class WorkingCopy:
    """Memory for the merged weights of one UNet at a time; shared by all UNets of a device.

    Not thread-safe: all methods run on the device thread, `bytes` excepted.
    """

    def __init__(self) -> None:
        self._memory: torch.Tensor | None = None
        self._modules: list[weakref.ref[nn.Module]] = []
        self._unet: Callable[[], nn.Module | None] = lambda: None
        self._key: Hashable = None

    @property
    def bytes(self) -> int:
        """Bytes of the memory; it grows with the largest set so far."""
        memory = self._memory
        return 0 if memory is None else memory.nbytes

    def is_merged(self, unet: nn.Module, key: Hashable) -> bool:
        """Return whether the UNet's weights are those of a set.

        Args:
            unet: the UNet.
            key: what identifies the set; None for the pristine weights.
        """
        if self._unet() is not unet:
            return key is None
        return self._key == key

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def merge(
        self, unet: nn.Module, key: Hashable, layers: Callable[[], Mapping[str, Parts]]
    ) -> None:
        """Give a UNet's layers the weights W + sum(strength * up @ down) (arXiv:2106.09685).

        Args:
            unet: the UNet.
            key: what identifies the set.
            layers: function that returns the factors of all affected layers by module name.
        """
        self.restore()
        stacks: dict[_Stack, list[tuple[Any, Parts]]] = defaultdict(list)
        for name, parts in layers().items():
            module: Any = unet.get_submodule(name)
            stacks[_stack_of(module.weight, parts)].append((module, parts))
        places, size = [], 0
        for stack, members in stacks.items():
            places.append(size)
            step = len(members) * stack.rows * stack.columns * stack.dtype.itemsize
            size += -(-step // _ALIGNMENT) * _ALIGNMENT
        memory = self._reserve(size, next(unet.parameters()).device)
        merged: list[tuple[Any, torch.Tensor]] = []
        for place, (stack, members) in zip(places, stacks.items(), strict=True):
            weights = _merge_stack(memory[place:], stack, members)
            merged += zip((module for module, _ in members), weights, strict=True)
        # Not before all are merged, because the memory may not suffice.
        for module, weight in merged:
            setattr(module, _PRISTINE, module.weight.data)
            module.weight.data = weight
        self._modules = [weakref.ref(module) for module, _ in merged]
        self._unet, self._key = weakref.ref(unet), key

    def restore(self) -> None:
        """Give the layers their pristine weights."""
        for reference in self._modules:
            module: Any = reference()
            if module is not None:
                module.weight.data = getattr(module, _PRISTINE)
                delattr(module, _PRISTINE)
        self._modules = []
        self._unet, self._key = lambda: None, None

    def release(self) -> None:
        """Restore the layers and free the memory, until the next set."""
        self.restore()
        self._memory = None

    def _reserve(self, size: int, device: torch.device) -> torch.Tensor:
        if self._memory is None or self._memory.nbytes < size or self._memory.device != device:
            # Freed before the larger one is made.
            self._memory = None
            self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        return self._memory


def copied_bytes(unet: nn.Module, layers: Sequence[str]) -> int:
    """Return the bytes that a working copy needs for layers of a UNet, by module name."""
    weights: list[Any] = [unet.get_submodule(layer).weight for layer in layers]
    return sum(weight.nbytes for weight in weights)


def _stack_of(weight: torch.Tensor, parts: Parts) -> _Stack:
    # A convolution of 1x1 is in both formats, and a matrix either way.
    is_last = weight.dim() == 4 and not weight.is_contiguous()
    adapters = tuple((part.down.shape[0], strength) for part, strength in parts)
    columns = weight.numel() // weight.shape[0]
    return _Stack(weight.shape[0], columns, weight.dtype, weight.device, is_last, adapters)


def _merge_stack(
    memory: torch.Tensor, stack: _Stack, members: Sequence[tuple[Any, Parts]]
) -> list[torch.Tensor]:
    """Merge layers of one stack into memory, uint8 [B], and return their weights in place."""
    shape = (len(members), stack.rows, stack.columns)
    size = shape[0] * shape[1] * shape[2] * stack.dtype.itemsize
    merged = memory[:size].view(stack.dtype).view(shape)
    last = stack.is_channels_last
    torch.stack([_matrix(module.weight.data, last) for module, _ in members], out=merged)
    downs, ups = [], []
    for number, (_, strength) in enumerate(stack.adapters):
        factors = [parts[number][0] for _, parts in members]
        downs.append(torch.stack([_matrix(factor.down, last) for factor in factors]))
        ups.append(torch.stack([factor.up.flatten(1) for factor in factors]).mul_(strength))
    # The adapters' ranks are concatenated, so that each weight is rounded once.
    merged.baddbmm_(torch.cat(ups, dim=2), torch.cat(downs, dim=1))
    return [
        _weight(matrix, module.weight, last)
        for matrix, (module, _) in zip(merged, members, strict=True)
    ]


def _matrix(tensor: torch.Tensor, is_channels_last: bool) -> torch.Tensor:
    """Return a weight or a first factor as a matrix whose columns are in the weight's order."""
    return (tensor.permute(0, 2, 3, 1) if is_channels_last else tensor).flatten(1)


def _weight(matrix: torch.Tensor, like: torch.Tensor, is_channels_last: bool) -> torch.Tensor:
    """Return a matrix as a view in a weight's shape and memory format."""
    if not is_channels_last:
        return matrix.view(like.shape)
    rows, columns, height, width = like.shape
    return matrix.view(rows, height, width, columns).permute(0, 3, 1, 2)
