"""Cache of weights in page-locked host memory, from which copies to a GPU are fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from runners.networks.weight_upload import HostCopy, WeightUploader

_MAX_HOST_FRACTION = 0.5


class PinnedWeightCache:
    """Cache of weight files in pinned host memory, up to a byte limit.

    Weights never change, so evicted weights are discarded, not copied back to the host. Without a
    GPU the copies are in ordinary memory.

    Args:
        uploader: copier to the target device.
        room: limit in bytes; if None, an equal share for each GPU of half of the host's memory.
    """

    def __init__(self, uploader: WeightUploader, room: int | None = None) -> None:
        self._uploader = uploader
        total = psutil.virtual_memory().total
        gpus = max(1, torch.cuda.device_count())
        self._room = int(total * _MAX_HOST_FRACTION / gpus) if room is None else room
        self._pinned: dict[Path, HostCopy] = {}
        self._plain: dict[Path, Mapping[str, torch.Tensor]] = {}

    @property
    def bytes(self) -> int:
        """Bytes of host memory in the cache, with the rounding of pinned memory."""
        pinned = sum(copy.bytes for copy in self._pinned.values())
        return pinned + sum(map(_count_bytes, self._plain.values()))

    def read(self, file: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return the tensors of a safetensors file on the device, in the given dtype."""
        if file in self._pinned:
            return self._uploader.send(self._pinned[file])
        if file in self._plain:
            return dict(self._plain[file])
        tensors = load_file(file)
        if not self._uploader.is_asynchronous:
            weights = self._uploader.upload(tensors, dtype)
            if self.bytes + _count_bytes(weights) <= self._room:
                self._plain[file] = weights
            return dict(weights)
        if self.bytes + self._uploader.pinned_bytes(tensors, dtype) > self._room:
            return self._uploader.upload(tensors, dtype)
        self._pinned[file] = self._uploader.stage(tensors, dtype)
        return self._uploader.send(self._pinned[file])


def _count_bytes(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in weights.values())
