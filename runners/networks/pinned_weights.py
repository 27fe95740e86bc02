"""Cache of weights in page-locked host memory, from which copies to a GPU are fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from runners.device import Device

_MAX_HOST_FRACTION = 0.5


class PinnedWeightCache:
    """Cache of weight files in pinned host memory, up to a byte limit.

    Weights never change, so evicted weights are discarded, not copied back to the host. Without a
    GPU the copies are in ordinary memory.

    Args:
        device: target device of the weights.
        room: limit in bytes; half of the host's memory if None.
    """

    def __init__(self, device: Device, room: int | None = None) -> None:
        self._device = device.torch_device
        self._on_gpu = self._device.type == "cuda"
        total = psutil.virtual_memory().total
        self._room = int(total * _MAX_HOST_FRACTION) if room is None else room
        self._cache: dict[Path, Mapping[str, torch.Tensor]] = {}

    @property
    def bytes(self) -> int:
        """Bytes of host memory in the cache."""
        return sum(_bytes(weights) for weights in self._cache.values())

    def read(self, file: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return the tensors of a safetensors file on the device, in the given dtype.

        On a GPU the copies run on a separate stream and are complete on return.
        """
        weights = self._host_weights(file, dtype)
        if not self._on_gpu:
            return dict(weights)
        working = torch.cuda.current_stream(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        copies = {}
        with torch.cuda.stream(stream):
            for name, tensor in weights.items():
                copy = tensor.to(self._device, non_blocking=True)
                # The allocator must not reuse the memory of a freed weight that a step still reads.
                copy.record_stream(working)
                copies[name] = copy
        stream.synchronize()
        return copies

    def _host_weights(self, file: Path, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        if file in self._cache:
            return self._cache[file]
        weights = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        if self.bytes + _bytes(weights) <= self._room:
            if self._on_gpu:
                weights = {name: tensor.pin_memory() for name, tensor in weights.items()}
            self._cache[file] = weights
        return weights


def _bytes(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in weights.values())
