"""Byte budget of the weights on the device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.conversion.safetensors_io import WeightsError, read_header
from models.store.store import Component
from runners.device import Device
from runners.networks.depth_estimators import ESTIMATOR_KINDS

CONTEXT_BYTES = 750_000_000
"""Bytes for the CUDA context, libraries, workspaces and allocator fragmentation."""
_WORK_BYTES = 3_000_000_000
"""Assumed working memory in bytes before the measurement; 2.0 GB were measured at 1024 x 1024."""
MARGIN = 1.15
"""Factor on measured working memory, for allocator rounding and convolution workspaces."""


class VramBudget:
    """Byte budget of weights: the setting, or the GPU memory that the work does not need.

    `bytes` is None without a limit.

    Args:
        device: device of the weights.
        gigabytes: the VRAM_BUDGET_GB setting, in 1e9 bytes; None measures a GPU.
    """

    def __init__(self, device: Device, gigabytes: float | None = None) -> None:
        self._device = device.torch_device
        self._is_measured = gigabytes is None and self._device.type == "cuda"
        self.bytes = None if gigabytes is None else int(gigabytes * 1e9)
        if self._is_measured:
            self._reserve(_WORK_BYTES)
        self._allocated_before = 0

    def begin_measurement(self) -> None:
        """Start measuring the peak working memory of the warm-up images."""
        if self._is_measured:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._allocated_before = torch.cuda.memory_allocated(self._device)

    def end_measurement(self) -> None:
        """Reserve the measured peak, so that weights get the remaining memory."""
        if self._is_measured:
            peak = torch.cuda.max_memory_allocated(self._device)
            self._reserve(int((peak - self._allocated_before) * MARGIN))

    def _reserve(self, work: int) -> None:
        _, total = torch.cuda.mem_get_info(self._device)
        self.bytes = max(0, total - CONTEXT_BYTES - work)


def device_bytes(device: Device, component: Component) -> int:
    """Return the bytes of a component's weights in their dtype on the device; 0 for a tokenizer."""
    dtype = torch.float32 if component.kind in ESTIMATOR_KINDS else device.dtype
    elements = sum(_count_elements(file) for file in component.path.glob("*.safetensors"))
    return elements * dtype.itemsize


def device_file_bytes(device: Device, file: Path) -> int:
    """Return the bytes of a weight file's tensors in the device's dtype; 0 if damaged."""
    return _count_elements(file) * device.dtype.itemsize


def _count_elements(file: Path) -> int:
    """Return the number of elements in a weight file; 0 if damaged, as its load reports that."""
    try:
        return sum(math.prod(span.shape) for span in read_header(file).values())
    except WeightsError:
        return 0


def parameter_bytes(component: Any) -> int:
    """Return the bytes of a network's parameters and buffers; 0 for a tokenizer."""
    if not isinstance(component, nn.Module):
        return 0
    return sum(tensor.nbytes for tensor in (*component.parameters(), *component.buffers()))
