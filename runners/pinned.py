"""Weights that wait beside the GPU: in page-locked host memory, from which copies are fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from runners.device import Device

_LARGEST_SHARE = 0.5


class PinnedStore:
    """Copies of weight files in pinned host memory, for as long as the host has room.

    Weights never change, so what leaves the GPU need not be copied back: it is dropped there, and
    comes again from here. Without a GPU the copies are ordinary memory.

    Args:
        device: where to the weights go.
        room: bytes that the copies may take; unset: half of the host's memory.
    """

    def __init__(self, device: Device, room: int | None = None) -> None:
        self._device = device.torch_device
        self._on_gpu = self._device.type == "cuda"
        whole = psutil.virtual_memory().total
        self._room = int(whole * _LARGEST_SHARE) if room is None else room
        self._kept: dict[Path, Mapping[str, torch.Tensor]] = {}

    @property
    def bytes(self) -> int:
        """Host memory that the copies take."""
        return sum(_bytes(weights) for weights in self._kept.values())

    def read(self, file: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """A safetensors file's tensors on the device, in a precision.

        On a GPU the copies run on a stream of their own, beside the work; they are complete when
        this returns.
        """
        weights = self._held(file, dtype)
        if not self._on_gpu:
            return dict(weights)
        working = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        there = {}
        with torch.cuda.stream(stream):
            for name, tensor in weights.items():
                copy = tensor.to(self._device, non_blocking=True)
                # Freed while a step still uses it, its memory must not be given away too soon.
                copy.record_stream(working)
                there[name] = copy
        stream.synchronize()
        return there

    def _held(self, file: Path, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        if file in self._kept:
            return self._kept[file]
        weights = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        if self.bytes + _bytes(weights) <= self._room:
            if self._on_gpu:
                weights = {name: tensor.pin_memory() for name, tensor in weights.items()}
            self._kept[file] = weights
        return weights


def _bytes(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in weights.values())
