"""Layout of tensors in one buffer, which travels to a device as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

_ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class BufferLayout:
    """Places of tensors in a buffer of `size` bytes: offset in bytes, dtype and shape by name."""

    places: Mapping[str, tuple[int, torch.dtype, torch.Size]]
    size: int

    @classmethod
    def of(
        cls, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None
    ) -> BufferLayout:
        """Return a layout of tensors, each at a multiple of 256 bytes.

        Args:
            tensors: tensors by name.
            dtype: their dtype in the buffer; None keeps each tensor's own.
        """
        places, offset = {}, 0
        for name, tensor in tensors.items():
            target = dtype or tensor.dtype
            places[name] = offset, target, tensor.shape
            size = tensor.numel() * target.itemsize
            offset += math.ceil(size / _ALIGNMENT) * _ALIGNMENT
        return cls(places, offset)

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors as views of a buffer, uint8 [size]."""
        return {
            name: buffer[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for name, (start, dtype, shape) in self.places.items()
        }


def upload(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Return small tensors on a device after one copy, for which the host does not wait.

    Args:
        tensors: tensors in host memory, by name.
        device: the target device; on a CPU the tensors are returned themselves.
    """
    if device.type == "cpu":
        return dict(tensors)
    layout = BufferLayout.of(tensors)
    # A copy from pageable memory would wait for the work that is queued on the device.
    host = torch.empty(layout.size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for name, view in layout.views(host).items():
        view.copy_(tensors[name])
    return layout.views(host.to(device, non_blocking=True))
